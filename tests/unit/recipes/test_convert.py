"""The base model as an artifact: found again, told apart by its settings, named by what is made from it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from recipes import app, build, convert, data, lifecycle, references, train
from tests.unit.conversion.gguf_files import contents
from throughline.contracts.errors import ArtifactError, ConfigError, MissingDependencyError
from throughline.reporting.stages import StageTable


def config(home: Path, *overrides: str) -> convert.Config:
    return app.to_schema(app.compose("convert", [f"paths.home={home}", *overrides]), convert.Config)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)


def test_a_folder_is_brought_in_once(tmp_path: Path, tiny_checkpoint: Path) -> None:
    wanted = config(tmp_path, "model=hf", f"model.path={tiny_checkpoint}", "model.licence=mit")
    made = convert.make(wanted)
    assert (made.manifest.kind, made.manifest.name, made.manifest.licences) == ("checkpoint", "hf", ("mit",))
    assert convert.make(wanted).digest == made.digest
    made.verify()
    other = convert.make(config(tmp_path, "model=hf", f"model.path={tiny_checkpoint}"))
    assert other.digest != made.digest
    assert other.manifest.licences == ("unstated",)


def test_a_gguf_file_with_an_own_template(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    made, _ = contents("qwen3", tiny_tokenizer_dir)
    made.metadata["general.license"] = "apache-2.0"
    path = made.write(tmp_path / "own.gguf")
    template = tmp_path / "mine.jinja"
    template.write_text((tiny_tokenizer_dir / "chat_template.jinja").read_text())
    options = ["model=gguf", f"model.path={path}", "model.name=own", f"model.chat_template={template}"]
    first = convert.make(config(tmp_path / "home", *options))
    assert first.manifest.licences == ("apache-2.0",)
    assert first.manifest.metrics["architecture"] == "qwen3"
    assert json.loads((first.path / "config.json").read_text())["model_type"] == "qwen3"
    # The template counts by what is in it, not by its name.
    template.write_text(template.read_text() + "{# changed #}")
    assert convert.make(config(tmp_path / "home", *options)).digest != first.digest


def test_the_newest_checkpoint_is_a_tuned_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    wanted = config(tmp_path, "model=hf", f"model.path={tiny_checkpoint}")
    base = convert.make(wanted)
    with pytest.raises(ArtifactError, match=r"no checkpoint yet.*recipes\.train"):
        references.checkpoint(wanted.store(), "latest", wanted)
    with wanted.store().stage("checkpoint", "tuned", inputs={"base": base}, config={}, code_version="1") as run:
        (run.directory / "config.json").write_text("{}")
        tuned = run.commit()
    convert.make(config(tmp_path, "model=hf", f"model.path={tiny_checkpoint}", "model.licence=later"))
    assert references.checkpoint(wanted.store(), "latest", wanted).digest == tuned.digest
    assert tuned.manifest.licences == base.manifest.licences


def test_a_model_without_a_place_or_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no place.*model\.path"):
        convert.make(config(tmp_path, "model=gguf", "model.path=null"))
    absent = config(tmp_path, "model=smollm2", "model.package=no-such-model")
    with pytest.raises(MissingDependencyError, match=r"not installed.*no-such-model.*make setup"):
        convert.make(absent)


@pytest.mark.parametrize("stage", [convert, data, train, build])
def test_the_line_hands_the_whole_model_to_its_stages(stage: ModuleType, tmp_path: Path) -> None:
    overrides = ["model=gguf", f"model.path='{tmp_path}/own, v1.gguf'", "model.chat_template=chatml"]
    overrides += ["model.dtype=float32", "model.system_prompt='Be kind, short = [good], \"ü\"'"]
    whole = app.to_schema(app.compose("lifecycle", overrides), lifecycle.Config)
    run = lifecycle.Run(whole, StageTable({}))
    name = stage.__name__.removeprefix("recipes.")
    assert run.compose(name, stage.Config).model == whole.model
    assert whole.model.system_prompt == 'Be kind, short = [good], "ü"'
