"""What a recipe reads: the base checkpoint and artifacts named by the user."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Protocol

from recipes.app import ModelSpec
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError

_MAKERS = {
    "dataset": "data",
    "checkpoint": "train",
    "adapter": "train",
    "engine": "build",
    "evaluation": "evaluate",
}
_HASHED = {".safetensors", ".json", ".jinja"}


class HasModel(Protocol):
    """A recipe's config that names a base model."""

    @property
    def model(self) -> ModelSpec:
        """The base model."""

    def store(self) -> ArtifactStore:
        """The artifact store."""


def base_checkpoint(config: HasModel) -> Artifact:
    """Returns the base model's checkpoint artifact; converts the model if that was not done yet.

    Raises:
        CheckpointError: If the model is missing or cannot be used; says what to do.
    """
    from recipes import convert

    return convert.make(config)


def folder_digest(folder: Path) -> str:
    """Returns a digest over the weights, configs and templates of a checkpoint folder."""
    stamps = tuple(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in _HASHED
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


def artifact(store: ArtifactStore, kind: str, reference: str, *, key: str) -> Artifact:
    """Returns the artifact that a config value names; `latest` is the newest of its kind.

    The latest checkpoint is the newest tuned one: base models are checkpoints too, and converted on the way.

    Raises:
        ArtifactError: If there is none; names the recipe that makes it.
    """
    if reference == "latest":
        found = [item for item in store.all(kind) if kind != "checkpoint" or item.manifest.inputs]
        if found:
            return found[-1]
    elif reference == "promoted":
        promoted = promoted_digest(store)
        if promoted is not None:
            return store.get(promoted, kind)
        return artifact(store, kind, "latest", key=key)
    else:
        return store.get(reference, kind)
    raise ArtifactError(
        f"there is no {kind} yet", where=key, seen=reference, fix=f"run `python -m recipes.{_MAKERS[kind]}`"
    )


def promoted_digest(store: ArtifactStore) -> str | None:
    """Returns the digest of the engine that the newest decision promoted."""
    decision = store.latest("decision")
    if decision is None:
        return None
    values = json.loads((decision.path / "decision.json").read_text())
    return str(values["engine_digest"]) if values.get("engine_digest") else None
