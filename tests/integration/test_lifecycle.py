"""The whole line on a tiny model and a user's own records: killed in every stage it completes, then finds all.

The default model and the lab's records go through the same line in `make run ARGS="debug=fast"`, which CI runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from throughline.artifacts import ArtifactStore, Promotions, promoted_lines

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]
# Stage → the kind of artifact that it makes.
KINDS = {
    "convert": "checkpoint",
    "data": "dataset",
    "train": "adapter",
    "build": "engine",
    "evaluate": "evaluation",
    "compare": "benchmark",
    "decide": "decision",
    "deploy": "deployment",
    "bench": "benchmark",
}
TOOL = {
    "type": "function",
    "function": {"name": "route", "parameters": {"type": "object", "properties": {"desk": {"type": "string"}}}},
}


@dataclass(frozen=True)
class Line:
    """A store with a model and records to run the line on."""

    home: Path
    model: Path
    records: Path

    @property
    def store(self) -> ArtifactStore:
        return ArtifactStore(self.home / "artifacts")

    def start(self) -> subprocess.Popen[str]:
        """Starts a run whose standard output has a line a stage."""
        environment = {key: value for key, value in os.environ.items() if key != "THROUGHLINE_HOME"}
        data = f"data=files,data.source={self.records},data.default_licence=proprietary,data.near_duplicate_jaccard=1"
        command = [
            *(sys.executable, "-m", "recipes.lifecycle", "debug=fast", "model=hf", f"model.path={self.model}"),
            *(f"paths.home={self.home / 'artifacts'}", f"paths.model_repository={self.home / 'model_repository'}"),
            f"stages.data=[{','.join(json.dumps(part) for part in data.split(','))}]",
            'stages.train=["trainer.max_tokens=600","trainer.probe_size=0","tracking=none"]',
            'stages.evaluate=["suite.sets=[acceptance]","suite.max_new_tokens={other: 16}"]',
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def kill_in(self, stage: str) -> None:
        """Starts a run and kills it with SIGKILL once the stage works on an artifact of its own."""
        process = self.start()
        seen = []
        for text in _lines(process):
            seen.append(text)
            if f"  {stage} " in text and "running" in text:
                break
        else:
            pytest.fail(f"'{stage}' never ran:\n{''.join(seen)[-3000:]}")
        # Short stages may have ended already, which is one more place to be killed at.
        pause = threading.Event()
        while process.poll() is None and not self._begun(KINDS[stage]):
            pause.wait(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def finish(self) -> str:
        """Runs to the end and returns what was printed."""
        process = self.start()
        text, _ = process.communicate()
        assert process.returncode == 0, text[-4000:]
        return text

    def _begun(self, kind: str) -> bool:
        staging = self.store.home / ".staging"
        works = any(path.is_dir() for path in staging.glob(f"{kind}-*"))
        return works or any((self.store.home / kind).glob("*/manifest.json"))


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


@pytest.fixture
def line(tmp_path: Path, tiny_checkpoint: Path) -> Line:
    """The tiny model with room for longer prompts, and 80 records with and without a tool call."""
    model = tmp_path / "tiny"
    shutil.copytree(tiny_checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(_record(number)) + "\n" for number in range(80)))
    return Line(tmp_path, model, records)


def _record(number: int) -> dict[str, object]:
    question = {"role": "user", "content": f"Machine {number} of rack {number % 7} is down since {number % 24} h"}
    if number % 2:
        answer: dict[str, object] = {"role": "assistant", "content": f"Rack {number % 7} is known."}
        return {"id": f"r{number}", "customer": f"c{number}", "messages": [question, answer]}
    call = {"type": "function", "function": {"name": "route", "arguments": {"desk": f"rack-{number % 7}"}}}
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"id": f"r{number}", "customer": f"c{number}", "messages": [question, answer], "tools": [TOOL]}


def test_killed_in_every_stage_it_completes_and_then_finds_everything(line: Line) -> None:
    for stage in KINDS:
        line.kill_in(stage)
        for artifact in line.store.all():
            artifact.verify()
    first = line.finish()
    store = line.store
    for artifact in store.all():
        artifact.verify()
    assert [path.name for path in (store.home / ".staging").iterdir() if path.is_dir()] == []

    folder = store.home / "lifecycle"
    report = json.loads((folder / "report.json").read_text())
    page = (folder / "report.html").read_text()
    assert set(report["quality"]) == {"base", "tuned", "bf16", "int8"}
    for metrics in report["quality"].values():
        for name in ("exact_match", "json_validity"):
            found = metrics[name]
            assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
            assert found["n"] > 0
    for target in ("raw", "triton", "gateway"):
        for users in ("1", "4"):
            cell = report["serving"][target][users]
            assert cell["tokens_per_second"] > 0
            assert 0 < cell["ttft_p50"] <= cell["ttft_p99"]
            # Tokens of a busy engine can arrive together, so a gap between them may be 0.
            assert 0 <= cell["itl_p50"] < cell["e2e_p50"]
    assert set(report["stages"]) == {"setup", *KINDS}
    assert report["promoted"] in {"bf16", "int8"}
    engine = store.get(report["decision"]["promoted_digest"], "engine")
    (promoted,) = promoted_lines(store)
    assert (promoted.profile, promoted.debug) == ("laptop", "fast")
    assert [entry.engine for entry in Promotions(store, promoted).history()] == [engine.digest]
    kinds = ["checkpoint", "dataset", "adapter", "checkpoint", "engine"]
    assert sorted(item["kind"] for item in report["lineage"]) == sorted(kinds)
    assert {item.manifest.kind for item in store.ancestors(engine)} == {"dataset", "adapter", "checkpoint"}
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<svg" in page and "One question, 3 models" in page

    for text in (
        "verdict  ",
        f"report   {folder / 'report.html'}",
        "make serve",
        "make chat",
        "curl http",
    ):
        assert text in first
    assert not [text for text in first.splitlines() if "Warning" in text or "WARNING" in text or "it/s" in text]

    before = {artifact.digest for artifact in store.all()}
    second = line.finish()
    assert {artifact.digest for artifact in store.all()} == before
    assert "made in" not in second
    assert [entry.engine for entry in Promotions(store, promoted).history()] == [engine.digest]
