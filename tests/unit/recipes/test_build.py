"""`recipes.build` with calibration: which dataset it takes, that it is an input, and what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes import app, build
from recipes.plan_score import score_table, scores
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ArtifactError
from throughline.planning.cpu import cpu_weight_bytes
from throughline.planning.shape import read_shape

SMALL = ("engine.group_size=32", "engine.max_seq_len=64", "engine.kv_cache_bytes=16777216", "engine.num_threads=1")


def make_dataset(store: ArtifactStore, tokenizer: Path, seed: int = 0) -> Artifact:
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    config = {"tokenizer": {"tokenizer.json": digest}}
    with store.stage("dataset", "records", config=config, code_version="1", seed=seed) as run:
        rows = [[3 + (row * column + seed) % 200 for column in range(12)] for row in range(9)]
        names = [f"record-{row}" for row in range(9)]
        table = pa.table({"id": names, "task": ["chat"] * 9, "input_ids": rows, "labels": rows})
        pq.write_table(table, run.directory / "train.parquet")
        for side, prefix in (("train", "record"), ("validation", "held")):
            asked = [
                {"id": f"{prefix}-{row}", "messages": [{"role": "user", "content": f"{side} {row}"}]}
                for row in range(9)
            ]
            (run.directory / f"{side}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
        return run.commit()


def make_checkpoint(store: ArtifactStore, folder: Path, dataset: Artifact) -> Artifact:
    with store.stage("checkpoint", "tuned", inputs={"dataset": dataset}, config={}, code_version="1") as run:
        for path in folder.iterdir():
            (run.directory / path.name).write_bytes(path.read_bytes())
        return run.commit()


def make(store: ArtifactStore, *overrides: str) -> Artifact:
    settings = [f"paths.home={store.home}", "quant=int4", "engine.calib_size=4", *SMALL, *overrides]
    return build.make(app.to_schema(app.compose("build", settings), build.Config))


def test_the_dataset_of_a_calibrated_build_is_an_input(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    dataset = make_dataset(store, tiny_checkpoint / "tokenizer.json")
    engine = make(store, f"checkpoint={tiny_checkpoint}")
    [calibration] = store.all("calibration")
    assert calibration.manifest.inputs == {"dataset": dataset.digest}
    assert engine.manifest.inputs == {"dataset": dataset.digest, "calibration": calibration.digest}
    assert engine.manifest.name.endswith("-int4")
    info = EngineInfo.read(engine.path)
    assert info.calibration is not None
    assert (info.calibration.dataset_digest, info.calibration.records) == (dataset.digest, 4)
    assert make(store, f"checkpoint={tiny_checkpoint}").digest == engine.digest
    assert make(store, f"checkpoint={tiny_checkpoint}", "seed=1").digest != engine.digest


def test_latest_is_the_dataset_that_the_checkpoint_was_tuned_on(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    first = make_dataset(store, tiny_checkpoint / "tokenizer.json", seed=0)
    checkpoint = make_checkpoint(store, tiny_checkpoint, first)
    second = make_dataset(store, tiny_checkpoint / "tokenizer.json", seed=1)
    engine = make(store, f"checkpoint={checkpoint.digest}")
    [calibration] = store.all("calibration")
    assert engine.manifest.inputs == {
        "checkpoint": checkpoint.digest,
        "dataset": first.digest,
        "calibration": calibration.digest,
    }
    named = make(store, f"checkpoint={checkpoint.digest}", f"dataset={second.digest}")
    assert named.manifest.inputs["dataset"] == second.digest


def test_rounding_needs_no_dataset(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    overrides = (f"checkpoint={tiny_checkpoint}", "quant=int4_rtn")
    engine = make(store, *overrides)
    assert engine.manifest.inputs == {}
    assert engine.manifest.name.endswith("-int4-rtn")
    make_dataset(store, tiny_checkpoint / "tokenizer.json")
    assert make(store, *overrides, "seed=1").digest == engine.digest


@pytest.mark.parametrize("quant", ["bf16", "int8", "int4_rtn"])
def test_the_planned_size_is_the_one_that_comes(store: ArtifactStore, tiny_checkpoint: Path, quant: str) -> None:
    engine = make(store, f"checkpoint={tiny_checkpoint}", f"quant={quant}")
    [score] = scores(store)
    assert (score.digest, score.quantity) == (engine.digest, "weight_bytes")
    assert score.actual == EngineInfo.read(engine.path).weight_bytes
    # Tables of angles, which are not counted, are a larger share of a tiny model.
    assert score.planned == pytest.approx(score.actual, rel=0.03)
    assert score.error == pytest.approx(score.planned / score.actual - 1)
    note = score_table([score, dataclasses.replace(score, error=-0.5)]).note
    median = 100 * (abs(score.error) + 0.5) / 2
    assert note == f"engine weight_bytes: median error {median:.1f} %, largest 50.0 %, of 2"


def test_planned_sizes_of_the_default_model() -> None:
    """What `make run` builds of SmolLM2-135M: 257, 129, 91 and 82 MiB."""
    shape = read_shape(Path(__file__).resolve().parents[3] / "engines" / "models" / "smollm2-135m.json")
    for quant, size in {"bf16": 257, "int8": 129, "int4": 91, "int4_rtn": 82}.items():
        config = app.to_schema(app.compose("build", [f"quant={quant}"]), build.Config)
        assert cpu_weight_bytes(shape, config.engine) / 2**20 == pytest.approx(size, abs=0.7)


def test_a_store_without_plans_says_so(store: ArtifactStore) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recipes.plan", "score", f"paths.home={store.home}"],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "nothing was planned and made yet" in done.stdout
    assert "recipes.build" in done.stdout


def test_calibration_without_a_fitting_dataset_is_refused(
    store: ArtifactStore, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = f"checkpoint={tiny_checkpoint}"
    with pytest.raises(ArtifactError, match=r"no dataset yet.*recipes\.data.*quant=int4_rtn"):
        make(store, checkpoint)
    other = tmp_path / "other.json"
    other.write_text("{}")
    dataset = make_dataset(store, other)
    for reference in ("latest", dataset.digest):
        with pytest.raises(ArtifactError, match=r"another tokenizer\.json.*quant=int4_rtn"):
            make(store, checkpoint, f"dataset={reference}")
    assert store.all("engine") == []
