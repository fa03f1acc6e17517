"""A recipe prints its own lines; what libraries print is in a log that is named at the end and on failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import os, sys
from recipes import app, deploy

def work(config):
    os.write(2, b"foreign noise\\n")
    app.echo("ours")
    {end}

sys.exit(app.run("deploy", "", deploy.Config, work))
"""


def run(tmp_path: Path, *arguments: str, end: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "THROUGHLINE_HOME": str(tmp_path / "artifacts"),
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
    }
    command = [sys.executable, "-c", SCRIPT.format(end=end), *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def logs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "artifacts" / "logs").glob("*-deploy.log"))


def test_noise_goes_to_a_log_that_is_named(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (log,) = logs(tmp_path)
    assert done.stdout == f"ours\nlog      {log}\n"
    assert log.read_text() == "foreign noise\n"


def test_a_fault_shows_the_log_s_end_and_its_own_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, end="raise RuntimeError('broken')")
    assert done.returncode == 1
    assert "foreign noise" in done.stderr
    assert done.stderr.rstrip().endswith("RuntimeError: broken")
    assert "Error executing job" not in done.stderr
    assert str(logs(tmp_path)[0]) in done.stdout


def test_a_user_error_is_one_line(tmp_path: Path) -> None:
    done = run(
        tmp_path, end="from throughline.contracts.errors import DataError; raise DataError('bad', fix='mend it')"
    )
    assert done.returncode == 2
    assert done.stderr == "DataError: bad — mend it\n"


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ("OSError(28, 'No space left on device')", "the disk is full — {home} — seen: No space left on device"),
        ("OSError(122, 'Quota', '/data/x')", "the disk quota is used up — /data/x — seen: Quota"),
        ("OSError(28, 'Full', '/from', None, b'/to')", "the disk is full — /to — seen: Full"),
        ("OSError(30, 'Read-only', '/data/x')", "the disk is read-only — /data/x — seen: Read-only"),
        ("OSError(27, 'Too large', '/data/x')", "the disk takes no file of this size — /data/x"),
        ("OSError(5, 'I/O error')", "the disk fails — {home} — seen: I/O error"),
        ("PermissionError(13, 'Denied', '/data/x')", "permission denied — /data/x — seen: Denied"),
    ],
)
def test_a_disk_that_refuses_is_one_line(raised: str, line: str, tmp_path: Path) -> None:
    done = run(tmp_path, end=f"raise {raised}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"StorageError: {line.format(home=tmp_path / 'artifacts')}")
    assert len(done.stderr.splitlines()) == 1


def test_what_no_disk_refuses_keeps_its_traceback(tmp_path: Path) -> None:
    for raised in ("PermissionError(13, 'a port of another user')", "ConnectionRefusedError(111, 'refused')"):
        done = run(tmp_path, end=f"raise {raised}")
        assert done.returncode == 1
        assert "Traceback" in done.stderr


def test_without_room_for_a_temporary_file(tmp_path: Path) -> None:
    nowhere = "import tempfile; tempfile.tempdir = '/nowhere'"
    command = [sys.executable, "-c", nowhere + SCRIPT.format(end="")]
    environment = os.environ | {"THROUGHLINE_HOME": str(tmp_path / "artifacts"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("StorageError: no disk takes a temporary file — TMPDIR")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_is_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, end="raise KeyboardInterrupt")
    assert done.returncode == 130
    assert done.stderr.strip().startswith("stopped; what was finished is kept")


def test_all_is_shown_where_that_is_wanted(tmp_path: Path) -> None:
    for wish in ("log.foreign=console", "log.level=DEBUG"):
        done = run(tmp_path, wish)
        assert done.stderr == "foreign noise\n"
        assert not logs(tmp_path)


def test_a_sweep_has_one_log(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "seed=1,2")
    assert (done.returncode, done.stderr) == (0, "")
    (log,) = logs(tmp_path)
    assert done.stdout == f"ours\nours\nlog      {log}\n"
    assert log.read_text().count("foreign noise\n") == 2
