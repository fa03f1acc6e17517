"""The border between our lines and the libraries': every way to print is caught, and nothing of it is lost."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from throughline.reporting import console

SCRIPT = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
early = logging.StreamHandler()          # keeps today's sys.stderr, as libraries do at import
sys.stdout.write("ours before\\n")
from throughline.reporting import console
capture = console.Capture()
capture.start()
print("foreign print")
capture.move_to(Path(sys.argv[1]))
os.write(1, b"foreign raw 1\\n"); os.write(2, b"foreign raw 2\\n")
subprocess.run([sys.executable, "-c", "import sys; print('foreign child'); print('foreign child', file=sys.stderr)"])
logging.getLogger("foreign").addHandler(early)
logging.getLogger("foreign").warning("foreign log")
warnings.warn("foreign warning")
console.echo("ours on stdout")
console.complain("ours on stderr")
sys.stdout.write("foreign without newline")
"""


def script(log: Path, end: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT + end, str(log)], capture_output=True, text=True)


def check(done: subprocess.CompletedProcess[str], log: Path) -> None:
    assert done.stdout == "ours before\nours on stdout\n"
    assert done.stderr == "ours on stderr\n"
    text = log.read_text()
    for part in ("print", "raw 1", "raw 2", "child", "log", "warning", "without newline"):
        assert f"foreign {part}" in text
    assert text.count("foreign child") == 2
    assert "ours" not in text


def test_only_ours_reaches_the_person(tmp_path: Path) -> None:
    check(script(tmp_path / "logs" / "run.log"), tmp_path / "logs" / "run.log")


def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    done = script(tmp_path / "run.log", "os.kill(os.getpid(), 9)")
    assert done.returncode == -signal.SIGKILL
    check(done, tmp_path / "run.log")


def test_replayed_everything_comes_out(tmp_path: Path) -> None:
    done = script(tmp_path / "run.log", "capture.stop(replay=True); print('after')")
    assert "ours on stdout" in done.stdout and done.stdout.endswith("after\n")
    assert "foreign raw 1" in done.stderr and "foreign child" in done.stderr


def test_streams_that_are_no_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with console.Capture() as capture:
        capture.move_to(tmp_path / "run.log")
        print("foreign")
        console.echo("ours")
        console.complain("ours too")
        assert not capture.empty
        assert capture.tail(1) == "foreign"
    print("after")
    assert (out.getvalue(), err.getvalue()) == ("ours\nafter\n", "ours too\n")
    assert (tmp_path / "run.log").read_text() == "foreign\n"
    assert console.capture() is None


def test_an_empty_log_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with console.Capture() as capture:
        capture.move_to(tmp_path / "run.log")
        console.echo("ours")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == "ours\n"


def test_a_later_rank_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.Capture(silent=True):
        console.echo("of rank 1")
        console.complain("an error of rank 1")
    assert capsys.readouterr() == ("", "an error of rank 1\n")


def test_lines_go_through_what_stands_on_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    class Board:
        def note(self, line: str) -> None:
            seen.append(line)

        def advance(self, label: str, share: float | None, text: str) -> None:
            pass

    with console.showing(Board()):
        console.echo("above")
    console.echo("below")
    assert seen == ["above"]
    assert capsys.readouterr().out == "below\n"
