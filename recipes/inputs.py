"""What a recipe reads: the base checkpoint and artifacts named by the user."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from recipes.app import ModelSpec
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError, CheckpointError

_MAKERS = {
    "dataset": "data",
    "checkpoint": "train",
    "adapter": "train",
    "engine": "build",
    "evaluation": "evaluate",
}
_HASHED = {".safetensors", ".json", ".jinja"}


def base_folder(model: ModelSpec) -> Path:
    """Returns the folder of the base checkpoint.

    Raises:
        CheckpointError: If it is not there.
    """
    if model.source == "lab":
        from throughline import lab

        return lab.checkpoint_dir()
    folder = Path(model.path or "")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            "base checkpoint is missing",
            where="model.path",
            seen=str(folder),
            fix="give a Hugging Face folder: model=hf model.path=…",
        )
    return folder.resolve()


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

    Raises:
        ArtifactError: If there is none; names the recipe that makes it.
    """
    if reference == "latest":
        found = store.latest(kind)
        if found is not None:
            return found
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
