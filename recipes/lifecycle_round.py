"""One turn of the closed loop: what was measured, advised, found, and put in its place."""

from __future__ import annotations

from dataclasses import dataclass

from recipes.tune_advice import Advice
from recipes.tune_config import Outcome
from throughline.artifacts import Artifact
from throughline.contracts.benchmark import Estimate
from throughline.contracts.evaluation import Verdict
from throughline.contracts.measurement import Measurement
from throughline.tuning.evidence import TunedSpec


@dataclass
class Round:
    """One turn.

    Attributes:
        number: From 1.
        engine: What was served when it began.
        before: Measured then.
        advice: What the diagnosis says of it, and the settings that it would try.
        outcome: Of the search; None where it could not end.
        problem: Why not.
        tuned: What is served now; None where nothing better passed the gate.
        after: Measured with it.
    """

    number: int
    engine: Artifact
    before: Measurement
    advice: Advice
    outcome: Outcome | None
    problem: str = ""
    tuned: Artifact | None = None
    after: Measurement | None = None

    @property
    def ended(self) -> str:
        """`better`, `refused` by the gate, or `nothing better`."""
        if self.tuned is not None:
            return "better"
        return "refused" if self.verdicts else "nothing better"

    @property
    def verdicts(self) -> list[Verdict]:
        """The gate's words, in the order in which winners were asked."""
        return [judged.verdict for _, judged in self.outcome.judged] if self.outcome else []

    @property
    def reason(self) -> str:
        """Why it ended as it did; of a refusal the gate's first reason too."""
        if self.outcome is None:
            return self.problem
        refused = f"; refused: {self.verdicts[-1].reasons[0]}" if self.ended == "refused" else ""
        return self.outcome.race.reason + refused

    @property
    def preset(self) -> TunedSpec | None:
        """What was chosen."""
        return self.outcome.preset if self.outcome else None

    @property
    def ratio(self) -> Estimate | None:
        """Of what passed over what was served, side by side."""
        passed = [runner for runner, judged in self.outcome.judged if judged.passed] if self.outcome else []
        return passed[0].ratio if passed else None
