"""The whole line in small: killed in several stages it completes, and a second run finds everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from throughline.artifacts import ArtifactStore

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
SMALL = ('stages.train=["trainer.max_steps=6","trainer.probe_size=4"]', "precisions=[bf16,int8]")


def command(home: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "recipes.lifecycle", "debug=fast"),
        *(f"paths.home={home / 'artifacts'}", f"paths.model_repository={home / 'model_repository'}"),
        *SMALL,
    ]


def start(home: Path) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != "THROUGHLINE_HOME"}
    return subprocess.Popen(
        command(home),
        cwd=ROOT,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


def kill_at(home: Path, mark: str) -> None:
    """Starts a run and kills it with SIGKILL when a line contains `mark`."""
    process = start(home)
    seen = []
    for line in lines(process):
        seen.append(line)
        if mark in line:
            break
    else:
        pytest.fail(f"'{mark}' never came:\n{''.join(seen)[-3000:]}")
    process.send_signal(signal.SIGKILL)
    process.communicate()


def finish(home: Path) -> str:
    process = start(home)
    text, _ = process.communicate()
    assert process.returncode == 0, text[-4000:]
    return text


def test_killed_runs_complete_and_the_second_finds_everything(tmp_path: Path) -> None:
    for mark in ("── data", "── train", "── evaluate", "── bench"):
        kill_at(tmp_path, mark)
        for artifact in ArtifactStore(tmp_path / "artifacts").all():
            artifact.verify()
    finish(tmp_path)
    store = ArtifactStore(tmp_path / "artifacts")
    for artifact in store.all():
        artifact.verify()
    staging = store.home / ".staging"
    assert [path.name for path in staging.iterdir() if path.is_dir()] == []

    folder = store.home / "lifecycle"
    report = json.loads((folder / "report.json").read_text())
    page = (folder / "report.html").read_text()
    assert set(report["quality"]) == {"base", "tuned", "bf16", "int8"}
    for metrics in report["quality"].values():
        for name in (
            "triage_exact_match",
            "json_validity",
            "refusal_accuracy",
            "false_refusal_rate",
            "citation_validity",
        ):
            found = metrics[name]
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
            assert found["n"] > 0
    for target in ("raw", "triton", "gateway"):
        for users in ("1", "8"):
            cell = report["serving"][target][users]
            assert cell["tokens_per_second"] > 0
            assert 0 < cell["ttft_p50"] <= cell["ttft_p99"]
            # Tokens of a busy engine can arrive together, so a gap between them may be 0.
            assert 0 <= cell["itl_p50"] < cell["e2e_p50"]
    assert all(stage["seconds"] >= 0 for stage in report["stages"].values())
    assert report["promoted"] in {"bf16", "int8"}
    engine = store.get(report["decision"]["engine_digest"], "engine")
    assert [item["kind"] for item in report["lineage"]] == ["dataset", "adapter", "checkpoint", "engine"]
    assert {item.manifest.kind for item in store.ancestors(engine)} == {"dataset", "adapter", "checkpoint"}
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<svg" in page

    before = {artifact.digest for artifact in store.all()}
    text = finish(tmp_path)
    assert {artifact.digest for artifact in store.all()} == before
    assert "   made " not in text
