"""Probes of a study as Optuna keeps them: a journal file that survives a kill at any moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.contracts.measurement import Measurement
from throughline.tuning.limits import MAXIMISED, Limits, Objective
from throughline.tuning.space import Dimension, encode, identity

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial

_NAME = "tuning"


@dataclass(frozen=True)
class Trial:
    """One point that was looked at.

    Attributes:
        number: Its place in the study.
        settings: The point.
        measurement: None where it was refused or its target died.
        pressure: How many times each limit is used.
        seconds: What it took, loading included.
        refused: Id of the linter's rule that refused it, or "".
        error: Why the target died, or "".
    """

    number: int
    settings: dict[str, Any]
    measurement: Measurement | None = None
    pressure: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    refused: str = ""
    error: str = ""

    @property
    def feasible(self) -> bool:
        """Whether it was measured and keeps every limit."""
        return self.measurement is not None and all(value <= 1 for value in self.pressure.values())

    @property
    def identity(self) -> str:
        """The same for the same point."""
        return identity(self.settings)


def open_study(path: Path | None, objectives: Sequence[Objective], sampler: Any) -> OptunaStudy:
    """Opens the study in a journal file, or in memory without one; a file that is there is gone on with.

    Attempts that a kill left unfinished are closed, so that their points may be tried again.
    """
    import optuna
    from optuna.storages import InMemoryStorage, JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: Any = InMemoryStorage()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(
        storage=storage,
        study_name=_NAME,
        directions=["maximize" if each in MAXIMISED else "minimize" for each in objectives],
        sampler=sampler,
        load_if_exists=True,
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def read(study: OptunaStudy, limits: Limits, known: dict[int, Trial]) -> list[Trial]:
    """Returns the points in order; a sampler's repetition of a point is none.

    Args:
        study: Where they are kept.
        limits: What they are held against.
        known: Those that were read before, by number; new ones are added.
    """
    found = []
    for each in study.get_trials(deepcopy=False):
        kept = each.user_attrs
        # One without an outcome was cut short by a kill, and is to be tried again.
        ended = any(name in kept for name in ("measurement", "refused", "error"))
        if ended and each.state.is_finished() and "repeats" not in kept:
            if each.number not in known:
                known[each.number] = _trial(each, limits)
            found.append(known[each.number])
    return found


def _trial(frozen: FrozenTrial, limits: Limits) -> Trial:
    kept = frozen.user_attrs
    values = kept.get("measurement")
    measurement = Measurement.model_validate(values) if values else None
    return Trial(
        number=frozen.number,
        settings=kept["settings"],
        measurement=measurement,
        pressure=limits.pressure(measurement) if measurement else {},
        seconds=kept.get("seconds", 0.0),
        refused=kept.get("refused", ""),
        error=kept.get("error", ""),
    )


def parameters(dimensions: Sequence[Dimension], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a point as Optuna has it: the place of ordered values, the text of categorical ones."""
    found: dict[str, Any] = {}
    for each in dimensions:
        if each.key in settings:
            text = encode(settings[each.key])
            texts = [encode(value) for value in each.values]
            found[each.key] = texts.index(text) if each.kind == "ordered" else text
    return found
