"""Which engine a line of runs has promoted, and which is the candidate: pointers that only its gate moves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from throughline.artifacts.store import ArtifactStore
from throughline.contracts.errors import ArtifactError

# What a pointer is called, and its folder below the store.
Alias = Literal["promoted", "candidate"]
_FOLDER: Alias = "promoted"


@dataclass(frozen=True, order=True)
class Line:
    """Runs that promote for the same purpose: a model under a profile, a debug run apart from real ones."""

    model: str
    profile: str
    debug: str = "none"

    def __str__(self) -> str:
        return f"{self.model}/{self.profile}/{self.debug}"


@dataclass(frozen=True)
class Promotion:
    """An engine that passed its gate: digests of it and of the decision, and the UTC time in ISO 8601."""

    engine: str
    decision: str
    promoted: str


class Promotions:
    """The promoted engines of a line, oldest first; the last one is what `promoted` means.

    `candidate` has a history of its own: engines that passed a gate and are not promoted yet.

    Args:
        store: Where the engines lie.
        line: Whose pointer it is; a line never moves another one's.
        alias: Which pointer.
    """

    def __init__(self, store: ArtifactStore, line: Line, alias: Alias = _FOLDER) -> None:
        self.line = line
        model, profile, debug = (quote(name, safe="") for name in (line.model, line.profile, line.debug))
        self._path = store.home / alias / model / profile / f"{debug}.json"

    def history(self) -> list[Promotion]:
        """Returns every promotion, oldest first; empty if there was none.

        Raises:
            ArtifactError: If the file is damaged.
        """
        try:
            return [Promotion(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise ArtifactError(
                "history of promotions is damaged",
                where=str(self._path),
                seen=str(error),
                fix="delete the file and run `python -m recipes.lifecycle`, which finds what is made",
            ) from None

    @property
    def current(self) -> Promotion | None:
        """The promoted engine."""
        return next(reversed(self.history()), None)

    @property
    def previous(self) -> Promotion | None:
        """The engine that was promoted before the current one: where a rollback goes."""
        return next(iter(self.history()[-2:-1]), None)

    def move(self, engine: str, decision: str) -> None:
        """Points at an engine that passed; nothing changes if it is promoted already."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            found = self.history()
            if found and found[-1].engine == engine:
                return
            found.append(Promotion(engine, decision, datetime.now(UTC).isoformat(timespec="seconds")))
            partial = self._path.with_name(f"{self._path.name}.partial")
            with partial.open("w", encoding="utf-8") as handle:
                json.dump([asdict(entry) for entry in found], handle, indent=1)
                handle.flush()
                os.fsync(handle.fileno())
            partial.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._path.with_name(f"{self._path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def promoted_lines(store: ArtifactStore, alias: Alias = _FOLDER) -> list[Line]:
    """Returns the lines that have promoted an engine, or have a candidate, in alphabetical order."""
    root = store.home / alias
    return sorted(
        Line(*(unquote(part) for part in (*path.relative_to(root).parts[:-1], path.name.removesuffix(".json"))))
        for path in root.glob("*/*/*.json")
    )
