"""The artifact store: content-addressed folders with manifests, lineage and atomic writes."""

from __future__ import annotations

from throughline.artifacts.environment import code_version, describe_environment
from throughline.artifacts.manifest import FileEntry, Kind, Manifest, artifact_digest
from throughline.artifacts.promotions import Alias, Line, Promotion, Promotions, promoted_lines
from throughline.artifacts.store import Artifact, ArtifactStore, StageRun

__all__ = [
    "Alias",
    "Artifact",
    "ArtifactStore",
    "FileEntry",
    "Kind",
    "Line",
    "Manifest",
    "Promotion",
    "Promotions",
    "StageRun",
    "artifact_digest",
    "code_version",
    "describe_environment",
    "promoted_lines",
]
