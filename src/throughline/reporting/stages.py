"""A run of many stages: a table that fills on a terminal, a few lines in a log, and when all will be done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TextIO

from throughline.reporting import console as person
from throughline.reporting import format as fmt
from throughline.reporting.progress import LINE_SECONDS, on_terminal
from throughline.reporting.terminal import make_console

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

State = Literal["waiting", "running", "made", "found", "stopped", "skipped"]
# From this share on the running stage's own pace alone says how long its rest takes.
_TRUSTED_SHARE = 0.2
# Finished stages correct the expectation of the rest; a machine is not ten times another one.
_SLOWEST, _FASTEST = 10.0, 0.1


@dataclass
class Row:
    """One stage. `expected` and `seconds` are wall seconds; `text` is what stands beside the state.

    Whoever runs the stage sets `found` if nothing had to be made.
    """

    name: str
    expected: float
    state: State = "waiting"
    seconds: float = 0.0
    found: bool = False
    part: int = 0
    parts: int = 1
    inner: float | None = None
    text: str = ""

    @property
    def share(self) -> float | None:
        """Fraction done, 0 to 1; None if the stage does not say."""
        if self.inner is None and self.parts == 1:
            return None
        return min(1.0, (self.part + (self.inner or 0.0)) / self.parts)

    def remaining(self, elapsed: float, scale: float) -> float:
        """Seconds that the rest of the running stage takes, by expectation at first and then by its own pace."""
        expected = self.expected * scale
        done = self.share
        if not done:
            return max(expected - elapsed, 0.1 * elapsed)
        by_pace = elapsed * (1 - done) / done
        trust = min(1.0, done / _TRUSTED_SHARE)
        return trust * by_pace + (1 - trust) * (1 - done) * expected


class StageTable:
    """Shows the stages of a run; a context manager, and the display that lines and progress go through.

    Args:
        expected: Stage → seconds that it is expected to take, in order.
        stream: Where to show it; the person's standard output if None.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        expected: Mapping[str, float],
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows = {name: Row(fmt.clean(name), seconds) for name, seconds in expected.items()}
        self._stream = stream or person.out()
        self._clock = clock
        self._started = self._stage_started = self._line_at = clock()
        self._running: Row | None = None
        self._live: Live | None = None
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._started = self._clock()
        if on_terminal(self._stream) and not person.silent():
            from rich.live import Live

            self._live = Live(
                get_renderable=self._render,
                console=make_console(self._stream),
                # Training needs the cores; a second is soon enough.
                refresh_per_second=1,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._resources.enter_context(self._live)
        self._resources.enter_context(person.showing(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Row]:
        """Runs a stage; the block sets the row's `found` and `text`."""
        row = self.rows.setdefault(name, Row(fmt.clean(name), 0.0))
        row.state, self._running = "running", row
        self._stage_started = self._line_at = self._clock()
        self._line(f"running{self._all()}")
        end: State = "stopped"
        try:
            yield row
            end = "found" if row.found else "made"
        finally:
            row.state, row.seconds, self._running = end, self._clock() - self._stage_started, None
            took = {"made": " in ", "stopped": " after "}.get(end)
            how = f"{end}{took}{fmt.seconds(row.seconds)}" if took else end
            self._line(f"{how}  {row.text}".rstrip(), row)
            self._refresh()

    def skip(self, *names: str, why: str) -> None:
        """Notes that stages will not run."""
        for name in names:
            row = self.rows.setdefault(name, Row(fmt.clean(name), 0.0))
            row.state, row.text = "skipped", why
            self._line(f"skipped  {why}", row)
        self._refresh()

    def part(self, done: int, of: int) -> None:
        """Notes that the running stage has finished `done` of its `of` equal parts."""
        if self._running is not None:
            self._running.part, self._running.parts, self._running.inner = done, of, None
            self._refresh()

    def advance(self, label: str, share: float | None, text: str) -> None:
        """See `console.Display`."""
        row = self._running
        if row is None:
            return
        row.inner = share
        row.text = "  ".join(filter(None, [label.removeprefix(row.name).strip(), text]))
        now = self._clock()
        if self._live is None and now - self._line_at >= LINE_SECONDS:
            self._line_at = now
            done = f"{int(row.share * 100)} %  " if row.share is not None else ""
            self._line(f"{done}{row.text}{self._all()}")

    def note(self, line: str) -> None:
        """See `console.Display`."""
        if self._live is not None:
            self._live.console.print(fmt.clean(line), soft_wrap=True)
        elif not person.silent():
            person.write(self._stream, f"{line}\n")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    def remaining(self) -> float | None:
        """Seconds until the last stage ends; None where nothing was expected."""
        if not any(row.expected for row in self.rows.values()):
            return None
        scale = self._scale()
        waiting = sum(row.expected * scale for row in self.rows.values() if row.state == "waiting")
        running = self._running
        rest = running.remaining(self._clock() - self._stage_started, scale) if running is not None else 0.0
        return waiting + rest

    def _scale(self) -> float:
        """How much slower than expected the finished stages were; what they say counts by their length."""
        made = [row for row in self.rows.values() if row.state == "made" and row.expected]
        expected = sum(row.expected for row in made)
        if not expected:
            return 1.0
        # As if a twentieth of the line had gone as expected, so that a stage of a second does not decide.
        prior = 0.05 * sum(row.expected for row in self.rows.values())
        ratio = (sum(row.seconds for row in made) + prior) / (expected + prior)
        return min(_SLOWEST, max(_FASTEST, ratio))

    def _all(self) -> str:
        left = self.remaining()
        return f"  ETA of all {fmt.eta(left)}" if left is not None else ""

    def _line(self, text: str, row: Row | None = None) -> None:
        row = row or self._running
        if self._live is None and row is not None and not person.silent():
            names = list(self.rows.values())
            place = f"{names.index(row) + 1}/{len(names)}"
            width = max(len(each.name) for each in names)
            person.write(self._stream, f"{place}  {row.name:<{width}}  {text}\n")

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.refresh()

    def _render(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.Box("    \n    \n ── \n    \n    \n ── \n    \n    \n"), pad_edge=False, show_edge=False)
        left = self.remaining()
        total = f"{fmt.eta(left)} to go" if left is not None and self._running is not None else ""
        table.add_column("stage", footer="all", no_wrap=True)
        table.add_column("state", footer=total, no_wrap=True, min_width=12)
        table.add_column("time", footer=fmt.eta(self.elapsed), justify="right", no_wrap=True)
        table.add_column("expected", justify="right", no_wrap=True, style="dim")
        table.add_column("", no_wrap=True, overflow="ellipsis", style="dim")
        table.show_footer = True
        scale = self._scale()
        for row in self.rows.values():
            running = row is self._running
            state, style = _STYLES[row.state]
            if running and row.share is not None:
                state = f"{state} {int(row.share * 100)} %"
            seconds = self._clock() - self._stage_started if running else row.seconds
            over = row.state not in ("waiting", "running")
            table.add_row(
                row.name,
                Text(state, style=style),
                fmt.eta(seconds) if running or over else "",
                "" if over or not row.expected else fmt.eta(row.expected * scale),
                Text(fmt.clean(row.text)),
            )
        return table


_STYLES: Mapping[State, tuple[str, str]] = {
    "waiting": ("· waiting", "dim"),
    "running": ("▸ running", "bold cyan"),
    "made": ("✓ made", "green"),
    "found": ("✓ found", "green"),
    "stopped": ("✕ stopped", "bold red"),
    "skipped": ("– skipped", "yellow"),
}
