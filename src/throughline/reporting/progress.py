"""Progress of a long step: one rewritten line on a terminal, a few plain lines in a log; rich counts and paces."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from throughline.reporting import console as person
from throughline.reporting import format as fmt
from throughline.reporting.terminal import make_console

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import ProgressColumn, Task

# A log gets a line at most this often; from five minutes on a line each thirtieth of the time so far, since a run
# of days must not fill it.
LINE_SECONDS = 10.0
_LINE_ELAPSED_SHARE = 1 / 30
_RATE_WINDOW_SECONDS = 90.0


class Progress:
    """Shows how far a step is; a context manager.

    On a terminal one line is rewritten: bar, share, count, rate, time left and the latest values. Elsewhere a
    line is printed at most every ten seconds, without carriage returns. Inside a table of stages it shows
    there. Leaving the context prints how long it took, or where it stopped.

    Args:
        label: What is going on, e.g. `train`.
        total: Units in all; None if unknown.
        unit: Plural name of a unit, e.g. `steps`; `B` counts bytes.
        initial: Units that an earlier run had done; they do not count in the rate.
        stream: Where to print; the person's standard error if None.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        label: str,
        total: float | None = None,
        unit: str = "",
        *,
        initial: float = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        from rich.progress import Progress as RichProgress

        self.label = fmt.clean(label)
        self._clock = clock
        self._stream = stream or person.err()
        self._display = person.display() if stream is None else None
        self._started = self._line_at = clock()
        self._live = self._display is None and not person.silent() and on_terminal(self._stream)
        self._rich: RichProgress = RichProgress(
            *_columns(),
            console=make_console(self._stream),
            refresh_per_second=5,
            speed_estimate_period=_RATE_WINDOW_SECONDS,
            transient=True,
            get_time=clock,
            disable=not self._live,
        )
        self._id = self._rich.add_task(self.label, total=total, completed=int(initial), unit=unit, values="")

    def __enter__(self) -> Self:
        self._started = self._line_at = self._clock()
        self._rich.reset(self._id, completed=int(self._task.completed))
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()
        if self._display is not None or person.silent():
            return
        took = fmt.seconds(self._clock() - self._started)
        self._print([f"stopped after {took}" if kind else f"done in {took}", count(self._task), self._values])

    def update(self, done: float, **values: object) -> None:
        """Notes that `done` units are done in all; `values` are shown beside, e.g. `loss=0.41`."""
        self._rich.update(self._id, completed=done, values=_show(values) or self._values)
        if self._display is not None:
            parts = [count(self._task), rate(self._task), self._values]
            self._display.advance(self.label, share(self._task), "  ".join(filter(None, parts)))
        elif not self._live and not person.silent():
            now = self._clock()
            if not self._task.finished and now - self._line_at >= max(
                LINE_SECONDS, (now - self._started) * _LINE_ELAPSED_SHARE
            ):
                self._line_at = now
                self._print([self.text()])

    def text(self) -> str:
        """What a line says: `40 %  160/400 steps  12.3 steps/s  ETA 20 s  loss 0.410`."""
        task = self._task
        found = share(task)
        left = task.time_remaining
        parts = [
            f"{int(found * 100)} %" if found is not None else "",
            count(task),
            rate(task),
            f"ETA {fmt.eta(left)}" if left is not None else "",
            self._values,
        ]
        return "  ".join(part for part in parts if part)

    @property
    def _task(self) -> Task:
        return self._rich.tasks[0]

    @property
    def _values(self) -> str:
        return str(self._task.fields["values"])

    def _print(self, parts: list[str]) -> None:
        person.write(self._stream, "  ".join([self.label, *filter(None, parts)]) + "\n")


def on_terminal(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}


def share(task: Task) -> float | None:
    """Returns the fraction done, 0 to 1; None without a total."""
    return min(1.0, max(0.0, task.completed / task.total)) if task.total else None


def count(task: Task) -> str:
    """Returns units done of those in all: `160/400 steps`."""
    unit = task.fields["unit"]
    if unit == "%":
        return ""
    show = fmt.bytes_ if unit == "B" else _whole
    text = show(task.completed) + (f"/{show(task.total)}" if task.total else "")
    return text if unit == "B" else f"{text} {unit}".rstrip()


def rate(task: Task) -> str:
    """Returns the speed: `12.3 steps/s`, by the minute where that reads better, empty while unknown."""
    unit, speed = task.fields["unit"], task.speed
    if not speed or unit == "%":
        return ""
    if unit == "B":
        return f"{fmt.bytes_(speed)}/s"
    each = f" {unit}" if unit else ""
    return f"{fmt.number(speed)}{each}/s" if speed >= 0.1 else f"{fmt.number(speed * 60)}{each}/min"


def _columns() -> list[ProgressColumn]:
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Counts(ProgressColumn):
        """Count and rate in our units."""

        def render(self, task: Task) -> Text:
            return Text("  ".join(filter(None, [count(task), rate(task)])))

    one_line = Column(no_wrap=True, overflow="ellipsis")
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(markup=False),
        Counts(table_column=one_line),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[values]}", markup=False, table_column=one_line),
    ]


def _show(values: dict[str, object]) -> str:
    return "  ".join(
        f"{name} {fmt.number(value) if isinstance(value, (int, float)) else fmt.clean(str(value))}"
        for name, value in values.items()
    )


def _whole(x: float) -> str:
    return fmt.number(int(x)) if float(x).is_integer() else fmt.number(x)
