"""Token ids belong to one tokenizer and one chat template: another model's dataset is refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipes import app, data, inputs, train
from throughline.artifacts import Artifact
from throughline.contracts.errors import ArtifactError


@pytest.fixture
def dataset(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"} for n in range(20)]
    source = tmp_path / "r.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data=files", f"data.source={source}", "data.default_licence=own", *model(tmp_path, tiny_checkpoint)]
    return data.make(app.to_schema(app.compose("data", overrides), data.Config))


def model(home: Path, folder: Path) -> list[str]:
    return [f"paths.home={home}/home", "model=hf", f"model.path={folder}"]


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_training_another_model_on_it_is_refused(
    dataset: Artifact, tmp_path: Path, tiny_checkpoint: Path, name: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    text = (other / name).read_text()
    (other / name).write_text(text.replace("\n", "\n\n", 1) if name.endswith("json") else text + "\n")
    config = app.to_schema(app.compose("train", [*model(tmp_path, other), "tracking=none"]), train.Config)
    with pytest.raises(ArtifactError, match=rf"rendered for another model.*another {name} than.*recipes\.data"):
        train.make(config)


def test_the_model_that_it_was_rendered_for_is_taken(dataset: Artifact, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = app.to_schema(app.compose("train", [*model(tmp_path, tiny_checkpoint)]), train.Config)
    inputs.check_rendering(dataset, inputs.base_checkpoint(config).path)
