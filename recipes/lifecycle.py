"""The whole line: raw records to a benchmarked, promoted engine on Triton, with one report at the end.

python -m recipes.lifecycle
python -m recipes.lifecycle debug=fast
python -m recipes.lifecycle loop.rounds=2      # and tunes what it has promoted, judged and deployed anew each round
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from recipes import (
    app,
    bench,
    build,
    compare,
    convert,
    data,
    deploy,
    evaluate,
    layers,
    lifecycle_loop,
    lifecycle_report,
    references,
    results,
    service,
    stage_seconds,
    train,
)
from recipes.lifecycle_run import Config as Config
from recipes.lifecycle_run import Run
from throughline.artifacts import Artifact, Promotions, code_version, promoted_lines
from throughline.contracts.evaluation import GATED_SET
from throughline.engines import builder
from throughline.reporting import format as fmt
from throughline.reporting.stages import StageTable

QUALITY_STAGES = ("convert", "data", "train", "build", "evaluate")
SERVING_STAGES = ("deploy", "bench")
STAGES = (*QUALITY_STAGES, "compare", "decide", *SERVING_STAGES)


def make_quality(config: Config, table: StageTable) -> Run:
    """Runs the stages that end with evaluated engines; what is made already is found.

    Raises:
        EngineError: Before anything is made, if nothing here builds engines for the profile's back end.
    """
    run = Run(config, table)
    builder(run.compose("build", build.Config, "checkpoint=base").engine.backend)
    run.stage("convert", lambda: convert.make(run.compose("convert", convert.Config)), lambda item: [item])
    run.dataset = run.stage("data", lambda: data.make(run.compose("data", data.Config)), lambda item: [item])
    digest = f"dataset={run.dataset.digest}"
    run.adapter, checkpoint = run.stage(
        "train", lambda: train.make(run.compose("train", train.Config, digest)), lambda pair: pair
    )
    run.engines = run.stage("build", lambda: _build(run, checkpoint), lambda found: list(found.values()))
    run.evaluated = run.stage("evaluate", lambda: _evaluate(run, digest), lambda found: list(found.values()))
    run.sets = lifecycle_report.read_sets(run.evaluated)
    return run


def make(config: Config, table: StageTable) -> Run:
    """Runs all stages in order; what is made already is found.

    Without an engine that passes the gate it ends before deploying, unless the config allows it.
    """
    run = make_quality(config, table)
    digest = f"dataset={run.evaluated[config.precisions[0]].manifest.inputs['dataset']}"
    run.comparison = run.stage("compare", lambda: _compare(run, digest), lambda item: [item])
    decided = run.stage("decide", lambda: _decide(run), lambda item: [item])
    run.decision = json.loads((decided.path / "decision.json").read_text())
    if run.decision["promoted"] is not None:
        Promotions(config.store(), config.line).move(run.decision["promoted_digest"], decided.digest)
    elif not config.allow_unpromoted:
        table.skip(*SERVING_STAGES, *lifecycle_loop.names(config.loop.rounds), why="no engine passes the gate")
        return run
    target = f"target={run.engines[run.decision['candidate']].digest}"
    run.stage(
        "deploy",
        lambda: deploy.make_checked(run.compose("deploy", deploy.Config, target)),
        lambda item: [item],
    )
    run.serving = run.stage(
        "bench",
        lambda: layers.make(run.compose("bench", bench.Config, digest, target)),
        lambda item: [item],
    )
    if config.loop.rounds:
        lifecycle_loop.run_loop(run, digest)
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
    """Evaluates every engine, the reference also under the tools' grammar: one of them shows what it changes."""
    found = {}
    for name in run.each(list(run.engines)):
        target = [f"target={run.engines[name].digest}"]
        if name == run.config.precisions[0]:
            target.append("suite.constrained=true")
        found[name] = evaluate.make(run.compose("evaluate", evaluate.Config, dataset, *target), label=name)
    return found


def _compare(run: Run, dataset: str) -> Artifact:
    """Measures every precision's raw speed at one concurrency, in rounds that they share."""
    engines = ",".join(run.engines[name].digest for name in run.config.precisions)
    concurrency = f"bench.concurrency=[{run.config.compare_concurrency}]"
    return compare.make(run.compose("compare", compare.Config, dataset, f"engines=[{engines}]", last=[concurrency]))


def _decide(run: Run) -> Artifact:
    """Lets the gate judge every precision against the first one and picks the fastest that passes."""
    from throughline.evaluation.gate import choose, decide

    names = run.config.precisions
    cells = run.raw_cells()
    speeds = {name: cell["tokens_per_second"]["value"] for name, cell in cells.items()}
    inputs = {f"evaluation-{name}": run.evaluated[name] for name in names}
    if run.comparison is not None:
        inputs["benchmark"] = run.comparison
    stage = run.config.store().stage(
        "decision",
        "promotion",
        inputs=inputs,
        config={
            "gate": run.config.gate.model_dump(mode="json"),
            "precisions": list(names),
            "line": asdict(run.config.line),
        },
        code_version=code_version("throughline.evaluation", "throughline.benchmarking", "recipes.lifecycle"),
    )
    with stage as attempt:
        if attempt.cached:
            return attempt.cached
        candidates = {name: run.sets[name][GATED_SET] for name in names}
        others = {name: candidates[name] for name in names[1:]}
        verdicts = decide(candidates[names[0]], others, run.config.gate)
        weights = {name: int(run.engines[name].manifest.metrics["weight_bytes"]) for name in names}
        chosen, reason = choose(
            verdicts, candidates, speeds, lambda over, under: results.cell_ratio(cells[over], cells[under]), weights
        )
        passed = chosen in verdicts and verdicts[chosen].decision == "GO"
        decision = {
            "line": asdict(run.config.line),
            "promoted": chosen if passed else None,
            "promoted_digest": run.engines[chosen].digest if passed else None,
            "candidate": chosen,
            "candidate_digest": run.engines[chosen].digest,
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
    stages = (*STAGES, *lifecycle_loop.names(config.loop.rounds))
    seconds = stage_seconds.expected(store, str(config.line), stages, fast=config.debug == "fast")
    app.echo(f"lifecycle of {config.model.name}: profile {config.profile}, debug {config.debug}")
    app.echo(f"{len(stages)} stages, {fmt.eta(sum(seconds.values()))} if none is made yet")
    with StageTable(seconds) as table:
        run = make(config, table)
    page = lifecycle_report.write(run, store.home / "lifecycle")
    lifecycle_report.show(run)
    app.echo(f"report   {page}")
    app.show_log()
    if run.decision["promoted"] is None and not config.allow_unpromoted:
        raise references.refusal(
            run.decision,
            where="gate",
            fix="train on more records, change the policy with gate.…, or serve it all the same: allow_unpromoted=true",
        )
    for text in next_steps(config, run.decision):
        app.echo(text)


def next_steps(config: Config, decision: Mapping[str, Any]) -> list[str]:
    """Returns the lines that say how to go on: serve, chat, and a request that works once it is served."""
    usual = app.PathsSpec()
    own = [f"paths.{name}={path}" for name, path in dict(config.paths).items() if path != getattr(usual, name)]
    if decision["promoted"] is None:
        own.append(f"target={decision['candidate_digest'][:12]}")
    elif config.debug != "none":
        own.append(f"target=promoted/{config.model.name}/{config.debug}")
    elif any(line.model != config.model.name for line in promoted_lines(config.store())):
        own.append(f"target=promoted/{config.model.name}")
    arguments = f' ARGS="{" ".join(own)}"' if own else ""
    return [
        f"next     make serve{arguments}   (the gateway on http://127.0.0.1:8080, until Ctrl-C)",
        "         make chat   (in another terminal)",
        service.curl("http://127.0.0.1:8080", "lab", "What is the capital of France?", lead="         "),
    ]


if __name__ == "__main__":
    main()
