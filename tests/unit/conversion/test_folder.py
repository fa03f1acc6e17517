"""A user's own Hugging Face folder: taken over as it is, or refused with what is missing or would be lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conversion.test_templates import DEAF
from throughline.contracts.errors import CheckpointError
from throughline.conversion import TemplateSpec, adopt_folder

KEEP = TemplateSpec("keep")


@pytest.fixture
def own(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "own"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def write(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**old, **values}))


def test_a_sound_folder_is_taken_over_untouched(own: Path, out: Path) -> None:
    (own / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (own / "pytorch_model.bin").write_bytes(b"pickle")
    (own / "modeling_own.py").write_text("raise SystemExit")
    report = adopt_folder(own, out, KEEP)
    kept = {path.name: path.read_bytes() for path in own.iterdir() if path.suffix not in {".bin", ".py"}}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert (out / "model.safetensors").stat().st_ino == (own / "model.safetensors").stat().st_ino
    assert (report.architecture, report.licence, report.vocab_size) == ("llama", "mit", 2048)
    assert report.default_system == "You are a helpful assistant."
    config = json.loads((own / "config.json").read_text())
    assert config["tie_word_embeddings"]
    # Embedding, two layers of attention and MLP with their norms, the last norm.
    attention, mlp = 2 * 64 * 64 + 2 * 64 * 32, 3 * 64 * 128
    assert report.parameters == 2048 * 64 + 2 * (attention + mlp + 2 * 64) + 64


def test_a_download_cache_of_links_becomes_files(own: Path, out: Path, tmp_path: Path) -> None:
    links = tmp_path / "snapshot"
    links.mkdir()
    for path in own.iterdir():
        (links / path.name).symlink_to(path)
    adopt_folder(links, out, KEEP)
    assert not any(path.is_symlink() for path in out.iterdir())
    assert (out / "model.safetensors").read_bytes() == (own / "model.safetensors").read_bytes()


def test_a_template_that_ignores_calls_is_refused_and_chatml_takes_its_place(own: Path, out: Path) -> None:
    (own / "chat_template.jinja").unlink()
    write(own / "tokenizer_config.json", chat_template=DEAF)
    write(own / "generation_config.json", eos_token_id=0)
    with pytest.raises(CheckpointError, match=r"loses.*look_up, sort_ticket.*model\.chat_template=chatml"):
        adopt_folder(own, out, KEEP)
    assert list(out.iterdir()) == []
    report = adopt_folder(own, out, TemplateSpec("chatml", system_prompt="Be kind."))
    assert "Be kind." in (out / "chat_template.jinja").read_text()
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    # Where a turn ends, generation must end.
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    assert report.default_system == "Be kind."
    assert DEAF in json.loads((own / "tokenizer_config.json").read_text())["chat_template"]


def test_of_several_templates_the_default_counts(own: Path, out: Path) -> None:
    template = (own / "chat_template.jinja").read_text()
    (own / "chat_template.jinja").unlink()
    named = [{"name": "rag", "template": DEAF}, {"name": "default", "template": template}]
    write(own / "tokenizer_config.json", chat_template=named)
    assert adopt_folder(own, out, KEEP).template == "the model's own"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("config.json", "base checkpoint is missing.*model=hf"),
        ("model.safetensors", "no safetensors weights"),
        ("tokenizer.json", r"no tokenizer\.json"),
        ("chat_template.jinja", "no chat template.*chatml"),
        ("family", r"family is not supported.*'gpt2'.*llama, mistral"),
        ("vocabulary", r"ids that the model's embedding lacks.*id 2047, vocab_size 2000"),
        ("broken", r"config\.json is not JSON"),
    ],
)
def test_what_a_folder_lacks_is_named(change: str, message: str, own: Path, out: Path) -> None:
    if change == "family":
        write(own / "config.json", model_type="gpt2")
    elif change == "vocabulary":
        write(own / "config.json", vocab_size=2000)
    elif change == "broken":
        (own / "config.json").write_text("{")
    else:
        (own / change).unlink()
    with pytest.raises(CheckpointError, match=message):
        adopt_folder(own, out, KEEP)
    assert list(out.iterdir()) == []
