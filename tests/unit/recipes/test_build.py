"""`recipes.build` with calibration: which dataset it takes, that it is an input, and what it refuses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes import app, build
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ArtifactError

SMALL = ("engine.group_size=32", "engine.max_seq_len=64", "engine.kv_cache_bytes=16777216", "engine.num_threads=1")


def make_dataset(store: ArtifactStore, tokenizer: Path, seed: int = 0) -> Artifact:
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    config = {"tokenizer": {"tokenizer.json": digest}}
    with store.stage("dataset", "records", config=config, code_version="1", seed=seed) as run:
        rows = [[3 + (row * column + seed) % 200 for column in range(12)] for row in range(9)]
        table = pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))})
        pq.write_table(table, run.directory / "train.parquet")
        return run.commit()


def make_checkpoint(store: ArtifactStore, folder: Path, dataset: Artifact) -> Artifact:
    with store.stage("checkpoint", "tuned", inputs={"dataset": dataset}, config={}, code_version="1") as run:
        for path in folder.iterdir():
            (run.directory / path.name).write_bytes(path.read_bytes())
        return run.commit()


def make(store: ArtifactStore, *overrides: str) -> Artifact:
    settings = [f"paths.home={store.home}", "quant=int4", "engine.calib_size=4", *SMALL, *overrides]
    return build.make(app.to_schema(app.compose("build", settings), build.Config))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)
    return ArtifactStore(tmp_path / "artifacts")


def test_the_dataset_of_a_calibrated_build_is_an_input(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    dataset = make_dataset(store, tiny_checkpoint / "tokenizer.json")
    engine = make(store, f"checkpoint={tiny_checkpoint}")
    assert engine.manifest.inputs == {"dataset": dataset.digest}
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
    assert engine.manifest.inputs == {"checkpoint": checkpoint.digest, "dataset": first.digest}
    named = make(store, f"checkpoint={checkpoint.digest}", f"dataset={second.digest}")
    assert named.manifest.inputs["dataset"] == second.digest


def test_rounding_needs_no_dataset(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    overrides = (f"checkpoint={tiny_checkpoint}", "quant=int4_rtn")
    engine = make(store, *overrides)
    assert engine.manifest.inputs == {}
    assert engine.manifest.name.endswith("-int4-rtn")
    make_dataset(store, tiny_checkpoint / "tokenizer.json")
    assert make(store, *overrides, "seed=1").digest == engine.digest


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
