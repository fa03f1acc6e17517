"""The closed loop after a lifecycle: measure, diagnose, tune, judge again, deploy, measure again; round after round."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes import deploy, evaluate, measuring, tune
from recipes.lifecycle_round import Round
from recipes.tune_advice import advise
from throughline.artifacts import Artifact, Promotions
from throughline.contracts.errors import TuningError
from throughline.contracts.measurement import Measurement
from throughline.contracts.report import Column, Folded, Judged, Section, Table, VerdictKind
from throughline.tuning.evidence import TunedSpec, to_yaml

if TYPE_CHECKING:
    from recipes.lifecycle_run import Run

_KINDS: dict[str, VerdictKind] = {"better": "good", "refused": "bad", "nothing better": "unclear"}


def names(rounds: int) -> list[str]:
    """Returns the stages of a loop: two for each round."""
    return [name for number in range(1, rounds + 1) for name in (f"tune {number}", f"deploy {number}")]


def run_loop(run: Run, dataset: str) -> None:
    """Turns until nothing better passes the gate, or the rounds are over; what passes is promoted and deployed."""
    engine = run.engines[run.decision["candidate"]]
    total = run.config.loop.rounds
    for number in range(1, total + 1):
        found = _tuned(run, engine, number, dataset)
        run.rounds.append(found)
        if found.tuned is None:
            left = [name for name in names(total) if int(name.split()[1]) >= number and name != f"tune {number}"]
            run.table.skip(*left, why=found.ended)
            return
        engine = found.tuned
        run.stage(f"deploy {number}", functools.partial(_deployed, run, engine), lambda item: [item])


def _deployed(run: Run, engine: Artifact) -> Artifact:
    return deploy.make_checked(run.compose("deploy", deploy.Config, f"target={engine.digest}"))


def _tuned(run: Run, engine: Artifact, number: int, dataset: str) -> Round:
    config = run.compose("tune", tune.Config, f"target={engine.digest}", dataset, f"name={run.config.loop.name}")
    # A check of the line leaves no preset among those of the tree.
    presets = config.presets if run.config.debug == "none" else config.store().home / "tuned"
    # The reference's questions: its evaluation is compared with the tuned engine's.
    suite = run.compose("evaluate", evaluate.Config).suite
    config = config.model_copy(
        update={"gate": run.config.gate, "suite": suite, "line_debug": run.config.debug, "presets": presets}
    )
    reference = run.evaluated[run.config.precisions[0]]

    def tell(line: str) -> None:
        run.table.advance("", None, line)

    def turn() -> Round:
        before = _measure(config, engine)
        advice = advise(before, config)
        try:
            outcome = tune.make(config, reference=reference, advice=advice.points, tell=tell, on_part=run.table.part)
        except TuningError as error:
            # What the line has made and promoted stands all the same.
            return Round(number, engine, before, advice, None, str(error))
        found = Round(number, engine, before, advice, outcome)
        passed = next((judged for _, judged in outcome.judged if judged.passed), None)
        if passed is not None:
            found.tuned = passed.engine
            found.after = _measure(config, passed.engine)
            Promotions(config.store(), run.config.line).move(passed.engine.digest, passed.decision.digest)
        return found

    return run.stage(f"tune {number}", turn, lambda found: [found.tuned or found.engine])


def _measure(config: tune.Config, engine: Artifact) -> Measurement:
    return measuring.measure(
        config.layer,
        config.workload,
        store=config.store(),
        engine=engine,
        slo=config.slo,
        seconds=config.race.seconds,
        seed=config.seed,
    )


def section(rounds: Sequence[Round]) -> Section:
    """Returns what each round bought: measured before and after, the diagnosis, the gate's word, the settings."""
    rows: list[list[object]] = []
    for each in rounds:
        verdict = each.verdicts[-1] if each.verdicts else None
        rows.append(
            [
                str(each.number),
                each.advice.finding or "nothing",
                _goodput(each.before),
                _goodput(each.after),
                f"{each.ratio.value:.2f} [{each.ratio.low:.2f}, {each.ratio.high:.2f}]" if each.ratio else None,
                verdict.decision if verdict else None,
                Judged(each.ended, _KINDS[each.ended]),
                each.reason,
            ]
        )
    columns = [
        Column("round", align="left"),
        Column("diagnosis before", align="left"),
        Column("goodput before", "1/s"),
        Column("goodput after", "1/s"),
        Column("side by side"),
        Column("gate", align="left"),
        Column("", align="left"),
        Column("why", align="left"),
    ]
    note = "before and after: one run each of the engine that is served; side by side: the race's ratio, interleaved"
    folded = [
        Folded(f"round {each.number}: what was chosen and what it rests on", to_yaml(each.preset))
        for each in rounds
        if each.preset is not None
    ]
    folded += [
        Folded(f"round {each.number}: refused by the gate", "\n".join(verdict.reasons))
        for each in rounds
        for verdict in each.verdicts
        if verdict.decision != "GO"
    ]
    text = "Measured, diagnosed, tuned, judged again, deployed, measured again; ends where nothing better passes."
    return Section("The closed loop", text, [Table("What each round bought", columns, rows, note=note)], folded=folded)


def gained(rounds: Sequence[Round]) -> str:
    """Returns what the last tuning that took the engine's place came to, as the end of a sentence; empty for none."""
    passed = [each for each in rounds if each.tuned is not None]
    return f"; tuned since: {passed[-1].reason}" if passed else ""


def figures(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Returns the rounds in plain values."""
    return [
        {
            "round": each.number,
            "diagnosis": each.advice.finding,
            "before": _plain(each.before),
            "after": _plain(each.after),
            "ended": each.ended,
            "reason": each.reason,
            "engine": each.engine.digest,
            "tuned": each.tuned.digest if each.tuned else None,
            "verdicts": [verdict.as_dict() for verdict in each.verdicts],
            "preset": _preset(each.preset),
        }
        for each in rounds
    ]


def _preset(found: TunedSpec | None) -> dict[str, Any] | None:
    return found.model_dump(mode="json", exclude_none=True) if found else None


def _plain(found: Measurement | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {
        "goodput": found.goodput.value if found.goodput else 0.0,
        "tokens_per_second": found.tokens_per_second.value,
        **{f"over_{name}": value for name, value in (found.over(found.slo) if found.slo else {}).items()},
    }


def _goodput(found: Measurement | None) -> float | None:
    return found.goodput.value if found is not None and found.goodput is not None else None
