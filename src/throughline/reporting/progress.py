"""Progress of a long step: one rewritten line on a terminal, a few plain lines in a log."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from throughline.reporting import format as fmt

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

Clock = Callable[[], float]

_LINE_SHARE = 0.1
_LINE_SECONDS = 15.0
# Steps that last under a second get no lines between start and end.
_LINE_MIN_SECONDS = 1.0
# A run of days must not fill its log: from five minutes on, a line each twentieth of the time so far.
_LINE_ELAPSED_SHARE = 1 / 20
_RATE_WINDOW_SECONDS = 60.0


class Pace:
    """Rate over the last minute, and the time that the rest will take at it.

    Args:
        total: Units in all, None if unknown.
        initial: Units that were done before the start.
        clock: Monotonic seconds.
    """

    def __init__(self, total: float | None, initial: float, clock: Clock) -> None:
        self.total = total
        self.done = initial
        self._clock = clock
        self.start = clock()
        self._samples: deque[tuple[float, float]] = deque([(self.start, initial)])

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self.start

    @property
    def share(self) -> float | None:
        """Fraction done, 0 to 1; None without a total."""
        return min(1.0, max(0.0, self.done / self.total)) if self.total else None

    @property
    def rate(self) -> float | None:
        """Units per second; None before the first ones."""
        (then, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - then) if now > then and done > before else None

    @property
    def remaining(self) -> float | None:
        """Seconds until all is done; None if that cannot be told."""
        if self.total is None or self.rate is None:
            return None
        return max(0.0, self.total - self.done) / self.rate

    def update(self, done: float) -> None:
        """Notes how many units are done now."""
        now = self._clock()
        self.done = done
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _RATE_WINDOW_SECONDS:
            self._samples.popleft()


class Progress:
    """Shows how far a step is; a context manager.

    On a terminal one line is rewritten: bar, share, count, rate, time left and the latest values. Elsewhere a
    line is printed when a tenth more is done or 15 s have passed, never more than one a second, and without
    carriage returns. Leaving the context prints how long it took, or where it stopped.

    Args:
        label: What is going on, e.g. `train`.
        total: Units in all; None if unknown.
        unit: Plural name of a unit, e.g. `steps`; `B` counts bytes.
        initial: Units that an earlier run had done.
        stream: Where to print; standard error if None.
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
        clock: Clock = time.monotonic,
    ) -> None:
        self.label = fmt.clean(label)
        self.unit = unit
        self._stream = stream or sys.stderr
        self._clock = clock
        self._pace = Pace(total, initial, clock)
        self._values: dict[str, object] = {}
        self._line_at = -math.inf
        self._line_share = self._pace.share or 0.0
        self._live: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._pace = Pace(self._pace.total, self._pace.done, self._clock)
        self._line_at = self._pace.start
        if self._stream.isatty() and os.environ.get("TERM", "") not in {"dumb", "unknown"}:
            self._start_live()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        took = fmt.seconds(self._pace.elapsed)
        how = f"stopped after {took}" if kind else f"done in {took}"
        self._print("  ".join(part for part in (how, self._count(), self._latest()) if part))

    def update(self, done: float, **values: object) -> None:
        """Notes that `done` units are done in all; `values` are shown beside, e.g. `loss=0.41`."""
        self._pace.update(done)
        self._values |= values
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, text=self.text())
            return
        now = self._clock()
        share = self._pace.share or 0.0
        quiet = now - self._line_at
        pause = max(_LINE_SECONDS, self._pace.elapsed * _LINE_ELAPSED_SHARE)
        further = share - self._line_share >= _LINE_SHARE - 1e-9 and share < 1
        if quiet >= pause or (further and quiet >= _LINE_MIN_SECONDS):
            self._line_at, self._line_share = now, share
            self._print(self.text())

    def text(self) -> str:
        """What is shown beside the bar: `40 %  160/400 steps  12.3 steps/s  ETA 20 s  loss 0.410`."""
        pace = self._pace
        parts = [
            f"{math.floor(pace.share * 100)} %" if pace.share is not None else "",
            self._count(),
            self._rate(),
            f"ETA {_eta(pace.remaining)}" if pace.remaining is not None else "",
            self._latest(),
        ]
        return "  ".join(part for part in parts if part)

    def _count(self) -> str:
        pace = self._pace
        if self.unit == "B":
            return fmt.bytes_(pace.done) + (f"/{fmt.bytes_(pace.total)}" if pace.total else "")
        counts = _whole(pace.done) + (f"/{_whole(pace.total)}" if pace.total else "")
        return f"{counts} {self.unit}".rstrip()

    def _rate(self) -> str:
        rate = self._pace.rate
        if rate is None:
            return ""
        if self.unit == "B":
            return f"{fmt.bytes_(rate)}/s"
        each = f" {self.unit}" if self.unit else ""
        return f"{fmt.number(rate)}{each}/s" if rate >= 0.1 else f"{fmt.number(rate * 60)}{each}/min"

    def _latest(self) -> str:
        return "  ".join(
            f"{name} {fmt.number(value) if isinstance(value, (int, float)) else fmt.clean(str(value))}"
            for name, value in self._values.items()
        )

    def _print(self, text: str) -> None:
        line = f"{self.label}  {text}\n"
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(line.encode(encoding, "replace").decode(encoding))
        self._stream.flush()

    def _start_live(self) -> None:
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress
        from rich.table import Column

        from throughline.reporting.terminal import make_console

        one_line = Column(no_wrap=True, overflow="ellipsis")
        self._live = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False, table_column=one_line),
            console=make_console(self._stream),
            refresh_per_second=5,
            transient=True,
        )
        self._task = self._live.add_task(
            self.label, total=self._pace.total, completed=int(self._pace.done), text=self.text()
        )
        self._live.start()


def _eta(x: float) -> str:
    """Whole seconds: an estimate has no decimals to show."""
    whole = max(1, round(x)) if x > 0 else 0
    return fmt.seconds(whole) if whole >= 60 else f"{whole} s"


def _whole(x: float) -> str:
    return fmt.number(int(x)) if float(x).is_integer() else fmt.number(x)
