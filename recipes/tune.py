"""Searches engine and service settings for the most goodput within an SLO, and lets the gate judge what it found.

python -m recipes.tune
python -m recipes.tune space=engine study.minutes=30 name=everything
python -m recipes.tune action=check tuned=none target=promoted   # does the tuning of a preset still hold?
python -m recipes.tune action=plan space=tensorrt gpu=h100-sxm config=engines/models/llama-3.1-8b.json workload=chat

A search that was stopped goes on with the same command. What wins is written as a preset with its evidence; it becomes
`candidate` once the gate has judged its answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recipes import app, references, tune_check, tune_gate, tune_plan, tune_prior, tune_report
from recipes.tune_config import Config as Config
from recipes.tune_config import Outcome
from recipes.tune_lint import CpuLint
from recipes.tune_probe import Engines, StackProbe
from throughline.artifacts import Artifact
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ConfigError, TuningError
from throughline.tuning import Probe, Settings, SpaceSpec, Study
from throughline.tuning.evidence import by_layer
from throughline.tuning.noise import Noise, of_probes
from throughline.tuning.race import Race, Runner, race
from throughline.tuning.recorded import Recorded
from throughline.tuning.space import encode, identity

# Hears a line for a person.
Tell = Callable[[str], None]
# Hears how many of so many parts are done: the search, the race, and the gate.
OnPart = Callable[[int, int], None]
_PARTS = 3


def make(
    config: Config,
    *,
    probe: Probe | None = None,
    reference: Artifact | None = None,
    advice: Sequence[Settings] = (),
    tell: Tell = app.echo,
    on_part: OnPart = lambda done, of: None,
) -> Outcome:
    """Searches, races, judges, and writes the preset of what won.

    Args:
        config: What to tune and how long.
        probe: Measures a point; the target's own by default.
        reference: Evaluation of the engine that the gate compares with; the incumbent is evaluated by default.
        advice: Changes of the incumbent to begin with, as a diagnosis proposes them.
        tell: Hears a line for each step.
        on_part: Hears when a part begins.

    Raises:
        TuningError: If no point keeps the SLO, naming the limit and by how much, or the target died.
    """
    engine = references.engine(config.store(), config.target, config.profile)
    info = EngineInfo.read(engine.path)
    layers = {
        "engine": info.spec.model_dump(mode="json"),
        "serve": config.serve.model_dump(mode="json"),
        "gateway": config.gateway.model_dump(mode="json"),
    }
    start = _incumbent(config, layers)
    space = config.space.including(start)
    folder = config.store().home / "tuning" / _fingerprint(config, engine, space)
    engines = Engines(engine, config)
    asked = probe or _probe(config, engines)
    on_part(0, _PARTS)
    noise = _noise(config, Recorded(asked, folder / "noise.jsonl"), start)
    tell(f"noise    {100 * noise.sigma:.1f} % a probe; two differ by {100 * noise.relative:.0f} % by chance")
    study = Study(space, config.study, config.limits, folder / "study.journal", CpuLint(info, config.serve))
    kept = len(study.measured)
    if kept:
        tell(f"goes on  {kept} probes are made already, in {folder}")
    first = [start, *(tune_prior.reconciled(start, each) for each in advice)]
    study.run(
        asked,
        [*first, *tune_prior.proposals(space, start, info, config.workload)],
        lambda trial: tell(tune_report.trial_line(trial, config.limits)),
    )
    if study.best() is None:
        raise impossible(study)
    on_part(1, _PARTS)
    raced = _race(config, Recorded(asked, folder / "race.jsonl"), study, start, noise, tell)
    on_part(2, _PARTS)
    outcome = Outcome(start, engine, study, noise, raced, folder, engines.used)
    _conclude(config, outcome, engines, reference, tell)
    return outcome


def impossible(study: Study) -> TuningError:
    """Returns the error for an SLO that no probe has kept: which limit, by how much, and what came nearest."""
    nearest = study.nearest()
    if nearest is None:
        return TuningError("nothing was measured", where="study", fix="give it more minutes: study.minutes=…")
    name, factor = max(nearest.pressure.items(), key=lambda item: item[1])
    limit = getattr(study.limits.slo, name)
    worth = f"slo.{name}={factor * limit:.3g} or more" if limit else f"slo.{name} above 0"
    return TuningError(
        "no point keeps the SLO",
        where=f"slo.{name}={limit:g}",
        seen=f"exceeded {factor:.2f} times by the nearest of {len(study.measured)} points, {encode(nearest.settings)}",
        fix=f"set {worth}, send less, or widen the space; finished probes are kept",
    )


def _incumbent(config: Config, layers: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return tune_prior.incumbent(config.space, layers)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            "the space names a setting that nothing has",
            where=f"space={config.space.name}",
            seen=str(error),
            fix="correct the key; --cfg job prints those that there are",
        ) from None


def _fingerprint(config: Config, engine: Artifact, space: SpaceSpec) -> str:
    """Of all that a probe's value depends on; the budget may grow."""
    parts = {
        "engine": engine.digest,
        "layer": config.layer,
        "workload": config.workload.model_dump(mode="json"),
        "slo": config.slo.model_dump(mode="json"),
        "price": config.price.model_dump(mode="json"),
        "space": space.model_dump(mode="json"),
        "seconds": config.study.probe_seconds,
        "objectives": list(config.study.objectives),
        "serve": config.serve.model_dump(mode="json"),
        "gateway": config.gateway.model_dump(mode="json"),
        "seed": config.study.seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _probe(config: Config, engines: Engines) -> StackProbe:
    store, engine = config.store(), engines.incumbent
    asks = config.workload.source == "dataset"
    dataset = references.dataset(store, config.dataset, engine.path, engine) if asks else None
    return StackProbe(config.layer, config.workload, config.slo, store, engines, dataset)


def _noise(config: Config, probe: Probe, start: Settings) -> Noise:
    """Probes of the incumbent alone: requests differ from one to the next, as those of the search do."""
    found = [
        probe(start, seconds=config.study.probe_seconds, seed=10_000 + number) for number in range(config.noise_probes)
    ]
    return of_probes(found, config.limits, config.study.objectives[0])


def _race(config: Config, probe: Probe, study: Study, start: Settings, noise: Noise, tell: Tell) -> Race:
    finalists = [trial.settings for trial in study.ranked() if trial.identity != identity(start)]
    return race(
        probe,
        start,
        finalists[: config.race.finalists],
        config.race,
        config.limits,
        config.study.objectives[0],
        noise,
        seed=config.seed + 20_000,
        on_round=lambda number, runners: tell(tune_report.round_line(number, runners)),
    )


def _conclude(config: Config, outcome: Outcome, engines: Engines, reference: Artifact | None, tell: Tell) -> None:
    """Judges the winners in their order until one passes, and writes its preset."""
    for runner in _winners(outcome.race):
        judged = None
        if config.regate:
            engine = engines(by_layer(runner.settings)["engine"])
            judged = tune_gate.judge(
                config,
                engine,
                outcome.engine,
                policy=config.gate,
                suite=config.suite,
                line=config.line,
                dataset=config.dataset,
                evaluated=reference,
            )
            outcome.judged.append((runner, judged))
            tell(f"gate     {judged.verdict.decision}: {judged.verdict.reasons[0]}")
            if not judged.passed:
                continue
            tune_gate.appoint(config, judged, config.line)
        outcome.preset = tune_report.preset(config, outcome, runner, judged)
        outcome.path = tune_report.write_preset(outcome.preset, config.presets)
        return


def _winners(found: Race) -> list[Runner]:
    """The winner, and the others that are better too, best first: what is left where the gate refuses the best."""
    if found.winner is None:
        return []
    others = [each for each in found.runners if each.verdict == "better" and each is not found.winner]
    return [found.winner, *others]


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.action == "check":
        tune_check.run(config)
        return
    if config.action == "plan":
        tune_plan.run(config)
        return
    app.echo(f"tune     {config.space.name}: {config.space.size()} points, {config.study.minutes:g} min of probes")
    outcome = make(config)
    page = tune_report.write(config, outcome)
    app.echo(f"result   {outcome.race.reason}")
    app.echo(f"report   {page}")
    if outcome.preset is not None and outcome.path is not None:
        app.echo(f"preset   {outcome.path}")
        deploy = "recipes.deploy target=candidate" if outcome.judged else f"recipes.build tuned={outcome.preset.name}"
        app.echo(f"next     python -m {deploy}")
    elif outcome.judged:
        raise references.refusal(
            json.loads((outcome.judged[0][1].decision.path / "decision.json").read_text()),
            where="gate",
            fix="leave what changes answers out of the space, or keep the incumbent",
        )


if __name__ == "__main__":
    main()
