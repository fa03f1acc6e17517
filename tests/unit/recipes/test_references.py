"""`latest` is the newest of one lineage: another model's artifacts, and those of debug runs, are never it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipes import app, convert, data, evaluate, lifecycle, references, train
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)


@pytest.fixture
def models(tmp_path: Path, tiny_checkpoint: Path) -> dict[str, list[str]]:
    """Overrides for two models whose chat templates differ by a blank."""
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    (other / "chat_template.jinja").write_text((other / "chat_template.jinja").read_text() + " ")
    folders = {"one": tiny_checkpoint, "two": other}
    return {
        name: [f"paths.home={tmp_path}/home", "model=hf", f"model.name={name}", f"model.path={folder}"]
        for name, folder in folders.items()
    }


def dataset(tmp_path: Path, model: list[str], word: str) -> Artifact:
    rows = [{"prompt": f"what {word} is {n * 7919}?", "completion": f"it is {n}"} for n in range(20)]
    source = tmp_path / f"{word}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data=files", f"data.source={source}", "data.default_licence=own", *model]
    return data.make(app.to_schema(app.compose("data", overrides), data.Config))


def base(model: list[str]) -> Artifact:
    return convert.make(app.to_schema(app.compose("convert", model), convert.Config))


def tuned(store: ArtifactStore, of: Artifact, on: Artifact, name: str) -> Artifact:
    with store.stage("checkpoint", name, inputs={"base": of, "dataset": on}, config={}, code_version="1") as run:
        for path in of.path.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, run.directory / path.name)
        return run.commit()


def engine(store: ArtifactStore, of: Artifact) -> Artifact:
    with store.stage("engine", of.manifest.name, inputs={"checkpoint": of}, config={}, code_version="1") as run:
        for path in of.path.iterdir():
            if path.name != "manifest.json":
                shutil.copyfile(path, run.directory / path.name)
        return run.commit()


def test_each_model_has_its_own_latest(tmp_path: Path, models: dict[str, list[str]]) -> None:
    """Training the first model took the second one's newer dataset, and a build the second one's checkpoint."""
    first = dataset(tmp_path, models["one"], "number")
    second = dataset(tmp_path, models["two"], "number")
    config = {name: app.to_schema(app.compose("train", model), train.Config) for name, model in models.items()}
    store = config["one"].store()
    bases = {name: base(model) for name, model in models.items()}
    assert references.dataset(store, "latest", bases["one"].path).digest == first.digest
    assert references.dataset(store, "latest", bases["two"].path).digest == second.digest
    with pytest.raises(ArtifactError, match=r"rendered for another model.*another chat template"):
        references.dataset(store, second.digest, bases["one"].path)

    one = tuned(store, bases["one"], first, "one-tuned")
    with pytest.raises(ArtifactError, match=r"no checkpoint was tuned from two.*one-tuned.*recipes\.train"):
        references.checkpoint(store, "latest", config["two"])
    two = tuned(store, bases["two"], second, "two-tuned")
    assert references.checkpoint(store, "latest", config["one"]).digest == one.digest
    assert references.checkpoint(store, "latest", config["two"]).digest == two.digest

    built = engine(store, one)
    assert references.engine(store, "latest", "laptop").digest == built.digest
    engine(store, two)
    with pytest.raises(ArtifactError, match=r"several models have engines.*one-tuned.*two-tuned.*target=<digest>"):
        references.engine(store, "latest", "laptop")
    # Of datasets that fit, an engine's is the one that it was tuned on and not the newest.
    later = dataset(tmp_path, models["one"], "thing")
    assert references.dataset(store, "latest", bases["one"].path).digest == later.digest
    assert references.dataset(store, "latest", built.path, built).digest == first.digest


def test_a_debug_run_has_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    toy = app.to_schema(app.compose("lifecycle", ["debug=fast"]), lifecycle.Config)
    real = app.to_schema(app.compose("evaluate", []), evaluate.Config)
    assert toy.store().home == tmp_path / "artifacts" / "debug-fast"
    assert toy.paths.model_repository == Path("artifacts/debug-fast/model_repository")
    assert real.store().home == tmp_path / "artifacts"
    with toy.store().stage("engine", "toy", config={}, code_version="1") as run:
        (run.directory / "x").write_text("x")
        run.commit()
    assert real.store().all() == []
    monkeypatch.setenv("THROUGHLINE_HOME", str(tmp_path / "elsewhere"))
    moved = app.to_schema(app.compose("lifecycle", ["debug=fast"]), lifecycle.Config)
    assert moved.store().home == tmp_path / "elsewhere" / "debug-fast"
    given = app.to_schema(app.compose("evaluate", [f"paths.home={tmp_path}/given"]), evaluate.Config)
    assert given.store().home == tmp_path / "given"
