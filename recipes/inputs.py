"""What a recipe reads: digests of files and folders, and what a dataset was rendered with."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from recipes.app import ModelSpec
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError

TOKENIZER = "tokenizer.json"
RENDERING = (TOKENIZER, "chat template", "special tokens")
_HASHED = {".safetensors", ".json", ".jinja"}
# How an embedding checkpoint pools, beside its modules.json.
_POOLING = "1_Pooling/config.json"


class HasModel(Protocol):
    """A recipe's config that names a base model."""

    @property
    def model(self) -> ModelSpec:
        """The base model."""

    def store(self) -> ArtifactStore:
        """The artifact store."""


def folder_digest(folder: Path) -> str:
    """Returns a digest over the weights, configs and templates of a checkpoint folder."""
    stamps = tuple(
        (path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*sorted(folder.iterdir()), folder / _POOLING)
        if path.suffix in _HASHED and path.is_file()
    )
    return _digest(folder, stamps)


@functools.cache
def _digest(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    state = hashlib.sha256()
    for name, _, _ in stamps:
        state.update(name.encode() + b"\0")
        with (folder / name).open("rb") as handle:
            state.update(hashlib.file_digest(handle, "sha256").digest())
    return state.hexdigest()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def rendering(folder: Path) -> dict[str, str]:
    """Returns the digests of what turns a conversation into token ids, wherever a checkpoint or engine keeps it."""
    from throughline.conversion.folder import template_of

    template, special = template_of(folder)
    texts = {"chat template": template, "special tokens": json.dumps(special, sort_keys=True)}
    found = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return found | ({TOKENIZER: sha256(folder / TOKENIZER)} if (folder / TOKENIZER).is_file() else {})


def differing(dataset: Artifact, folder: Path, names: Sequence[str] = RENDERING) -> list[str]:
    """Returns what of the things that make token ids is another one in a dataset than in a checkpoint or engine."""
    wanted, found = rendering(folder), dataset.manifest.config["tokenizer"]
    return [name for name in names if wanted.get(name) != found.get(name)]


def check_rendering(
    dataset: Artifact,
    folder: Path,
    *,
    names: Sequence[str] = RENDERING,
    fix: str = "run `python -m recipes.data` with this model, or name its dataset=…",
) -> None:
    """Refuses a dataset whose token ids are another model's.

    Args:
        dataset: The rendered records.
        folder: A checkpoint or an engine.
        names: What has to be the same: the tokenizer, the chat template, the special tokens.
        fix: What to do about it.

    Raises:
        ArtifactError: If one differs.
    """
    wrong = differing(dataset, folder, names)
    if wrong:
        raise ArtifactError(
            "dataset was rendered for another model",
            where=f"dataset={dataset.digest[:12]}",
            seen=f"another {' and '.join(wrong)} than in {folder}",
            fix=fix,
        )
