"""What a build or a quantisation starts from: a checkpoint, and the dataset that it calibrates on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recipes import convert, inputs, references
from throughline.artifacts import Artifact, ArtifactStore


class Asked(inputs.HasModel, Protocol):
    """The settings that name a source."""

    @property
    def checkpoint(self) -> str:
        """A digest, a folder, `latest` or `base`."""

    @property
    def dataset(self) -> str:
        """A digest or `latest`."""

    @property
    def name(self) -> str:
        """Name of what is made; empty takes the checkpoint's and a suffix."""


@dataclass(frozen=True)
class Source:
    """A checkpoint and what belongs to it.

    Attributes:
        folder: The checkpoint's folder.
        digest: Its digest.
        name: Name of what is made of it.
        dataset: What is calibrated on, None without calibration.
        inputs: Artifacts that what is made depends on.
        stage_config: Settings that it depends on.
    """

    folder: Path
    digest: str
    name: str
    dataset: Artifact | None
    inputs: dict[str, Artifact]
    stage_config: dict[str, object]


def find_source(
    config: Asked, store: ArtifactStore, stage_config: Mapping[str, object], *, suffix: str, fix: str | None
) -> Source:
    """Finds or makes the checkpoint, and the dataset of its own tokens.

    Args:
        config: What is asked for.
        store: Where artifacts are.
        stage_config: Settings of what is made; a foreign folder's digest is added.
        suffix: What a name says of the precision.
        fix: What to do if there is no dataset; None where none is needed.

    Raises:
        ArtifactError: If the checkpoint or the dataset is missing, or the dataset is of another tokenizer.
    """
    found: dict[str, Artifact] = {}
    settings = dict(stage_config)
    if is_foreign_folder(config.checkpoint):
        folder = Path(config.checkpoint)
        digest = str(inputs.folder_digest(folder))
        settings["checkpoint"] = digest
        stem = folder.name
    else:
        base = config.checkpoint == "base"
        found["checkpoint"] = convert.make(config) if base else references.checkpoint(store, config.checkpoint, config)
        folder, digest = found["checkpoint"].path, found["checkpoint"].digest
        stem = found["checkpoint"].manifest.name
    dataset = None
    if fix is not None:
        # Whatever the template, calibration needs texts in the model's own tokens.
        dataset = found["dataset"] = references.dataset(
            store, config.dataset, folder, found.get("checkpoint"), names=(inputs.TOKENIZER,), fix=fix
        )
    return Source(folder, digest, config.name or f"{stem}-{suffix}", dataset, found, settings)


def is_foreign_folder(reference: str) -> bool:
    """Returns whether a reference is a checkpoint folder that is no artifact."""
    folder = Path(reference)
    return (folder / "config.json").is_file() and not (folder / "manifest.json").is_file()
