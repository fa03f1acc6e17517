"""`recipes.tune` on a real engine as a user runs it: killed in the middle, gone on with, and checked afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes import app, build
from throughline.artifacts import Artifact

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "name": "tiny",
    "dimensions": [
        {"key": "engine.max_num_tokens", "kind": "ordered", "values": [8, 64, 128]},
        {"key": "engine.max_batch_size", "kind": "ordered", "values": [1, 4]},
    ],
}


@pytest.fixture
def tiny(tmp_path: Path, tiny_checkpoint: Path) -> Artifact:
    """The tiny model's engine in a store of its own."""
    settings = ["quant=f32", "engine.max_seq_len=256", "engine.kv_cache_bytes=8388608", "engine.max_batch_size=4"]
    composed = app.compose("build", [f"paths.home={tmp_path}", f"checkpoint={tiny_checkpoint}", *settings])
    return build.make(app.to_schema(composed, build.Config))


def command(home: Path, engine: Artifact, *more: str) -> list[str]:
    space = json.dumps(SPACE).replace('"', "")
    workload = "{input_tokens: 60, output_tokens: 4, longest_input_tokens: 80, longest_output_tokens: 8}"
    return [
        *(sys.executable, "-m", "recipes.tune", f"paths.home={home}", f"presets={home / 'tuned'}", "name=tiny"),
        *(f"target={engine.digest}", f"space={space}", f"workload={workload}", "workload.arrivals.users=4"),
        *("workload.shared_prefix_tokens=0", "workload.input_cv=0", "workload.output_cv=0"),
        *("slo={ttft_seconds: 30, percentile: 90}", "regate=false", "noise_probes=3", "study.probe_seconds=1"),
        *("study.probes=3", "race.rounds=1", "race.seconds=1", "race.finalists=1", *more),
    ]


def test_killed_gone_on_with_and_checked(tmp_path: Path, tiny: Artifact) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        command(tmp_path, tiny), cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("probe"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate()
    assert lines[-1].startswith("probe"), "".join(lines)[-3000:]

    done = subprocess.run(
        command(tmp_path, tiny), cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "goes on  1 probes" in done.stdout and done.stdout.count("\nprobe ") == 2
    (page,) = (tmp_path / "tuning").glob("*/report.html")
    assert page.read_text(encoding="utf-8").count("<details") == 3
    # Whether one is faster is the machine's affair: a tie writes no preset.
    preset = tmp_path / "tuned" / "tiny.yaml"
    if preset.is_file():
        found = yaml.safe_load(preset.read_text())
        assert found["evidence"]["digests"]["incumbent"] == tiny.digest
