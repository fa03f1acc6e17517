"""What a search came to: the preset of the winner with its evidence, and the page with every point."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from recipes import app
from recipes.tune_config import Config, Outcome
from recipes.tune_gate import Judged as GateJudged
from recipes.tune_precision import quantisation
from throughline.artifacts import describe_environment
from throughline.contracts.benchmark import Estimate
from throughline.contracts.engine import EngineInfo
from throughline.contracts.evaluation import GATED_SET
from throughline.contracts.measurement import Measurement
from throughline.contracts.report import (
    Column,
    Folded,
    Highlight,
    Judged,
    Plot,
    Report,
    Section,
    Series,
    Table,
    VerdictKind,
)
from throughline.tuning import Limits, Trial
from throughline.tuning.evidence import Evidence, TunedSpec, by_layer, to_yaml
from throughline.tuning.limits import Objective
from throughline.tuning.pareto import front
from throughline.tuning.race import Runner, gain, times

# What the front is of, where the search had one objective: what costs the others.
FRONT: tuple[Objective, ...] = ("goodput", "ttft", "itl", "memory")
VERDICT_KINDS: dict[str, VerdictKind] = {"GO": "good", "NO_GO": "bad", "INCONCLUSIVE": "unclear"}
_SHOWN: tuple[tuple[Objective, float], ...] = (
    ("goodput", 1.0),
    ("tokens_per_second", 1.0),
    ("ttft", 1e3),
    ("itl", 1e3),
)
_ENDED: dict[str, VerdictKind] = {"better": "good", "worse": "bad", "infeasible": "bad"}
_LABELS: dict[Objective, tuple[str, str, float]] = {
    "goodput": ("goodput", "1/s", 1.0),
    "tokens_per_second": ("throughput", "tokens/s", 1.0),
    "ttft": ("TTFT", "ms", 1e3),
    "itl": ("ITL", "ms", 1e3),
    "e2e": ("e2e", "ms", 1e3),
    "memory": ("memory", "MiB", 2**-20),
    "cost": ("cost", "per million tokens", 1.0),
}


def machine() -> dict[str, Any]:
    """Returns what a tuning holds for: the processor and how many of its cores the run may use."""
    found = describe_environment()["machine"]
    return {"processor": str(found["processor"]), "cores": int(found["cores"])}


def preset(config: Config, outcome: Outcome, runner: Runner, judged: GateJudged | None) -> TunedSpec:
    """Returns the preset of a winner."""
    objective = config.study.objectives[0]
    values = [config.limits.value(each, objective) for each in runner.measurements]
    digests = {"incumbent": outcome.engine.digest}
    if judged is not None:
        digests |= {
            "engine": judged.engine.digest,
            "evaluation": judged.evaluation.digest,
            "reference": judged.reference.digest,
            "decision": judged.decision.digest,
        }
    evidence = Evidence(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        model=outcome.engine.manifest.inputs.get("checkpoint", outcome.engine.manifest.name),
        engines={name: item.digest for name, item in outcome.engines.items()},
        workload=config.workload.model_dump(mode="json"),
        slo=config.slo,
        objective=objective,
        value=Estimate(statistics.mean(values), min(values), max(values), len(values)),
        probe_seconds=config.race.seconds,
        noise=outcome.noise.sigma,
        noise_probes=outcome.noise.n,
        beat=outcome.incumbent,
        ratio=runner.ratio,
        reason=outcome.race.reason
        if runner is outcome.race.winner
        else f"{gain(runner.ratio, objective)} the incumbent's",
        probes=len(outcome.study.measured),
        refused=sum(bool(trial.refused) for trial in outcome.study.trials),
        space=f"{config.space.name}, {outcome.study.space.size()} points",
        command=app.command(f"python -m recipes.tune name={config.name}"),
        gate={"verdict": judged.verdict.decision, "reason": judged.verdict.reasons[0]} if judged else {},
        digests=digests,
    )
    layers = by_layer(runner.settings)
    layers["engine"] = quantisation(EngineInfo.read(outcome.engine.path).spec, layers["engine"])
    return TunedSpec(name=config.name, **layers, evidence=evidence)


def write_preset(found: TunedSpec, folder: Path) -> Path:
    """Writes the preset's file, replacing one of the same name whole."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.name}.yaml"
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(to_yaml(found), encoding="utf-8")
    partial.replace(path)
    return path


def write(config: Config, outcome: Outcome) -> Path:
    """Writes `report.html` and `report.json` beside the probes and returns the page's path."""
    from throughline.reporting.html import write_report

    return write_report(build(config, outcome), outcome.folder)[0]


def build(config: Config, outcome: Outcome) -> Report:
    """Returns the report's content."""
    chosen = next((each for each in outcome.race.runners if _settings(outcome) == each.settings), None)
    refused = [(runner, judged) for runner, judged in outcome.judged if not judged.passed]
    kind: VerdictKind = "good" if outcome.preset else "bad" if refused else "unclear"
    verdict = outcome.race.reason
    if outcome.preset is not None and outcome.preset.evidence is not None:
        verdict = f"{config.name}: {outcome.preset.evidence.reason}"
    elif refused:
        verdict = f"refused by the gate: {refused[0][1].verdict.reasons[0]}"
    return Report(
        title=f"Tuning of {outcome.engine.manifest.name} over {config.space.name}",
        verdict=verdict,
        verdict_kind=kind,
        summary=_summary(config, outcome),
        highlights=_highlights(config, outcome, chosen),
        sections=[
            _race_section(config, outcome),
            *([_gate_section(outcome)] if outcome.judged else []),
            points_section(
                outcome.study.trials, config.limits, config.study.objectives, outcome.incumbent, _quality(outcome)
            ),
            _refused_section(outcome),
        ],
        environment={name: str(value) for name, value in machine().items()}
        | {"incumbent": outcome.engine.digest[:12], "probes": str(len(outcome.study.measured))},
        command=app.command(f"python -m recipes.tune name={config.name}"),
    )


def _settings(outcome: Outcome) -> dict[str, Any]:
    return next((runner.settings for runner, judged in outcome.judged if judged.passed), {}) or (
        outcome.race.winner.settings if outcome.race.winner and not outcome.judged else {}
    )


def _summary(config: Config, outcome: Outcome) -> list[str]:
    study = outcome.study
    limits = [
        f"{name.removesuffix('_seconds').upper()} ≤ {limit:g} s"
        for name, limit in config.slo.latencies().items()
        if limit is not None
    ]
    return [
        f"SLO at the {config.slo.percentile}th percentile: {', '.join(limits)}; errors ≤ {config.slo.error_rate:g}",
        f"{len(study.measured)} of {study.space.size()} points measured, {sum(t.feasible for t in study.measured)} of "
        f"them keep it; {sum(bool(t.refused) for t in study.trials)} refused by the linter before they ran",
        f"noise of a probe: {100 * outcome.noise.sigma:.1f} %, from {outcome.noise.n} of the incumbent alone; two "
        f"probes differ by {100 * outcome.noise.relative:.0f} % by chance, and what is nearer is called a tie",
    ]


def _highlights(config: Config, outcome: Outcome, chosen: Runner | None) -> list[Highlight]:
    if chosen is None or chosen.ratio is None:
        return []
    objective = config.study.objectives[0]
    label, unit, scale = _LABELS[objective]
    return [
        Highlight(f"{label} ({unit})", f"{scale * _mean(chosen.measurements, config.limits, objective):.2f}", "tuned"),
        Highlight(
            f"{label} ({unit})",
            f"{scale * _mean(outcome.race.incumbent.measurements, config.limits, objective):.2f}",
            "as it was, in the same rounds",
        ),
        Highlight("gain", f"{chosen.ratio.value:.2f}×", f"[{chosen.ratio.low:.2f}, {chosen.ratio.high:.2f}]"),
    ]


def _mean(found: Sequence[Measurement], limits: Limits, objective: Objective) -> float:
    return statistics.mean(limits.value(each, objective) for each in found) if found else 0.0


def side_by_side(runners: Sequence[tuple[str, Runner]], limits: Limits) -> Table:
    """Returns a row a runner of a race: means over its rounds, the ratio to the first, and how it ended."""
    percentile = f"p{limits.slo.percentile}"
    columns = [Column("configuration", align="left"), Column("rounds"), Column("goodput", "1/s")]
    columns += [Column("throughput", "tokens/s"), Column(f"TTFT {percentile}", "ms"), Column(f"ITL {percentile}", "ms")]
    columns += [Column("against the incumbent"), Column("", align="left")]
    rows: list[list[object]] = []
    for name, runner in runners:
        cells: list[object] = [scale * _mean(runner.measurements, limits, objective) for objective, scale in _SHOWN]
        kind = _ENDED.get(runner.verdict or "", "unclear")
        ratio = f"{runner.ratio.value:.2f} [{runner.ratio.low:.2f}, {runner.ratio.high:.2f}]" if runner.ratio else None
        ended = Judged(runner.verdict, kind) if runner.verdict else "incumbent"
        rows.append([name, len(runner.measurements), *cells, ratio, ended])
    note = "rounds in which all took turns in changing order; intervals share an error of 5 % over all looks"
    return Table("The finalists beside the incumbent", columns, rows, note=note)


def _race_section(config: Config, outcome: Outcome) -> Section:
    runners = [("incumbent", outcome.race.incumbent)]
    runners += [(f"finalist {number}", each) for number, each in enumerate(outcome.race.runners, start=1)]
    changed = [[name, *_changes(runner.settings, outcome.incumbent)] for name, runner in runners[1:]]
    columns = [Column("configuration", align="left"), Column("differs from the incumbent in", align="left")]
    rows: list[list[object]] = [[row[0], ", ".join(row[1:]) or "nothing"] for row in changed]
    tables = [side_by_side(runners, config.limits), Table("What they are", columns, rows)]
    return Section("Default and tuned, side by side", outcome.race.reason, tables)


def _changes(settings: dict[str, Any], incumbent: dict[str, Any]) -> list[str]:
    keys = [key for key in {**incumbent, **settings} if settings.get(key) != incumbent.get(key)]
    return [f"{key}: {incumbent.get(key)} → {settings.get(key)}" for key in keys]


def _gate_section(outcome: Outcome) -> Section:
    rows: list[list[object]] = []
    for runner, judged in outcome.judged:
        kind = VERDICT_KINDS[judged.verdict.decision]
        changes = ", ".join(_changes(runner.settings, outcome.incumbent))
        verdict = judged.verdict
        rows.append([changes, Judged(verdict.decision, kind), verdict.reasons[0], judged.engine.digest[:12]])
    columns = [Column(name, align="left") for name in ("tuned engine", "verdict", "reason", "digest")]
    text = "Built with the tuned settings and asked the gate's questions anew; one that fails is not deployed."
    return Section("The gate on the tuned answers", text, [Table("Verdicts", columns, rows)])


def _quality(outcome: Outcome) -> dict[str, float]:
    """Share of tasks done, by the point's settings as text, where the gate has asked."""
    found: dict[str, float] = {}
    for runner, judged in outcome.judged:
        metrics = judged.evaluation.manifest.metrics.get(GATED_SET, {})
        value = metrics.get("task_success", {}).get("value")
        if value is not None:
            found[str(sorted(runner.settings.items()))] = float(value)
    return found


def trial_line(trial: Trial, limits: Limits) -> str:
    """Returns a line for a person about a point that was looked at."""
    shown = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in trial.settings.items())
    if trial.measurement is None:
        return f"probe    {shown}: {trial.error}"
    broken = [f"{name} {value:.2f}×" for name, value in trial.pressure.items() if value > 1]
    goodput = limits.value(trial.measurement, "goodput")
    tokens = limits.value(trial.measurement, "tokens_per_second")
    over = f", over: {', '.join(broken)}" if broken else ""
    return f"probe    {shown}: goodput {goodput:.2f}/s, {tokens:.0f} tokens/s{over}"


def round_line(number: int, runners: Sequence[Runner]) -> str:
    """Returns a line for a person about a round of a race."""
    return f"race     round {number + 1}: " + "; ".join(
        f"{times(each.ratio)} {each.verdict or 'open'}" for each in runners
    )


def points_section(
    trials: Sequence[Trial],
    limits: Limits,
    objectives: Sequence[Objective],
    incumbent: dict[str, Any],
    quality: dict[str, float],
) -> Section:
    """Returns every measured point: the front, its plot, and each point's configuration and evidence to open."""
    measured = {trial.number: trial for trial in trials if trial.measurement is not None}
    axes = tuple(objectives) if len(objectives) > 1 else FRONT
    values: dict[int, dict[Objective, float]] = {
        number: {each: limits.value(trial.measurement, each) for each in axes}
        for number, trial in measured.items()
        if trial.measurement is not None
    }
    best = front({number: values[number] for number, trial in measured.items() if trial.feasible}, axes)
    columns = [Column("point", align="left"), *(Column(*_LABELS[each][:2]) for each in axes)]
    columns += [Column("quality", "%"), Column("differs from the incumbent in", align="left")]
    rows: list[list[object]] = [
        [
            f"#{number}",
            *(values[number][each] * _LABELS[each][2] for each in axes),
            _percent(quality.get(str(sorted(measured[number].settings.items())))),
            ", ".join(_changes(measured[number].settings, incumbent)) or "nothing",
        ]
        for number in best
    ]
    note = f"points that keep the SLO and that no other beats in {', '.join(_LABELS[each][0] for each in axes)} at once"
    folded = [
        Folded(_line(trial, limits, number in best), _evidence(trial, limits)) for number, trial in measured.items()
    ]
    plots = [_plot(measured, values, best, x, y) for x, y in _pairs(axes)]
    text = "Each point opens to its configuration and what was measured with it."
    return Section("Every point", text, [Table("The front", columns, rows, note=note)], plots, folded=folded)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _pairs(axes: Sequence[Objective]) -> list[tuple[Objective, Objective]]:
    return [(other, axes[0]) for other in axes[1:3]]


def _plot(
    measured: dict[int, Trial],
    values: dict[int, dict[Objective, float]],
    best: Sequence[int],
    x: Objective,
    y: Objective,
) -> Plot:
    groups = {
        "front": [number for number in measured if number in best],
        "keeps the SLO": [number for number, trial in measured.items() if trial.feasible and number not in best],
        "breaks it": [number for number, trial in measured.items() if not trial.feasible],
    }
    (x_name, x_unit, x_scale), (y_name, y_unit, y_scale) = _LABELS[x], _LABELS[y]
    series = [
        Series(name, [values[n][x] * x_scale for n in numbers], [values[n][y] * y_scale for n in numbers])
        for name, numbers in groups.items()
        if numbers
    ]
    return Plot(
        f"{y_name} against {x_name}", f"{x_name} ({x_unit})", f"{y_name} ({y_unit})", series, kind="points", x_log=True
    )


def _line(trial: Trial, limits: Limits, on_front: bool) -> str:
    if trial.measurement is None:
        return f"#{trial.number}"
    value = limits.value(trial.measurement, "goodput")
    broken = ", ".join(f"{name} {factor:.2f}×" for name, factor in trial.pressure.items() if factor > 1)
    mark = "front, " if on_front else ""
    return f"#{trial.number}: {mark}goodput {value:.2f}/s" + (f", over {broken}" if broken else ", keeps the SLO")


def _evidence(trial: Trial, limits: Limits) -> str:
    found = trial.measurement
    if found is None:
        return ""
    percentile = f"p{limits.slo.percentile}"
    values = {
        "configuration": trial.settings,
        "limits used": {name: round(value, 3) for name, value in trial.pressure.items()},
        "measured": {
            "engine": found.engine_digest,
            "started_at": found.started_at,
            "seconds": round(found.seconds, 2),
            "requests": found.requests,
            "errors": found.errors,
            "goodput": _rounded(found.goodput),
            "tokens_per_second": _rounded(found.tokens_per_second),
            f"ttft_seconds {percentile}": _rounded(found.ttft.get(percentile)),
            f"itl_seconds {percentile}": _rounded(found.itl.get(percentile)),
            "memory_bytes": found.machine.memory_bytes,
            "load has its shape": found.load.valid,
        },
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _rounded(found: Estimate | None) -> str | None:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}], n={found.n}" if found else None


def _refused_section(outcome: Outcome) -> Section:
    rows: list[list[object]] = [
        [trial.refused or "died", ", ".join(f"{k}={v}" for k, v in trial.settings.items()), trial.error or None]
        for trial in outcome.study.trials
        if trial.refused or trial.error
    ]
    columns = [Column(name, align="left") for name in ("rule", "point", "error")]
    return Section("Points that did not run", "", [Table("Refused before they ran, or died", columns, rows)])
