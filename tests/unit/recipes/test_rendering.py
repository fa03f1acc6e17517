"""Token ids belong to one tokenizer and one chat template: another model's dataset is refused before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from recipes import app, convert, data, inputs, train
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


@pytest.mark.parametrize(
    ("name", "said"), [("tokenizer.json", "tokenizer.json"), ("chat_template.jinja", "chat template")]
)
def test_training_another_model_on_it_is_refused(
    dataset: Artifact, tmp_path: Path, tiny_checkpoint: Path, name: str, said: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    text = (other / name).read_text()
    (other / name).write_text(text.replace("\n", "\n\n", 1) if name.endswith("json") else text + "\n")
    config = app.to_schema(app.compose("train", [*model(tmp_path, other), "tracking=none"]), train.Config)
    with pytest.raises(ArtifactError, match=rf"rendered for another model.*another {said} than.*recipes\.data"):
        train.make(config)


def test_a_template_within_the_tokenizer_s_config_counts_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    inside = tmp_path / "inside"
    shutil.copytree(tiny_checkpoint, inside)
    template = (inside / "chat_template.jinja").read_text()
    (inside / "chat_template.jinja").unlink()
    config = json.loads((inside / "tokenizer_config.json").read_text())

    def write(**more: object) -> dict[str, str]:
        (inside / "tokenizer_config.json").write_text(json.dumps(config | more))
        return inputs.rendering(inside)

    # Where it stands makes no difference, what it says does, and so do the tokens that it writes.
    assert write(chat_template=template) == inputs.rendering(tiny_checkpoint)
    assert write(chat_template=template + " ") != inputs.rendering(tiny_checkpoint)
    assert write(chat_template=template, bos_token="<s>") != inputs.rendering(tiny_checkpoint)


def test_of_two_sources_with_one_name_each_counts(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Keyed by base name, an edit of one of them changed nothing."""
    rows = [json.dumps({"prompt": f"what is {n * 7919}?", "completion": f"it is {n}"}) for n in range(40)]
    for name, part in (("a", rows[:20]), ("b", rows[20:])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "t.jsonl").write_text("\n".join(part) + "\n")
    source = f"data.source='{tmp_path}/a/t.jsonl,{tmp_path}/b/t.jsonl'"
    overrides = ["data=files", source, "data.default_licence=own", *model(tmp_path, tiny_checkpoint)]
    config = app.to_schema(app.compose("data", overrides), data.Config)
    first = data.make(config)
    assert data.make(config).digest == first.digest
    for name in ("a", "b"):
        path = tmp_path / name / "t.jsonl"
        path.write_text(path.read_text().replace("it is", "it was", 1))
        second = data.make(config)
        assert second.digest != first.digest
        first = second


def test_the_model_that_it_was_rendered_for_is_taken(dataset: Artifact, tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = app.to_schema(app.compose("train", [*model(tmp_path, tiny_checkpoint)]), train.Config)
    inputs.check_rendering(dataset, convert.make(config).path)
