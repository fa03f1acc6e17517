"""The lifecycle's report: one page and one JSON file with the same numbers."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from recipes import app, results
from throughline.artifacts import Artifact, describe_environment
from throughline.contracts.evaluation import GATED_SET, Evaluation
from throughline.contracts.report import Column, Plot, Report, Section, Series, Table, VerdictKind

if TYPE_CHECKING:
    from recipes.lifecycle import Run

COMPARED = (("triage_exact_match", "triage exact match"), ("refusal_accuracy", "refusal accuracy"))


def read_evaluations(artifacts: Mapping[str, Artifact]) -> dict[str, Evaluation]:
    """Reads the gated set's evaluations by the model's name."""
    from throughline.evaluation.store import read_evaluations as read_sets

    return {name: read_sets(artifact.path)[GATED_SET] for name, artifact in artifacts.items()}


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
    """Returns quality, serving, stages, sizes, lineage and the promoted engine by name."""
    cells = _serving(run)["cells"]
    return {
        "quality": {name: results.quality_json(item) for name, item in run.evaluations.items()},
        "serving": results.serving_json(cells),
        "serving_ratio": _ratio_values(cells),
        "engines": {
            name: {
                "digest": engine.digest,
                "weight_bytes": engine.manifest.metrics["weight_bytes"],
                "tokens_per_second": run.decision["tokens_per_second"].get(name),
                "memory_bytes": _memory(run, name),
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
        "decision": run.decision,
    }


def build(run: Run) -> Report:
    """Returns the report's content."""
    decision = run.decision
    promoted = decision["promoted"]
    verdict = f"Promote {promoted}" if promoted else f"No engine passes the gate; {decision['serve']} was served"
    served = decision["verdicts"][decision["serve"]]["decision"]
    kind: VerdictKind = "good" if promoted else "unclear" if served == "INCONCLUSIVE" else "bad"
    environment = describe_environment()
    machine = environment["machine"]
    return Report(
        title=f"Lifecycle of {run.config.model.name}",
        verdict=verdict,
        verdict_kind=kind,
        summary=_summary(run),
        sections=[
            _quality_section(run),
            _engine_section(run),
            _serving_section(run),
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
        command=f"python -m recipes.lifecycle profile={run.config.profile} debug={run.config.debug}",
    )


def show(run: Run) -> None:
    """Prints the report's main tables."""
    from throughline.reporting.terminal import print_table

    print_table(results.quality_table(list(run.evaluations.values())))
    print_table(_engine_table(run))
    cells = _serving(run)["cells"]
    print_table(results.serving_table(cells))
    promoted = run.decision["promoted"]
    app.say()
    app.say(f"verdict  {f'promote {promoted}' if promoted else 'no engine passes the gate'}: {run.decision['reason']}")


def _summary(run: Run) -> list[str]:
    lines = [run.decision["reason"]]
    metric = "triage_exact_match"
    named = {name: run.evaluations[name].metrics.get(metric) for name in ("base", "tuned")}
    if all(named.values()):
        from throughline.reporting import format as fmt

        said = " → ".join(
            f"{name} {fmt.percent(item.value, item.low, item.high)}" for name, item in named.items() if item
        )
        lines.append(f"Triage exact match on held-out tickets: {said}.")
    for users, ratio in _ratio_values(_serving(run)["cells"]).get("gateway", {}).items():
        lines.append(f"The gateway delivers {ratio:.2f} of the raw engine's tokens at {users} users.")
    return lines


def _quality_section(run: Run) -> Section:
    evaluations = list(run.evaluations.values())
    names = list(run.evaluations)
    series = []
    for metric, label in COMPARED:
        found = [item.metrics.get(metric) for item in evaluations]
        if all(found):
            kept = [item for item in found if item is not None]
            series.append(
                Series(
                    label,
                    names,
                    [100 * item.value for item in kept],
                    [100 * item.low for item in kept],
                    [100 * item.high for item in kept],
                )
            )
    plots = [Plot("Held-out quality", "model", "%", series, kind="bar")] if series else []
    text = "base is the checkpoint before training, tuned after it, both as float32; then each engine."
    return Section("Quality", text, [results.quality_table(evaluations)], plots)


def _engine_table(run: Run) -> Table:
    from throughline.reporting import format as fmt

    users = run.decision["concurrency"]
    rows: list[list[object]] = []
    for name in run.config.precisions:
        engine, verdict = run.engines[name], run.decision["verdicts"][name]
        memory = _memory(run, name)
        rows.append(
            [
                name,
                fmt.bytes_(engine.manifest.metrics["weight_bytes"]),
                run.decision["tokens_per_second"][name],
                fmt.bytes_(memory) if memory else None,
                verdict["decision"],
                verdict["reasons"][0],
            ]
        )
    columns = [
        Column("engine", align="left"),
        Column("weights"),
        Column(f"raw speed at {users}", "tokens/s"),
        Column("process memory"),
        Column("gate", align="left"),
        Column("first reason", align="left"),
    ]
    return Table("Engines", columns, rows)


def _engine_section(run: Run) -> Section:
    return Section("Engines", run.decision["reason"], [_engine_table(run)], [])


def _serving_section(run: Run) -> Section:
    serving = _serving(run)
    cells = serving["cells"]
    most = max(cell["concurrency"] for cell in cells)
    text = (
        f"{serving['engine']}: raw is the engine in process, triton its gRPC stream, gateway OpenAI streaming "
        "under Locust. Targets take turns within each round. Raw is the limit of the two above it."
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
    if found["statistics"]:
        tables.append(results.mapping_table("Variety of the raw records", found["statistics"]))
    return Section("Data", f"Rejected lines with reasons: {run.dataset.path / 'rejects.jsonl'}", tables, [])


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
    engine = run.engines[run.decision["serve"]]
    return [*run.config.store().ancestors(engine), engine]


def _serving(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.serving.path / "benchmark.json").read_text()) if run.serving else {}
    return found


def _ratio_values(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    raw = {cell["concurrency"]: cell["per_repeat_tokens_per_second"] for cell in cells if cell["target"] == "raw"}
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(cell["target"] for cell in cells if cell["target"] != "raw"):
        for users, reference in raw.items():
            values = results.ratios(cells, name, users, reference)
            if values:
                found.setdefault(name, {})[str(users)] = statistics.median(values)
    return found


def _memory(run: Run, name: str) -> int | None:
    artifact = run.raw_benchmarks.get(name)
    value = artifact.manifest.metrics["cells"][0].get("memory_bytes") if artifact else None
    return int(value) if value else None
