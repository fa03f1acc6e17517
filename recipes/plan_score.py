"""What was planned beside what came of it, from the manifests of a store: `python -m recipes.plan score`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.report import Column, Table

_ACTUAL_SECONDS = "seconds"


@dataclass(frozen=True)
class Score:
    """One quantity of one artifact.

    Attributes:
        kind: Kind of the artifact, e.g. `engine`.
        name: Its name.
        digest: Its digest.
        quantity: `weight_bytes` or `seconds`.
        planned: What was said before.
        actual: What came of it.
        error: `planned / actual - 1`.
    """

    kind: str
    name: str
    digest: str
    quantity: str
    planned: float
    actual: float
    error: float


def scores(store: ArtifactStore) -> list[Score]:
    """Returns every prediction that has an outcome, oldest first."""
    found = []
    for artifact in store.all():
        planned = artifact.manifest.metrics.get("planned")
        for quantity, value in planned.items() if isinstance(planned, dict) else ():
            actual = _actual(artifact, quantity)
            if actual:
                key = (artifact.manifest.kind, artifact.manifest.name, artifact.digest, quantity)
                found.append(Score(*key, planned=value, actual=actual, error=value / actual - 1))
    return found


def _actual(artifact: Artifact, quantity: str) -> float | None:
    if quantity == _ACTUAL_SECONDS:
        return artifact.manifest.seconds
    value = artifact.manifest.metrics.get(quantity)
    return float(value) if isinstance(value, int | float) else None


def score_table(found: list[Score]) -> Table:
    """Returns one row for each, and one for each quantity with the median and the largest error."""
    from throughline.reporting import format as fmt

    def shown(score: Score, value: float) -> str:
        return fmt.bytes_(value) if score.quantity.endswith("bytes") else fmt.seconds(value)

    rows: list[list[object]] = [
        [f"{each.kind} {each.name}", each.quantity, shown(each, each.planned), shown(each, each.actual), _percent(each)]
        for each in found
    ]
    columns = [
        Column("artifact", align="left"),
        Column("quantity", align="left"),
        Column("planned"),
        Column("came to"),
        Column("error", "%"),
    ]
    notes = []
    for kind, quantity in sorted({(each.kind, each.quantity) for each in found}):
        errors = [abs(each.error) for each in found if (each.kind, each.quantity) == (kind, quantity)]
        notes.append(
            f"{kind} {quantity}: median error {100 * statistics.median(errors):.1f} %, "
            f"largest {100 * max(errors):.1f} %, of {len(errors)}"
        )
    return Table("Plans and outcomes", columns, rows, note="; ".join(notes) or "nothing was planned and made yet")


def _percent(score: Score) -> str:
    return f"{100 * score.error:+.1f}"
