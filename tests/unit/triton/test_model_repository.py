"""The repository on disk: versions are added, found again, selected; a broken folder says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_engine_info
from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.errors import DeployError
from throughline.contracts.serving import ServeSpec
from throughline.triton import carried, repository

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


def test_an_engine_that_embeds_has_a_model_of_its_own_kind(tmp_path: Path) -> None:
    repo, first = tmp_path / "repository", tmp_path / "embedding"
    first.mkdir()
    write_engine_info(first, max_seq_len=64, embedding=EmbeddingInfo(pooling="last", normalize=True, dimensions=8))
    assert repository.render(repo, "embedding", first, SPEC) == repository.render(repo, "embedding", first, SPEC) == 1
    config = repository.read_config(repo, "embedding")
    assert repository.is_embedding(config)
    assert [list(tensor.dims) for tensor in config.output] == [[8]]
    assert config.max_batch_size == 64
    (version,) = repository.versions(repo, "embedding")
    assert version.runtime == "throughline.engines:load_embedding"
    assert (repo / "embedding" / "1" / "model.py").read_bytes() == repository.EMBEDDING_SOURCE.read_bytes()
    # Under one name rollbacks would serve one kind by the other's configuration.
    other = engine(tmp_path / "text", "1")
    with pytest.raises(DeployError, match=r"serves engines that make vectors, and this one makes tokens.*name="):
        repository.render(repo, "embedding", other, SPEC)
    repository.render(repo, "lab", other, SPEC)
    with pytest.raises(DeployError, match="serves engines that make tokens, and this one makes vectors"):
        repository.render(repo, "lab", first, SPEC)
    assert [version.number for version in repository.versions(repo, "lab")] == [1]


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


def test_a_version_takes_the_code_along_that_loads_its_engine(tmp_path: Path, tiny_engine: Path) -> None:
    """In a process whose only code of ours is the version's: nothing that is installed is looked at."""
    repo = tmp_path / "repository"
    repository.render(repo, "lab", tiny_engine, SPEC)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from throughline.engines import load\n"
        "from throughline.triton import batching, llmapi, requests, streaming, warm_up\n"
        "runtime = load(Path(sys.argv[2]))\n"
        "print(warm_up.warm_up(runtime, Path(sys.argv[2])))\n"
        "runtime.close()\n"
        "ours = [m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'throughline']\n"
        "print(all(file.startswith(sys.argv[1]) for file in ours), len(ours) > 10)\n"
    )
    lib = repo / "lab" / "1" / "lib"
    done = subprocess.run(
        [sys.executable, "-c", script, str(lib), str(tiny_engine)], capture_output=True, text=True, cwd=tmp_path
    )
    warmed = "warmed up: 4 of 4 golden prompts answered as when the engine was built"
    assert done.stdout.splitlines() == [warmed, "True True"], done.stderr


def test_other_code_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, folder = tmp_path / "repository", engine(tmp_path / "a", "1")
    assert repository.render(repo, "lab", folder, SPEC) == 1
    copy = tmp_path / "installed" / "throughline"
    shutil.copytree(carried.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(carried, "ROOT", copy)
    assert repository.render(repo, "lab", folder, SPEC) == 1
    # Imported in the body of a function alone.
    late = copy / "engines" / "cpu" / "speculative.py"
    late.write_text(late.read_text() + "# a fix\n")
    assert repository.render(repo, "lab", folder, SPEC) == 2
    assert (repo / "lab" / "1" / "lib" / "throughline" / "engines" / "cpu" / "speculative.py").read_text() + (
        "# a fix\n"
    ) == late.read_text()
    # What a version does not need is none of its business.
    other = copy / "gateway" / "app.py"
    other.write_text(other.read_text() + "# a fix\n")
    assert repository.render(repo, "lab", folder, SPEC) == 2


def test_a_runtime_of_somebody_else_is_not_carried_but_what_it_may_import_is(tmp_path: Path) -> None:
    files = carried.carried_files(repository.MODEL_SOURCE, "their.package:load")
    assert "throughline/engines/cpu/runtime.py" in files and not any(name.startswith("their") for name in files)
    with pytest.raises(DeployError, match=r"does not exist — throughline\.engines\.nothing"):
        carried.carried_files(repository.MODEL_SOURCE, "throughline.engines.nothing:load")
