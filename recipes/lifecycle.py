"""The whole line: raw records to a benchmarked, promoted engine on Triton, with one report at the end.

python -m recipes.lifecycle
python -m recipes.lifecycle debug=fast
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import Field

from recipes import app, bench, build, convert, data, deploy, evaluate, lifecycle_report, service, stage_seconds, train
from throughline.artifacts import Artifact, code_version
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import GateInconclusive, GateNoGo
from throughline.contracts.evaluation import GATED_SET, Evaluation, GatePolicy
from throughline.reporting import format as fmt
from throughline.reporting.stages import StageTable

STAGES = ("convert", "data", "train", "build", "evaluate", "compare", "decide", "deploy", "bench")
T = TypeVar("T")


class StagesSpec(StrictModel):
    """Overrides for each stage's own recipe."""

    data: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()
    bench: tuple[str, ...] = ()


class Config(app.RecipeConfig):
    """Settings of `recipes.lifecycle`."""

    model: app.ModelSpec
    gate: GatePolicy
    debug: str = "none"
    stages: StagesSpec = StagesSpec()
    precisions: tuple[str, ...] = Field(default=("bf16", "int8", "int4"), min_length=1)
    compare_concurrency: int = Field(default=8, ge=1)
    enforce_gate: bool = False


@dataclass
class Stage:
    """A stage of this run: its artifacts, wall seconds now and when they were made, and whether all were found."""

    name: str
    artifacts: list[Artifact] = field(default_factory=list)
    seconds_now: float = 0.0
    found: bool = False

    @property
    def seconds(self) -> float:
        """Seconds that making the artifacts took, in this run or an earlier one."""
        return sum(item.manifest.seconds for item in self.artifacts)


@dataclass
class Run:
    """Everything that a run made or found; `table` shows how far it is."""

    config: Config
    table: StageTable
    stages: list[Stage] = field(default_factory=list)
    dataset: Artifact | None = None
    adapter: Artifact | None = None
    engines: dict[str, Artifact] = field(default_factory=dict)
    evaluated: dict[str, Artifact] = field(default_factory=dict)
    sets: dict[str, dict[str, Evaluation]] = field(default_factory=dict)
    raw_benchmarks: dict[str, Artifact] = field(default_factory=dict)
    decision: dict[str, Any] = field(default_factory=dict)
    serving: Artifact | None = None

    def stage(self, name: str, work: Callable[[], T], artifacts: Callable[[T], Sequence[Artifact]]) -> T:
        """Runs a stage, times it and shows what came out."""
        store = self.config.store()
        known = {item.digest for item in store.all()}
        with self.table.stage(name) as row:
            result = work()
            made = list(artifacts(result))
            row.found = all(item.digest in known for item in made)
            row.text = ", ".join(item.short for item in made)
        stage = Stage(name, made, row.seconds, row.found)
        self.stages.append(stage)
        if not stage.found:
            stage_seconds.remember(store, line(self.config), name, stage.seconds)
        return result

    def each(self, names: Sequence[str]) -> Iterator[str]:
        """Yields names, and tells the table how many of the stage's parts are done."""
        for done, name in enumerate(names):
            self.table.part(done, len(names))
            yield name

    def compose(self, recipe: str, schema: type[app.C], *overrides: str, last: Sequence[str] = ()) -> app.C:
        """Composes a stage's own recipe with this run's profile, model, seed and paths.

        The user's `stages.<recipe>` win over `overrides`, and `last` over both.
        """
        config = self.config
        shared = [f"profile={config.profile}", f"seed={config.seed}", f"paths.home={config.paths.home}"]
        shared += [
            f"paths.model_repository={config.paths.model_repository}",
            f"log.format={config.log.format}",
        ]
        own = getattr(config.stages, recipe, ())
        composed = app.compose(recipe, [*shared, *overrides, *own, *last])
        if "model" in schema.model_fields:
            # Not as overrides: a system prompt or path may hold what Hydra's grammar reads as its own.
            composed["model"] = config.model.model_dump(mode="json")
        return app.to_schema(composed, schema)


def line(config: Config) -> str:
    """Names the runs whose stages take about as long as this one's."""
    return f"{config.model.name}/{config.profile}/{config.debug}"


def make(config: Config, table: StageTable) -> Run:
    """Runs all stages in order; what is made already is found."""
    run = Run(config, table)
    run.stage("convert", lambda: convert.make(run.compose("convert", convert.Config)), lambda item: [item])
    run.dataset = run.stage("data", lambda: data.make(run.compose("data", data.Config)), lambda item: [item])
    digest = f"dataset={run.dataset.digest}"
    run.adapter, checkpoint = run.stage(
        "train", lambda: train.make(run.compose("train", train.Config, digest)), lambda pair: pair
    )
    run.engines = run.stage("build", lambda: _build(run, checkpoint), lambda found: list(found.values()))
    run.evaluated = run.stage("evaluate", lambda: _evaluate(run, digest), lambda found: list(found.values()))
    run.sets = lifecycle_report.read_sets(run.evaluated)
    run.raw_benchmarks = run.stage("compare", lambda: _compare(run, digest), lambda found: list(found.values()))
    decided = run.stage("decide", lambda: _decide(run), lambda item: [item])
    run.decision = json.loads((decided.path / "decision.json").read_text())
    promoted = run.decision["serve"]
    run.stage(
        "deploy",
        lambda: deploy.make_checked(run.compose("deploy", deploy.Config, f"target={run.engines[promoted].digest}")),
        lambda item: [item],
    )
    run.serving = run.stage(
        "bench",
        lambda: bench.make(run.compose("bench", bench.Config, digest, f"target={run.engines[promoted].digest}")),
        lambda item: [item],
    )
    return run


def _build(run: Run, checkpoint: Artifact) -> dict[str, Artifact]:
    """Builds float32 references of base and tuned, and every precision of tuned."""
    wanted = {"base": ("f32", "base"), "tuned": ("f32", checkpoint.digest)}
    wanted |= {precision: (precision, checkpoint.digest) for precision in run.config.precisions}
    made = {}
    for name in run.each(list(wanted)):
        precision, source = wanted[name]
        made[name] = build.make(run.compose("build", build.Config, f"quant={precision}", f"checkpoint={source}"))
    return made


def _evaluate(run: Run, dataset: str) -> dict[str, Artifact]:
    return {
        name: evaluate.make(
            run.compose("evaluate", evaluate.Config, dataset, f"target={run.engines[name].digest}"), label=name
        )
        for name in run.each(list(run.engines))
    }


def _compare(run: Run, dataset: str) -> dict[str, Artifact]:
    """Measures every precision's raw speed at one concurrency."""
    concurrency = f"bench.concurrency=[{run.config.compare_concurrency}]"
    return {
        name: bench.make(
            run.compose(
                "bench",
                bench.Config,
                dataset,
                f"target={run.engines[name].digest}",
                "targets=[raw]",
                last=[concurrency],
            )
        )
        for name in run.each(run.config.precisions)
    }


def _decide(run: Run) -> Artifact:
    """Lets the gate judge every precision against the first one and picks the fastest that passes."""
    from throughline.evaluation.gate import choose, decide

    names = run.config.precisions
    speeds = {
        name: artifact.manifest.metrics["cells"][0]["tokens_per_second"]["value"]
        for name, artifact in run.raw_benchmarks.items()
    }
    inputs = {f"evaluation-{name}": run.evaluated[name] for name in names}
    inputs |= {f"benchmark-{name}": run.raw_benchmarks[name] for name in names}
    stage = run.config.store().stage(
        "decision",
        "promotion",
        inputs=inputs,
        config={"gate": run.config.gate.model_dump(mode="json"), "precisions": list(names)},
        code_version=code_version("throughline.evaluation.gate", "recipes.lifecycle"),
    )
    with stage as attempt:
        if attempt.cached:
            return attempt.cached
        candidates = {name: run.sets[name][GATED_SET] for name in names}
        others = {name: candidates[name] for name in names[1:]}
        verdicts = decide(candidates[names[0]], others, run.config.gate)
        weights = {name: int(run.engines[name].manifest.metrics["weight_bytes"]) for name in names}
        chosen, reason = choose(verdicts, candidates, speeds, weights)
        passed = chosen in verdicts and verdicts[chosen].decision == "GO"
        decision = {
            "promoted": chosen if passed else None,
            "serve": chosen,
            "engine_digest": run.engines[chosen].digest,
            "reason": reason,
            "verdicts": {name: verdict.as_dict() for name, verdict in verdicts.items()},
            "tokens_per_second": speeds,
            "concurrency": run.config.compare_concurrency,
        }
        (attempt.directory / "decision.json").write_text(json.dumps(decision, indent=1) + "\n")
        return attempt.commit(metrics={"promoted": decision["promoted"], "reason": reason})


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    store = config.store()
    seconds = stage_seconds.expected(store, line(config), STAGES, fast=config.debug == "fast")
    app.say(f"lifecycle of {config.model.name}: profile {config.profile}, debug {config.debug}")
    app.say(f"{len(STAGES)} stages, {fmt.eta(sum(seconds.values()))} if none is made yet")
    with StageTable(seconds) as table:
        run = make(config, table)
    page = lifecycle_report.write(run, store.home / "lifecycle")
    lifecycle_report.show(run)
    app.say(f"report   {page}")
    app.show_log()
    for text in next_steps(config):
        app.say(text)
    if config.enforce_gate:
        _exit_by(run.decision)


def next_steps(config: Config) -> list[str]:
    """Returns the lines that say how to go on: serve, chat, and a request that works once it is served."""
    home = config.paths.home
    own = "" if home == app.PathsSpec().home else f' ARGS="paths.home={home}"'
    return [
        f"next     make serve{own}   (the gateway on http://127.0.0.1:8080, until Ctrl-C)",
        "         make chat   (in another terminal)",
        service.curl("http://127.0.0.1:8080", "lab", "What is the capital of France?", lead="         "),
    ]


def _exit_by(decision: dict[str, Any]) -> None:
    """Raises what the gate said of the engine that was served, unless it passed.

    Raises:
        GateNoGo: If no engine may be promoted.
        GateInconclusive: If the evidence for the reference engine does not suffice.
    """
    if decision["promoted"] is not None:
        return
    verdict = decision["verdicts"][decision["serve"]]
    kind = GateInconclusive if verdict["decision"] == "INCONCLUSIVE" else GateNoGo
    raise kind(
        "no engine passes the gate",
        where=f"gate, {decision['serve']}",
        seen=verdict["reasons"][0],
        fix="train longer or on more records, or change the policy with gate.…",
    )


if __name__ == "__main__":
    main()
