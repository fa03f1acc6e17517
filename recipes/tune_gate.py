"""The gate on a tuned engine: KV types, speculation and precision change answers, so they are judged anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recipes import app, evaluate
from throughline.artifacts import Artifact, Line, Promotions, code_version
from throughline.contracts.evaluation import GATED_SET, GatePolicy, SuiteSpec, Verdict


@dataclass(frozen=True)
class Judged:
    """A tuned engine and what the gate says of it.

    Attributes:
        engine: Built with the tuned settings.
        evaluation: Its answers.
        reference: Answers of the engine that it is compared with.
        verdict: The gate's.
        decision: The artifact of it.
    """

    engine: Artifact
    evaluation: Artifact
    reference: Artifact
    verdict: Verdict
    decision: Artifact

    @property
    def passed(self) -> bool:
        """Whether it may take the incumbent's place."""
        return self.verdict.decision == "GO"


def judge(
    config: app.RecipeConfig,
    engine: Artifact,
    reference: Artifact,
    *,
    policy: GatePolicy,
    suite: SuiteSpec,
    line: Line,
    dataset: str,
    evaluated: Artifact | None = None,
) -> Judged:
    """Evaluates both engines, or finds them evaluated, and writes the gate's decision.

    Limits on quality and on safety (refusals) are those of the policy; the drop is against the reference on the same
    questions, by the tuned engine's precision. `evaluated` is the reference's evaluation, where it is made already.
    """
    from throughline.evaluation.gate import decide
    from throughline.evaluation.store import read_evaluations

    found = {
        "reference": evaluated or _evaluate(config, reference, suite, dataset, "reference"),
        "tuned": _evaluate(config, engine, suite, dataset, "tuned"),
    }
    sets = {name: read_evaluations(item.path)[GATED_SET] for name, item in found.items()}
    precision = str(engine.manifest.config["engine"]["precision"])
    limit = policy.max_drop.get(precision, policy.default_max_drop)
    own = policy.model_copy(update={"max_drop": {**policy.max_drop, "tuned": limit}})
    verdicts = decide(sets["reference"], {"tuned": sets["tuned"]}, own)
    decision = _write(config, engine, found, verdicts, policy, line)
    return Judged(engine, found["tuned"], found["reference"], verdicts["tuned"], decision)


def appoint(config: app.RecipeConfig, judged: Judged, line: Line) -> None:
    """Makes a tuned engine that passed the line's `candidate`."""
    Promotions(config.store(), line, "candidate").move(judged.engine.digest, judged.decision.digest)


def _evaluate(config: app.RecipeConfig, engine: Artifact, suite: SuiteSpec, dataset: str, label: str) -> Artifact:
    values: dict[str, Any] = {
        "profile": config.profile,
        "seed": config.seed,
        "paths": config.paths,
        "log": config.log,
        "suite": suite,
        "target": engine.digest,
        "dataset": dataset,
    }
    return evaluate.make(evaluate.Config(**values), label=label)


def _write(
    config: app.RecipeConfig,
    engine: Artifact,
    evaluations: Mapping[str, Artifact],
    verdicts: Mapping[str, Verdict],
    policy: GatePolicy,
    line: Line,
) -> Artifact:
    passed = verdicts["tuned"].decision == "GO"
    stage = config.store().stage(
        "decision",
        "tuning",
        inputs={"engine": engine, **{f"evaluation-{name}": item for name, item in evaluations.items()}},
        config={"gate": policy.model_dump(mode="json"), "line": asdict(line)},
        code_version=code_version("throughline.evaluation", "recipes.tune_gate"),
    )
    with stage as run:
        if run.cached:
            return run.cached
        decision = {
            "line": asdict(line),
            "promoted": "tuned" if passed else None,
            "promoted_digest": engine.digest if passed else None,
            "candidate": "tuned",
            "candidate_digest": engine.digest,
            "reason": verdicts["tuned"].reasons[0],
            "verdicts": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        }
        (run.directory / "decision.json").write_text(json.dumps(decision, indent=1) + "\n")
        return run.commit(metrics={"promoted": decision["promoted"], "reason": decision["reason"]})
