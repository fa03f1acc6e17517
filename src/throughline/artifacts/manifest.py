"""`manifest.json`: what an artifact is, what it was made from and by what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ArtifactError, ConfigError

Kind = Literal[
    "dataset",
    "calibration",
    "checkpoint",
    "adapter",
    "quantized-checkpoint",
    "engine",
    "build-job",
    "deployment",
    "corpus-index",
    "evaluation",
    "benchmark",
    "decision",
]
KINDS: tuple[str, ...] = get_args(Kind)
MANIFEST_NAME = "manifest.json"
# Raised when an older program could misread what is written.
FORMAT_VERSION = 1


class FileEntry(StrictModel):
    """A file of an artifact: path relative to its folder, size in bytes, SHA-256 in hex."""

    path: str
    size: int
    sha256: str


class Manifest(StrictModel):
    """What `manifest.json` holds.

    Attributes:
        format_version: Version of this layout.
        inputs: Digest of each input artifact by its role.
        config: The resolved config of the stage, in plain JSON types.
        code_version: Digest of the sources that made it; see `code_version`.
        created: UTC time in ISO 8601.
        seconds: Wall time of the stage, without an earlier run that was interrupted.
        metrics: Figures for people; not part of the digest.
        licences: Licence terms, inherited from the inputs.
        environment: Package versions, git commit and machine.
    """

    format_version: int = FORMAT_VERSION
    kind: Kind
    name: str
    digest: str
    created: str
    inputs: dict[str, str]
    config: dict[str, Any]
    code_version: str
    seed: int
    seconds: float
    metrics: dict[str, Any]
    licences: tuple[str, ...]
    environment: dict[str, Any]
    files: tuple[FileEntry, ...]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads a folder's manifest.

        Raises:
            ArtifactError: If there is none, it is damaged, or a newer program wrote it.
        """
        path = folder / MANIFEST_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ArtifactError(
                "no artifact here", where=str(folder), seen=f"no {MANIFEST_NAME}", fix="run its stage again"
            ) from None
        except ValueError as error:
            raise ArtifactError(
                "manifest is not JSON",
                where=str(path),
                seen=str(error),
                fix="delete the folder and run its stage again",
            ) from None
        version = values.get("format_version", FORMAT_VERSION) if isinstance(values, dict) else None
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ArtifactError(
                "manifest cannot be read by this version",
                where=str(path),
                seen=f"format_version {version!r}, {FORMAT_VERSION} known",
                fix="use the version that wrote it, or delete the folder and run its stage again",
            )
        try:
            return parse(cls, values, where=str(path))
        except ConfigError as error:
            raise ArtifactError(
                "manifest is damaged", where=str(path), seen=str(error), fix="delete the folder and run its stage again"
            ) from None

    def write(self, folder: Path) -> None:
        """Writes the manifest."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")


def artifact_digest(
    kind: str, inputs: Mapping[str, str], config: Mapping[str, Any], code_version: str, seed: int
) -> str:
    """Returns SHA-256 over kind, inputs' digests, canonical config, code version and seed, in hex."""
    canonical = json.dumps(
        {"kind": kind, "inputs": dict(inputs), "config": dict(config), "code": code_version, "seed": seed},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def scan_files(folder: Path) -> tuple[FileEntry, ...]:
    """Returns the files below a folder, sorted by path, the manifest itself left out."""
    entries = []
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST_NAME:
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            entries.append(FileEntry(path=name, size=path.stat().st_size, sha256=digest))
    return tuple(entries)
