"""Probes that were made already: a file that a search goes on from, and a grid that was measured once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from throughline.contracts.errors import ConfigError
from throughline.contracts.measurement import Measurement
from throughline.tuning.probe import Probe, Settings
from throughline.tuning.space import encode, identity


class Recorded:
    """A probe that writes down what it measures, and does not measure again what it finds written.

    Args:
        probe: What is asked.
        path: JSON lines; a line that a kill cut short is left out.
    """

    def __init__(self, probe: Probe, path: Path) -> None:
        self._probe = probe
        self._path = path
        self._known: dict[str, Measurement] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._known[row["key"]] = Measurement.model_validate(row["measurement"])

    def __call__(self, settings: Settings, *, seconds: float, seed: int) -> Measurement:
        """See `Probe.__call__`."""
        key = encode([dict(settings), seconds, seed])
        if key not in self._known:
            found = self._probe(settings, seconds=seconds, seed=seed)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"key": key, "measurement": found.model_dump(mode="json")}) + "\n")
            self._known[key] = found
        return self._known[key]


class Grid:
    """Points that were all measured once, as a probe.

    Args:
        rows: Settings and what was measured with them.
    """

    def __init__(self, rows: Iterable[tuple[Settings, Measurement]]) -> None:
        self._rows = {identity(settings): (dict(settings), found) for settings, found in rows}
        self.asked: list[str] = []

    def __call__(self, settings: Settings, *, seconds: float, seed: int) -> Measurement:
        """See `Probe.__call__`.

        Raises:
            ConfigError: If the point was not measured.
        """
        key = identity(settings)
        if key not in self._rows:
            raise ConfigError("the grid has no such point", where="settings", seen=key)
        self.asked.append(key)
        return self._rows[key][1]

    def __iter__(self) -> Iterator[tuple[Settings, Measurement]]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)
