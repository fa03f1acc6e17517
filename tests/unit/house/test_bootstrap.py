"""Set-up prints a line a step; what the installers print is in a log, whose end is shown when one fails."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from throughline import bootstrap


@pytest.fixture
def installers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[list[str]]]:
    """Replaces the installers by ones that print noise and exit with a code; returns the commands they got."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("")
    monkeypatch.setattr(sys, "argv", ["bootstrap", "--venv", str(tmp_path), "--torch", "cpu"])
    monkeypatch.setattr(bootstrap, "pip_offers_cpu_torch", lambda *_: True)
    run = subprocess.run

    def replace(code: int) -> list[list[str]]:
        seen: list[list[str]] = []

        def noisy(command: Any, **options: Any) -> Any:
            seen.append(list(command))
            script = f"import sys; print('WARNING: Location'); print('noise', file=sys.stderr); sys.exit({code})"
            return run([sys.executable, "-c", script], **options)

        monkeypatch.setattr(subprocess, "run", noisy)
        return seen

    return replace


def test_one_line_a_step_and_none_of_pip(
    installers: Callable[[int], list[list[str]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = installers(0)
    assert bootstrap.main() == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "WARNING" not in out and "noise" not in out
    assert [line.split(" … ")[0] for line in out.splitlines()[1:-1]] == [
        f"  torch {bootstrap.locked('torch')}, cpu build",
        f"  {len(bootstrap.pins()) - 1} locked packages",
        "  this package",
    ]
    assert (tmp_path / bootstrap.LOG).read_text().count("WARNING: Location") == 3
    assert sum("--require-hashes" in command for command in commands) == 1
    assert json.loads((tmp_path / bootstrap.STAMP).read_text())["torch"] == "cpu"
    assert bootstrap.main() == 0
    assert capfd.readouterr().out == ""


def test_a_failure_shows_the_log_s_end(
    installers: Callable[[int], list[list[str]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    installers(1)
    assert bootstrap.main() == 1
    err = capfd.readouterr().err
    assert "noise" in err and str(tmp_path / bootstrap.LOG) in err
    assert not (tmp_path / bootstrap.STAMP).exists()


def test_two_calls_at_once_set_up_once(
    installers: Callable[[int], list[list[str]]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two `make` calls wrote into one environment at the same time."""
    commands = installers(0)
    with bootstrap.alone(tmp_path):
        second = threading.Thread(target=bootstrap.main)
        second.start()
        waiting = ""
        while "waiting for it" not in waiting and second.is_alive():
            waiting += capfd.readouterr().out
        assert commands == []
        key = bootstrap.key_of("cpu")
        (tmp_path / bootstrap.STAMP).write_text(json.dumps({"key": key, "torch": "cpu"}))
    second.join(timeout=30)
    assert not second.is_alive()
    # The first one has done it.
    assert commands == []
    assert "setting up" not in capfd.readouterr().out
