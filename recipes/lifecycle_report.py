"""The lifecycle's report: one page and one JSON file with the same numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from recipes import app, lifecycle_loop, results, sample
from recipes.lifecycle_run import Run
from throughline.artifacts import Artifact, describe_environment
from throughline.contracts.evaluation import GATED_SET, SHIFTED_SET, Evaluation
from throughline.contracts.report import Column, Highlight, Judged, Report, Section, Table, VerdictKind

VERDICT_KINDS: Mapping[str, VerdictKind] = {"GO": "good", "NO_GO": "bad", "INCONCLUSIVE": "unclear"}


def read_sets(artifacts: Mapping[str, Artifact]) -> dict[str, dict[str, Evaluation]]:
    """Reads the evaluations of every engine by engine and set."""
    from throughline.evaluation.store import read_evaluations

    return {name: read_evaluations(artifact.path) for name, artifact in artifacts.items()}


def write(run: Run, folder: Path) -> Path:
    """Writes `report.html` and `report.json` and returns the page's path."""
    from throughline.reporting.html import write_report

    page, values = write_report(build(run), folder)
    # The page's own JSON holds tables and plots; the figures by name come first for programs.
    merged = figures(run) | {"report": orjson.loads(values.read_bytes())}
    partial = values.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(merged, option=orjson.OPT_INDENT_2))
    partial.replace(values)
    return page


def figures(run: Run) -> dict[str, Any]:
    """Returns quality by set, serving, stages, sizes, lineage and the promoted engine by name."""
    cells, raw = _serving(run).get("cells", []), run.raw_cells()
    return {
        "quality": {name: results.quality_json(found[GATED_SET]) for name, found in run.sets.items()},
        "quality_by_set": {
            asked: {name: results.quality_json(found[asked]) for name, found in run.sets.items() if asked in found}
            for asked in results.set_names(run.sets)
        },
        "serving": results.serving_json(cells),
        "serving_ratio": _ratio_values(cells),
        "engines": {
            name: {
                "digest": engine.digest,
                "weight_bytes": engine.manifest.metrics["weight_bytes"],
                "tokens_per_second": run.decision["tokens_per_second"].get(name),
                "memory_bytes": raw.get(name, {}).get("memory_bytes"),
            }
            for name, engine in run.engines.items()
        },
        "stages": {"setup": {"seconds": setup_seconds(), "seconds_this_run": 0.0, "found": True}}
        | {
            stage.name: {
                "seconds": stage.seconds,
                "seconds_this_run": stage.seconds_now,
                "found": stage.found,
            }
            for stage in run.stages
        },
        "lineage": [
            {"kind": item.manifest.kind, "name": item.manifest.name, "digest": item.digest} for item in _lineage(run)
        ],
        "promoted": run.decision["promoted"],
        "loop": lifecycle_loop.figures(run.rounds),
        "decision": run.decision,
    }


def build(run: Run) -> Report:
    """Returns the report's content."""
    decision = run.decision
    served = decision["verdicts"][decision["candidate"]]["decision"]
    kind: VerdictKind = "good" if decision["promoted"] else "unclear" if served == "INCONCLUSIVE" else "bad"
    environment = describe_environment()
    machine = environment["machine"]
    return Report(
        title=f"Lifecycle of {run.config.model.name}",
        verdict=verdict(run),
        verdict_kind=kind,
        summary=[decision["reason"]],
        opening=_sample_section(run),
        highlights=list(_highlights(run)),
        sections=[
            _quality_section(run),
            _engine_section(run),
            _detail_section(run),
            *([_serving_section(run)] if run.serving else []),
            *([lifecycle_loop.section(run.rounds)] if run.rounds else []),
            _training_section(run),
            _data_section(run),
            _stage_section(run),
            _lineage_section(run),
        ],
        environment={
            "processor": f"{machine['processor']}, {machine['cores']} cores",
            "system": str(machine["system"]),
            "python": str(environment["python"]),
            "commit": str(environment["git_commit"]),
            **{name: str(version) for name, version in environment["packages"].items()},
        },
        command=app.command(f"python -m recipes.lifecycle profile={run.config.profile} debug={run.config.debug}"),
    )


def verdict(run: Run) -> str:
    """Returns the one line to take away."""
    promoted = run.decision["promoted"]
    if not promoted:
        served = f"{run.decision['candidate']} was served all the same" if run.serving else "nothing was deployed"
        return f"No engine passes the gate; {served}"
    metric = results.leading(run.sets)
    from throughline.reporting import format as fmt

    value = run.sets[promoted][GATED_SET].metrics[metric].value
    size = fmt.bytes_(run.engines[promoted].manifest.metrics["weight_bytes"])
    tuned = lifecycle_loop.gained(run.rounds)
    return f"{promoted} is promoted: {results.label(metric)} {fmt.percent(value)}, {size} of weights{tuned}"


def show(run: Run) -> None:
    """Prints the report's main tables and the verdict."""
    from throughline.reporting.terminal import print_table

    for asked in (GATED_SET, SHIFTED_SET):
        found = [sets[asked] for sets in run.sets.values() if asked in sets]
        if found:
            print_table(results.quality_table(found, asked))
    print_table(_engine_table(run))
    if run.serving:
        print_table(results.serving_table(_serving(run)["cells"]))
    if run.rounds:
        for table in lifecycle_loop.section(run.rounds).tables:
            print_table(table)
    app.echo()
    app.echo(f"verdict  {verdict(run)}")


def _sample_section(run: Run) -> Section | None:
    from throughline.evaluation.questions import load_questions

    if run.dataset is None:
        return None
    # The smallest precision beside base and tuned: what quantising costs is seen there first.
    smallest = "int4" if "int4" in run.evaluated else run.config.precisions[-1]
    answers = {name: sample.answers_of(run.evaluated[name].path / GATED_SET) for name in ("base", "tuned", smallest)}
    return sample.sample_section(load_questions(run.dataset.path / f"{GATED_SET}.jsonl"), answers)


def _highlights(run: Run) -> Iterator[Highlight]:
    from throughline.evaluation.compare import compare
    from throughline.reporting import format as fmt

    metric = results.leading(run.sets)
    name = results.label(metric)
    gain = compare(run.sets["base"][GATED_SET], run.sets["tuned"][GATED_SET], metric)
    yield Highlight(
        f"{name}, base → tuned",
        f"{fmt.percent(gain.reference)} → {fmt.percent(gain.candidate)}",
        f"gain {fmt.points(gain.difference, gain.low, gain.high)} on {gain.n} questions",
    )
    shifted = run.sets["tuned"].get(SHIFTED_SET)
    if shifted is not None and metric in shifted.metrics:
        found = shifted.metrics[metric]
        yield Highlight(
            "the same on unseen wording", fmt.percent(found.value), fmt.interval(found.low, found.high, 100)
        )
    reference, serve = run.config.precisions[0], run.decision["candidate"]
    sizes = {name: run.engines[name].manifest.metrics["weight_bytes"] for name in (reference, serve)}
    yield Highlight(f"weights of {serve}", fmt.bytes_(sizes[serve]), f"{reference}: {fmt.bytes_(sizes[reference])}")
    speeds = run.decision["tokens_per_second"]
    yield Highlight(
        f"raw speed of {serve}",
        f"{fmt.number(speeds[serve])} tokens/s",
        f"{reference}: {fmt.number(speeds[reference])}; {run.decision['concurrency']} users",
    )
    total = setup_seconds() + sum(stage.seconds for stage in run.stages)
    train = sum(stage.seconds for stage in run.stages if stage.name == "train")
    yield Highlight("from nothing to here", fmt.seconds(total), f"training {fmt.seconds(train)}")


def _quality_section(run: Run) -> Section:
    metric = results.leading(run.sets)
    text = (
        "base is the checkpoint before training, tuned after it, both as float32; then each engine. "
        f"`{GATED_SET}` is of the same world as the training records, other customers and later in time; "
        f"`{SHIFTED_SET}` has wording that no record had. Only `{GATED_SET}` gates."
    )
    return Section("Quality", text, [results.set_table(run.sets, metric)], [results.set_plot(run.sets, metric)])


def _detail_section(run: Run) -> Section:
    tables = []
    for name in results.set_names(run.sets):
        tables.append(results.quality_table([found[name] for found in run.sets.values() if name in found], name))
    reference = run.config.precisions[0]
    for name in (GATED_SET, SHIFTED_SET):
        found = {engine: sets[name] for engine, sets in run.sets.items() if name in sets and engine != "base"}
        if reference in found:
            tables.append(results.pairwise_table(found, reference, asked=name))
    return Section("Quality in detail", "", tables)


def _engine_table(run: Run) -> Table:
    from throughline.reporting import format as fmt

    users = run.decision["concurrency"]
    metric = results.leading(run.sets)
    raw = run.raw_cells()
    rows: list[list[object]] = []
    for name in run.config.precisions:
        engine, judged = run.engines[name], run.decision["verdicts"][name]
        memory = raw[name].get("memory_bytes")
        found = [run.sets[name].get(asked) for asked in (GATED_SET, SHIFTED_SET)]
        values = [item.metrics.get(metric) if item else None for item in found]
        rows.append(
            [
                name,
                fmt.bytes_(engine.manifest.metrics["weight_bytes"]),
                run.decision["tokens_per_second"][name],
                fmt.bytes_(memory) if memory else None,
                *(fmt.percent(value.value) if value else None for value in values),
                Judged(judged["decision"], VERDICT_KINDS[judged["decision"]]),
                judged["reasons"][0],
            ]
        )
    columns = [
        Column("engine", align="left"),
        Column("weights"),
        Column(f"raw speed at {users}", "tokens/s"),
        Column("process memory"),
        Column(GATED_SET),
        Column(SHIFTED_SET),
        Column("gate", align="left"),
        Column("first reason", align="left"),
    ]
    return Table("Engines", columns, rows, note=f"{GATED_SET} and {SHIFTED_SET}: {results.label(metric)}")


def _engine_section(run: Run) -> Section:
    names = {cell["target"]: name for name, cell in run.raw_cells().items()}
    cells = [{**cell, "target": names[cell["target"]]} for cell in run.raw_cells().values()]
    return Section("Engines", run.decision["reason"], [_engine_table(run), results.comparison_table(cells)], [])


def _serving_section(run: Run) -> Section:
    serving = _serving(run)
    cells = serving["cells"]
    most = max(cell["concurrency"] for cell in cells)
    text = (
        f"{serving['engine']}: raw is the engine alone in a process, triton its gRPC stream, gateway OpenAI streaming "
        "under Locust. Targets take turns within each round, on the same requests with a number before each, so that "
        "none finds another's prompts in a cache. Raw is the limit of the two above it."
    )
    plots = [results.throughput_plot(cells), results.first_token_plot(serving, most)]
    return Section("Serving", text, [results.serving_table(cells), results.ratio_table(cells)], plots)


def _training_section(run: Run) -> Section:
    if run.adapter is None:
        return Section("Training", "", [], [])
    curves = json.loads((run.adapter.path / "training.json").read_text())
    return Section("Training", "LoRA with NeMo AutoModel.", [], results.loss_plots(curves))


def _data_section(run: Run) -> Section:
    if run.dataset is None:
        return Section("Data", "", [], [])
    found = run.dataset.manifest.metrics
    records = {name: found[name] for name in ("lines", "kept", "train", "validation", "questions")}
    tables = [
        results.mapping_table("Records", records),
        results.mapping_table("Left out", found["rejects"]),
        results.mapping_table("Personal data replaced", found["personal"]),
        results.mapping_table("Licences", found["licences"]),
    ]
    rejects = run.dataset.path / "restricted" / "rejects.jsonl"
    return Section("Data", f"Rejected lines with reasons: {rejects}", tables, [])


def _stage_table(run: Run) -> Table:
    setup = setup_seconds()
    total = setup + sum(stage.seconds for stage in run.stages)
    rows: list[list[object]] = [["setup", "found", None, round(setup, 1), f"{100 * setup / total:.0f} %"]]
    for stage in run.stages:
        state = "found" if stage.found else "made"
        share = f"{100 * stage.seconds / total:.0f} %"
        rows.append([stage.name, state, round(stage.seconds_now, 1), round(stage.seconds, 1), share])
    columns = [
        Column("stage", align="left"),
        Column("", align="left"),
        Column("this run", "s"),
        Column("when made", "s"),
        Column("share"),
    ]
    return Table("Stages", columns, rows)


def setup_seconds() -> float:
    """Returns how long `make setup` took, from its stamp; 0 where it did not make this environment."""
    stamp = Path(sys.prefix) / "throughline-setup.json"
    return float(json.loads(stamp.read_text()).get("seconds", 0.0)) if stamp.is_file() else 0.0


def _stage_section(run: Run) -> Section:
    return Section("Stages", "", [_stage_table(run)], [])


def _lineage_section(run: Run) -> Section:
    rows: list[list[object]] = [
        [item.manifest.kind, item.manifest.name, item.digest[:16], ", ".join(item.manifest.licences)]
        for item in _lineage(run)
    ]
    columns = [Column(name, align="left") for name in ("kind", "name", "digest", "licences")]
    sources = run.dataset.manifest.metrics["sources"] if run.dataset else {}
    tables = [
        Table("From records to engine", columns, rows),
        results.mapping_table("Records by source", sources),
    ]
    return Section("Lineage", "", tables, [])


def _lineage(run: Run) -> list[Artifact]:
    engine = run.engines[run.decision["candidate"]]
    return [*run.config.store().ancestors(engine), engine]


def _serving(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.serving.path / "benchmark.json").read_text()) if run.serving else {}
    return found


def _ratio_values(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    raw = {cell["concurrency"]: cell for cell in cells if cell["target"] == "raw"}
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        users = cell["concurrency"]
        if cell["target"] != "raw" and users in raw:
            found.setdefault(cell["target"], {})[str(users)] = results.cell_ratio(cell, raw[users]).value
    return found
