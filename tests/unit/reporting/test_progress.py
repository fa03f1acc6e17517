"""Progress: few plain lines in a log, one rewritten line on a terminal; rate and time left from a set clock."""

from __future__ import annotations

import io

import pytest

from throughline.reporting.progress import Progress


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(
    seconds_each: float, steps: int, total: int | None, stream: io.StringIO | None = None, **more: float
) -> list[str]:
    clock, stream = Clock(), stream or io.StringIO()
    with Progress("train", total, "steps", stream=stream, clock=clock, **more) as progress:
        for step in range(1, steps + 1):
            clock.now += seconds_each
            progress.update(step + int(more.get("initial", 0)), loss=1 / step)
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_every_ten_seconds() -> None:
    lines = run(0.5, 100, 100)
    assert len(lines) == 5
    assert lines[0] == "train  20 %  20/100 steps  2.00 steps/s  ETA 40 s  loss 0.0500"
    assert lines[-1] == "train  done in 50.0 s  100/100 steps  loss 0.0100"


def test_a_short_step_gets_one_line() -> None:
    assert len(run(0.001, 1000, 1000)) == 1


def test_a_run_of_days_gets_rarer_lines() -> None:
    assert len(run(30.0, 2 * 86400 // 30, 10**9)) < 300


def test_without_a_total_there_is_neither_share_nor_time_left() -> None:
    lines = run(16.0, 3, None)
    assert lines[1] == "train  2 steps  3.75 steps/min  loss 0.500"
    assert not any("%" in line or "ETA" in line for line in lines)


def test_a_resumed_run_counts_only_its_own_steps_in_the_rate() -> None:
    lines = run(1.0, 20, 100, initial=50)
    assert lines[0] == "train  60 %  60/100 steps  1.00 steps/s  ETA 40 s  loss 0.100"


def test_the_rate_follows_a_change_of_speed() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("copy", 10_000, "files", stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 1
            progress.update(step)
        for step in range(1, 121):
            clock.now += 1
            progress.update(100 + 10 * step)
        assert "10.0 files/s" in progress.text()


def test_bytes_are_shown_as_bytes() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("copy", 4 * 2**20, "B", stream=stream, clock=clock) as progress:
        for half in (1, 2):
            clock.now += 10
            progress.update(half * 2**20)
    assert stream.getvalue().splitlines()[1] == "copy  50 %  2.00 MiB/4.00 MiB  102 KiB/s  ETA 20 s"


def test_a_share_in_percent_is_said_once() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("build int8", 100, "%", stream=stream, clock=clock) as progress:
        clock.now += 20
        progress.update(50, phase="compress")
    assert stream.getvalue() == "build int8  50 %  phase compress\nbuild int8  done in 20.0 s  phase compress\n"


def test_a_failure_says_where_it_stopped() -> None:
    clock, stream = Clock(), io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress("train", 10, "steps", stream=stream, clock=clock) as progress:
        clock.now += 0.5
        progress.update(4)
        raise KeyboardInterrupt
    assert stream.getvalue() == "train  stopped after 500 ms  4/10 steps\n"


def test_a_log_has_no_control_characters() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("a\rb", 2, stream=stream, clock=clock) as progress:
        clock.now += 20
        progress.update(1, note="x\x1b[2K")
    assert not {"\r", "\x1b"} & set(stream.getvalue())


def test_a_terminal_gets_one_rewritten_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    lines = run(0.2, 10, 10, stream)
    text = stream.getvalue()
    assert "\x1b[2K" in text and "━" in text and "10/10 steps" in text
    assert text.rstrip().endswith("train  done in 2.00 s  10/10 steps  loss 0.100")
    assert len(lines) < 40 and text.count("\n") <= 2


def test_a_terminal_without_colour_still_gets_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    run(0.2, 10, 10, stream)
    assert "\x1b[3" not in stream.getvalue() and "\x1b[9" not in stream.getvalue()
    assert "━" in stream.getvalue()


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    assert len(run(0.5, 100, 100, stream)) == 5
    assert "\x1b" not in stream.getvalue()
