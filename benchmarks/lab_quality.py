"""What the lab's line comes to over several seeds: every engine on both held-out sets, and what the gate says.

    python benchmarks/lab_quality.py --seeds 0 1 2
    python benchmarks/lab_quality.py --seeds 0 --set trainer.lr=1e-3

A seed draws the training records, their order and the adapters' first values; the questions are the same for all. The
stages are those of `recipes.lifecycle` up to the evaluation, in its artifact store: a seed that was run is found.
"""

from __future__ import annotations

import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_file import command_line

from recipes import app, lifecycle, stage_seconds
from recipes.lifecycle_run import Run
from throughline.artifacts import describe_environment
from throughline.contracts.evaluation import GATED_SET
from throughline.contracts.report import Column, Table
from throughline.evaluation.gate import decide
from throughline.reporting.stages import StageTable
from throughline.reporting.terminal import print_table

SHOWN = (
    "triage_exact_match",
    "json_validity",
    "refusal_accuracy",
    "false_refusals",
    "citation_validity",
    "citation_correct",
    "grounded_exact_match",
    "task_success",
)


def measure(seed: int, overrides: list[str]) -> dict[str, Any]:
    """Runs the line with a seed, or finds it; returns its figures by name."""
    train = f"stages.train={json.dumps(overrides)}" if overrides else "stages.train=[]"
    config = app.to_schema(app.compose("lifecycle", [f"seed={seed}", train]), lifecycle.Config)
    seconds = stage_seconds.expected(config.store(), str(config.line), lifecycle.QUALITY_STAGES, fast=False)
    with StageTable(seconds) as table:
        run = lifecycle.make_quality(config, table)
    return figures(run)


def figures(run: Run) -> dict[str, Any]:
    """Returns stage seconds, sizes, verdicts, and quality by engine and set."""
    names = run.config.precisions
    gated = {name: run.sets[name][GATED_SET] for name in names}
    verdicts = decide(gated[names[0]], {name: gated[name] for name in names[1:]}, run.config.gate)
    adapter, _ = next(stage.artifacts for stage in run.stages if stage.name == "train")
    return {
        "seconds": {stage.name: round(stage.seconds, 1) for stage in run.stages},
        "training": adapter.manifest.metrics,
        "weight_bytes": {name: run.engines[name].manifest.metrics["weight_bytes"] for name in run.engines},
        "verdicts": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        "quality": {
            name: {asked: found.as_dict()["metrics"] for asked, found in sets.items()}
            for name, sets in run.sets.items()
        },
    }


def table(found: dict[str, dict[str, Any]], asked: str) -> Table:
    """Returns one row a metric: median and range over the seeds, an engine a column."""
    engines = list(next(iter(found.values()))["quality"])
    rows = []
    for metric in SHOWN:
        row = [metric.replace("_", " ")]
        for engine in engines:
            values = [
                100 * sets[asked][metric]["value"]
                for seed in found.values()
                if metric in (sets := seed["quality"][engine]).get(asked, {})
            ]
            spread = f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]" if values else ""
            row.append(spread)
        rows.append(row)
    columns = [Column(asked, align="left"), *(Column(engine, "%") for engine in engines)]
    return Table(f"Quality, {asked}", columns, rows, note=f"median [least, most] over seeds {', '.join(found)}")


def main() -> None:
    """Measures, prints tables, and writes JSON after each seed."""
    parser = command_line(__doc__, "lab_quality")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of recipes.train")
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for seed in arguments.seeds:
        found[str(seed)] = measure(seed, arguments.set)
        result = {
            "command": " ".join(["python benchmarks/lab_quality.py", *sys.argv[1:]]),
            "date": datetime.now(UTC).date().isoformat(),
            "environment": describe_environment(),
            "seeds": found,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    for asked in ("acceptance", "shifted"):
        print_table(table(found, asked))
    for seed, values in found.items():
        print(f"seed {seed}  " + "  ".join(f"{name}: {v['decision']}" for name, v in values["verdicts"].items()))
    print(f"where  {arguments.out}")


if __name__ == "__main__":
    main()
