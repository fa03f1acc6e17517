"""The store: artifacts made in a staging sibling and renamed; what was made is found instead of run again."""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from throughline.artifacts.environment import describe_environment
from throughline.artifacts.manifest import (
    KINDS,
    MANIFEST_NAME,
    Kind,
    Manifest,
    artifact_digest,
    scan_files,
)
from throughline.contracts.errors import ArtifactError, InternalError

STAGING = ".staging"
_VERIFIED: set[tuple[Path, int, str]] = set()
_logger = logging.getLogger("throughline.artifacts")
FOLDER_DIGITS = 16
# How long a rank waits for the first one to put a finished artifact into the store, and how often it looks.
_OWNER_SECONDS, _POLL_SECONDS = 600.0, 0.1


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its folder and manifest."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The full digest in hex."""
        return self.manifest.digest

    @property
    def short(self) -> str:
        """Kind, name and the digest's first digits, for people."""
        return f"{self.manifest.kind} {self.manifest.name} {self.digest[:12]}"

    def verify(self) -> None:
        """Compares every file with the manifest.

        Raises:
            ArtifactError: Naming the first file that is missing, new or changed.
        """
        wanted = {entry.path: entry for entry in self.manifest.files}
        found = {entry.path: entry for entry in scan_files(self.path)}
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                seen = "missing" if name not in found else "not in the manifest" if name not in wanted else "changed"
                raise ArtifactError(
                    "artifact is not what it was",
                    where=f"{self.path}/{name}",
                    seen=seen,
                    fix="delete the folder and run its stage again",
                )


class ArtifactStore:
    """Artifacts below one folder, `<kind>/<first digits of the digest>/`.

    Args:
        home: The folder; made when first written to.
    """

    def __init__(self, home: str | Path) -> None:
        self.home = Path(home).resolve()

    def stage(
        self,
        kind: Kind,
        name: str,
        *,
        inputs: Mapping[str, Artifact] | None = None,
        config: Mapping[str, Any],
        code_version: str,
        seed: int = 0,
        licences: Sequence[str] = (),
        resumable: bool = False,
        follows: bool = False,
    ) -> StageRun:
        """Opens the run that makes an artifact, or finds it made; use as a context manager.

        Args:
            kind: Kind of the artifact.
            name: Name for people; not part of the digest.
            inputs: Input artifacts by role.
            config: Resolved config in plain JSON types.
            code_version: Version of the code that makes it.
            seed: Seed of the stage.
            licences: Terms of its own; those of the inputs are added.
            resumable: Whether a folder that a killed run left is handed on instead of emptied.
            follows: Whether another process of the same distributed run owns the stage: this one takes part in the
                work, and its `commit` waits for the owner's.
        """
        inputs = dict(inputs or {})
        config = json.loads(json.dumps(dict(config), allow_nan=False))
        digests = {role: artifact.digest for role, artifact in inputs.items()}
        terms = {term for artifact in inputs.values() for term in artifact.manifest.licences} | set(licences)
        manifest = Manifest(
            kind=kind,
            name=name,
            digest=artifact_digest(kind, digests, config, code_version, seed),
            created="",
            inputs=digests,
            config=config,
            code_version=code_version,
            seed=seed,
            seconds=0.0,
            metrics={},
            licences=tuple(sorted(terms)),
            environment={},
            files=(),
        )
        return StageRun(self, manifest, resumable=resumable, follows=follows)

    def folder(self, kind: str, digest: str) -> Path:
        """Returns where an artifact lies, made or not."""
        return self.home / kind / digest[:FOLDER_DIGITS]

    def find(self, kind: str, digest: str) -> Artifact | None:
        """Returns the artifact if it is there in full.

        Files are compared by size, and by SHA-256 when this process finds the artifact for the first time.

        Raises:
            ArtifactError: If it is damaged; names the file.
        """
        folder = self.folder(kind, digest)
        if not (folder / MANIFEST_NAME).is_file():
            return None
        manifest = Manifest.read(folder)
        if manifest.digest != digest:
            raise ArtifactError(
                "two artifacts share a folder",
                where=str(folder),
                seen=manifest.digest,
                fix="move one of them away",
            )
        for entry in manifest.files:
            path = folder / entry.path
            if not path.is_file() or path.stat().st_size != entry.size:
                raise ArtifactError(
                    "artifact is damaged",
                    where=str(path),
                    seen="missing" if not path.is_file() else f"{path.stat().st_size} bytes instead of {entry.size}",
                    fix=f"delete {folder} and run its stage again",
                )
        return _verified(Artifact(folder, manifest))

    def get(self, reference: str, kind: str | None = None) -> Artifact:
        """Returns the artifact of a digest, of its first digits (4 or more), or of a folder's path.

        Raises:
            ArtifactError: If there is none, several, or it is of another kind.
        """
        as_path = Path(reference)
        if (as_path / MANIFEST_NAME).is_file():
            found = [Artifact(as_path.resolve(), Manifest.read(as_path))]
        else:
            found = [item for item in self.all() if len(reference) >= 4 and item.digest.startswith(reference)]
        matching = [item for item in found if kind is None or item.manifest.kind == kind]
        if len(matching) != 1:
            seen = ", ".join(item.short for item in found) if found else "none"
            raise ArtifactError(
                f"reference does not name one {kind or 'artifact'}",
                where=reference,
                seen=seen,
                fix=f"give a digest or folder of {self.home}",
            )
        return _verified(matching[0])

    def all(self, kind: str | None = None) -> list[Artifact]:
        """Returns the artifacts, oldest first; one whose manifest cannot be read is left out with a warning."""
        found = []
        for each in [kind] if kind else KINDS:
            for path in (self.home / each).glob(f"*/{MANIFEST_NAME}"):
                try:
                    found.append(Artifact(path.parent, Manifest.read(path.parent)))
                except ArtifactError as error:
                    _warn_once(str(error))
        return sorted(found, key=lambda item: (item.manifest.created, item.digest))

    def latest(self, kind: str, name: str | None = None) -> Artifact | None:
        """Returns the newest artifact of a kind, and of a name if given."""
        found = [item for item in self.all(kind) if name is None or item.manifest.name == name]
        return found[-1] if found else None

    def ancestors(self, artifact: Artifact) -> list[Artifact]:
        """Returns everything that it was made from, inputs before what they became."""
        by_digest = {item.digest: item for item in self.all()}
        order: dict[str, Artifact] = {}

        def walk(item: Artifact) -> None:
            for digest in item.manifest.inputs.values():
                if digest not in order and digest in by_digest:
                    walk(by_digest[digest])
                    order[digest] = by_digest[digest]

        walk(artifact)
        return list(order.values())

    def descendants(self, artifact: Artifact) -> list[Artifact]:
        """Returns everything that was made from it, directly or not, oldest first."""
        touched = {artifact.digest}
        items = self.all()
        for _ in items:
            more = {item.digest for item in items if touched & set(item.manifest.inputs.values())}
            if more <= touched:
                break
            touched |= more
        return [item for item in items if item.digest in touched and item.digest != artifact.digest]


class StageRun:
    """One attempt to make an artifact; a context manager.

    While it is open no other process makes the same artifact: a second one waits, then finds it made.

    Attributes:
        cached: The artifact if it is made already; then nothing is to be done.
        directory: Where to write files.
        resumed: Whether `directory` holds what a killed run left.
    """

    def __init__(
        self, store: ArtifactStore, manifest: Manifest, *, resumable: bool, follows: bool = False
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._resumable = resumable
        self._follows = follows
        self._lock: IO[str] | None = None
        self._started = 0.0
        self._committed: Artifact | None = None
        self.cached: Artifact | None = None
        self.resumed = False
        self.directory = store.home / STAGING / f"{manifest.kind}-{manifest.digest[:FOLDER_DIGITS]}"

    @property
    def digest(self) -> str:
        """Digest of the artifact in the making."""
        return self._manifest.digest

    def __enter__(self) -> Self:
        self.cached = self._store.find(self._manifest.kind, self._manifest.digest)
        if self.cached is not None or self._follows:
            return self
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self._lock = (self.directory.parent / f"{self.directory.name}.lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Another process may have made it while this one waited.
        self.cached = self._store.find(self._manifest.kind, self._manifest.digest)
        if self.cached is not None:
            self._release()
            return self
        self.resumed = self._resumable and self.directory.is_dir() and any(self.directory.iterdir())
        if not self.resumed:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            if self._committed is None and not self._resumable:
                shutil.rmtree(self.directory, ignore_errors=True)
            self._release()
        if kind is None and self.cached is None and self._committed is None:
            raise InternalError("stage ended without commit", where=self._manifest.kind)

    def commit(
        self,
        *,
        metrics: Mapping[str, Any] | None = None,
        name: str | None = None,
        licences: Sequence[str] = (),
    ) -> Artifact:
        """Writes the manifest and renames the folder into the store.

        Args:
            metrics: Figures for people, in plain JSON types.
            name: A better name than the one given at the start.
            licences: Terms that only the work itself found out; added to the others.

        What is left of an artifact that lost its manifest makes way.

        Raises:
            InternalError: If there is nothing to commit, or the owner of the stage does not.
        """
        if self._follows:
            self._committed = self._await_owner()
            return self._committed
        if self._lock is None or not any(self.directory.iterdir()):
            raise InternalError("nothing to commit", where=str(self.directory))
        manifest = self._manifest.model_copy(
            update={
                "name": name or self._manifest.name,
                "licences": tuple(sorted({*self._manifest.licences, *licences})),
                "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "seconds": round(time.monotonic() - self._started, 3),
                "metrics": json.loads(json.dumps(dict(metrics or {}), allow_nan=False)),
                "environment": describe_environment(),
                "files": scan_files(self.directory),
            }
        )
        manifest.write(self.directory)
        _sync(self.directory)
        final = self._store.folder(manifest.kind, manifest.digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        remains = self.directory.with_name(f"{self.directory.name}.remains")
        if final.exists():
            shutil.rmtree(remains, ignore_errors=True)
            final.rename(remains)
        self.directory.rename(final)
        _sync_folder(final.parent)
        shutil.rmtree(remains, ignore_errors=True)
        self._committed = Artifact(final, manifest)
        return self._committed

    def _await_owner(self) -> Artifact:
        deadline = time.monotonic() + _OWNER_SECONDS
        while time.monotonic() < deadline:
            found = self._store.find(self._manifest.kind, self._manifest.digest)
            if found is not None:
                return found
            time.sleep(_POLL_SECONDS)
        raise InternalError(
            "the first rank did not finish the stage", where=self._manifest.kind, seen=f"{_OWNER_SECONDS:g} s"
        )

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _sync(folder: Path) -> None:
    """Puts contents on disk before the rename: a power cut must not leave a named but empty file."""
    for path in _files(folder):
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    for path in (folder, *(item for item in folder.rglob("*") if item.is_dir())):
        _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    """Puts a folder's names on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(artifact: Artifact) -> Artifact:
    """Returns the artifact, its files compared with their digests once in this process.

    Raises:
        ArtifactError: If a file is not what it was.
    """
    manifest = artifact.path / MANIFEST_NAME
    stamp = (manifest, manifest.stat().st_mtime_ns, artifact.digest)
    if stamp not in _VERIFIED:
        artifact.verify()
        _VERIFIED.add(stamp)
    return artifact


@functools.cache
def _warn_once(text: str) -> None:
    _logger.warning("left out: %s", text)


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file())
