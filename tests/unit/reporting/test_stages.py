"""The table of stages: lines in a log, a table on a terminal, and an estimate that learns; from a set clock."""

from __future__ import annotations

import io

import pytest

from throughline.reporting import console
from throughline.reporting.progress import Progress
from throughline.reporting.stages import StageTable


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_log_gets_a_line_at_start_and_end_of_a_stage(clock: Clock) -> None:
    stream = io.StringIO()
    with StageTable({"data": 10.0, "train": 90.0}, stream=stream, clock=clock) as table:
        with table.stage("data") as row:
            clock.now += 10
            row.found = True
            row.text = "dataset a1"
        with table.stage("train") as row:
            clock.now += 90
            row.text = "adapter b2"
    assert stream.getvalue().splitlines() == [
        "1/2  data   running  ETA of all 1 min 40 s",
        "1/2  data   found  dataset a1",
        "2/2  train  running  ETA of all 1 min 30 s",
        "2/2  train  made in 1 min 30 s  adapter b2",
    ]


def test_progress_inside_a_stage_shows_in_it_at_most_every_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with StageTable({"train": 100.0}, stream=stream, clock=clock) as table, table.stage("train"):
        with Progress("train", 100, "steps", clock=clock) as progress:
            for step in range(1, 26):
                clock.now += 1
                progress.update(step, loss=0.5)
        console.echo("going on from step 3")
    lines = stream.getvalue().splitlines()
    assert lines[1] == "1/1  train  10 %  10/100 steps  1.00 steps/s  loss 0.500  ETA of all 1 min 30 s"
    assert lines[2].startswith("1/1  train  20 %")
    assert lines[3] == "going on from step 3"
    assert len(lines) == 5


def test_finished_stages_correct_what_the_rest_is_expected_to_take(clock: Clock) -> None:
    with StageTable({"data": 100.0, "train": 300.0}, stream=io.StringIO(), clock=clock) as table:
        assert table.remaining() == 400
        with table.stage("data"):
            clock.now += 200
        left = table.remaining()
    # Twice as slow, but for the twentieth of the line that counts as having gone as expected.
    assert left == pytest.approx(300 * (200 + 20) / (100 + 20))


def test_found_stages_say_nothing_of_the_machine(clock: Clock) -> None:
    with StageTable({"data": 100.0, "train": 300.0}, stream=io.StringIO(), clock=clock) as table:
        with table.stage("data") as row:
            row.found = True
        assert table.remaining() == 300


def test_the_running_stage_s_own_pace_wins_over_the_expectation(clock: Clock) -> None:
    with StageTable({"train": 100.0}, stream=io.StringIO(), clock=clock) as table, table.stage("train"):
        clock.now += 50
        assert table.remaining() == 50
        table.advance("train", 0.25, "")
        assert table.remaining() == pytest.approx(150)
        table.part(1, 2)
        assert table.remaining() == pytest.approx(50)
        table.advance("train", 0.5, "")
        assert table.remaining() == pytest.approx(50 / 3)


def test_a_stage_that_takes_longer_than_expected_is_never_over_at_once(clock: Clock) -> None:
    with StageTable({"train": 10.0}, stream=io.StringIO(), clock=clock) as table, table.stage("train"):
        clock.now += 100
        assert (table.remaining() or 0) > 0


def test_without_expectation_there_is_no_estimate(clock: Clock) -> None:
    stream = io.StringIO()
    with StageTable({"data": 0.0}, stream=stream, clock=clock) as table, table.stage("data"):
        assert table.remaining() is None
    assert "ETA" not in stream.getvalue()


def test_a_failure_says_where_it_stopped(clock: Clock) -> None:
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        StageTable({"data": 1.0}, stream=stream, clock=clock) as table,
        table.stage("data"),
    ):
        clock.now += 3
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1] == "1/1  data  stopped after 3.00 s"
    assert console.display() is None


def test_a_terminal_keeps_the_filled_table(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with StageTable({"data": 10.0, "train": 30.0}, stream=stream, clock=clock) as table:
        with table.stage("data") as row:
            clock.now += 9
            table.advance("data", 0.34, "deduplicate")
            table.part(0, 1)
            row.text = "dataset a1"
        console.echo("a line above")
    text = stream.getvalue()
    assert "▸ running" in text and "· waiting" in text and "a line above" in text
    last = text[text.rindex("stage") :]
    assert "✓ made" in last and "dataset a1" in last and "9 s" in last


def test_skipped_stages_say_why_and_are_waited_for_no_more(clock: Clock) -> None:
    stream = io.StringIO()
    with StageTable({"decide": 1.0, "deploy": 12.0, "bench": 200.0}, stream=stream, clock=clock) as table:
        with table.stage("decide"):
            clock.now += 1
        table.skip("deploy", "bench", why="no engine passes the gate")
        assert table.remaining() == 0
    assert stream.getvalue().splitlines()[-2:] == [
        "2/3  deploy  skipped  no engine passes the gate",
        "3/3  bench   skipped  no engine passes the gate",
    ]
