"""A recipe prints its own lines; what libraries print is in a log that is named at the end and on failure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
