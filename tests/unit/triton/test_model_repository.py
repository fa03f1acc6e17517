"""The repository on disk: versions are added, found again, selected; a broken folder says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import repository

SPEC = ServeSpec()


def engine(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "engine.json").write_text(content)
    return folder


def test_the_default_runtime_exists() -> None:
    from importlib import import_module

    module, _, function = SPEC.runtime.partition(":")
    assert callable(getattr(import_module(module), function))


def test_engines_add_versions_and_equal_ones_do_not(tmp_path: Path) -> None:
    repo = tmp_path / "repository"
    first, second = engine(tmp_path / "a", "1"), engine(tmp_path / "b", "2")
    assert repository.render(repo, "lab", first, SPEC) == 1
    assert repository.render(repo, "lab", second, SPEC) == 2
    assert repository.served_version(repo, "lab").engine_dir == str(second)
    # Back to the first engine is back to its version, and other settings are no other version.
    assert repository.render(repo, "lab", first, SPEC.model_copy(update={"default_max_tokens": 64})) == 1
    config = repository.read_config(repo, "lab")
    assert config.parameters["default_max_tokens"].string_value == "64"
    (first / "engine.json").write_text("changed")
    assert repository.render(repo, "lab", first, SPEC) == 3
    assert [version.number for version in repository.versions(repo, "lab")] == [1, 2, 3]
    assert repository.models(repo) == ["lab"]
    assert {path.name for path in (repo / "lab").iterdir()} == {"1", "2", "3", "config.pbtxt"}
    assert (repo / "lab" / "3" / "model.py").read_bytes() == repository.MODEL_SOURCE.read_bytes()


def test_an_older_version_can_be_selected_with_its_engine(tmp_path: Path) -> None:
    repo = tmp_path / "repository"
    first = engine(tmp_path / "a", "1")
    repository.render(repo, "lab", first, SPEC)
    repository.render(repo, "lab", engine(tmp_path / "b", "2"), SPEC)
    assert repository.select_version(repo, "lab", 1).engine_dir == str(first)
    assert repository.served_version(repo, "lab").number == 1
    assert repository.read_config(repo, "lab").parameters["engine_dir"].string_value == str(first)
    with pytest.raises(DeployError, match=r"has no version 7.*\[1, 2\]"):
        repository.select_version(repo, "lab", 7)


def test_a_manifest_names_the_engine(tmp_path: Path) -> None:
    folder = engine(tmp_path / "a", "1")
    computed = repository.digest_of(folder)
    (folder / "manifest.json").write_text(json.dumps({"digest": "d" * 64}))
    assert repository.digest_of(folder) == "d" * 64 != computed


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x" * 129])
def test_names_that_are_no_folder_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="model name cannot be served"):
        repository.render(tmp_path / "repository", name, engine(tmp_path / "a", "1"), SPEC)
    assert not (tmp_path / "repository").exists()


def test_missing_and_broken_parts_are_named(tmp_path: Path) -> None:
    repo = tmp_path / "repository"
    with pytest.raises(DeployError, match=r"no engine\.json"):
        repository.render(repo, "lab", tmp_path, SPEC)
    with pytest.raises(DeployError, match="model 'lab' is not in the repository"):
        repository.read_config(repo, "lab")
    repository.render(repo, "lab", engine(tmp_path / "a", "1"), SPEC)
    (repo / "lab" / "1" / "version.json").write_text("{}")
    with pytest.raises(DeployError, match="version pointer cannot be read"):
        repository.versions(repo, "lab")
