"""Writes the `llmapi` repository that stands for one of TensorRT-LLM's engine flow, and what becomes of everything.

python -m recipes.migrate repository=/models/old checkpoint=/models/Llama-3.1-8B out=/models/new

Settings and tensors are mapped, changed in meaning, or lost; each has a line. The engine flow ends with TensorRT-LLM
1.2.x.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Literal

from recipes import app
from throughline.contracts.migration import Move
from throughline.contracts.quantization import Quantised
from throughline.contracts.report import Column, Report, Section, Table
from throughline.migration import migrate, write
from throughline.triton import llmapi


class Config(app.RecipeConfig):
    """Settings of `recipes.migrate`."""

    repository: Path
    checkpoint: str
    out: Path
    engine_dir: Path | None = None
    format: Literal["table", "json"] = "table"


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline.reporting.html import write_report
    from throughline.reporting.terminal import print_table

    quantised = Quantised.read(Path(config.checkpoint))
    if quantised is not None:
        quantised.check_scored(f"checkpoint={config.checkpoint}")
    found = migrate(config.repository, config.checkpoint, config.engine_dir)
    written = write(found, config.out, config.repository, inputs=llmapi.INPUTS, outputs=llmapi.OUTPUTS)
    if config.format == "json":
        sys.stdout.write("[" + ",\n ".join(move.model_dump_json() for move in found.moves) + "]\n")
        return
    tables = [table(kind, found.moves) for kind in ("setting", "input", "output")]
    for each in tables:
        print_table(each)
    counts = Counter(move.fate for move in found.moves)
    verdict = f"{counts['mapped']} mapped, {counts['changed']} changed in meaning, {counts['lost']} lost"
    report = Report(
        title=f"Migration of {config.repository}",
        verdict=verdict,
        verdict_kind="good" if not counts["lost"] else "unclear",
        summary=["1/model.py and 1/helpers.py come from NVIDIA's container: /app/all_models/llmapi/tensorrt_llm/1"],
        sections=[Section(f"{each.title}", "", [each]) for each in tables],
        environment={"from": str(config.repository), "to": str(config.out)},
        command=f"python -m recipes.migrate repository={config.repository} "
        f"checkpoint={config.checkpoint} out={config.out}",
    )
    app.echo(f"of all   {verdict}")
    for path in written:
        app.echo(f"wrote    {path}")
    app.echo(f"page     {write_report(report, config.store().home / 'migrations' / config.out.name)[0]}")
    app.echo(f"next     python -m recipes.lint path={config.out}")


def table(kind: str, moves: tuple[Move, ...]) -> Table:
    """Returns what became of settings, inputs or outputs: the lost first, then the changed."""
    order = ("lost", "changed", "mapped")
    chosen = sorted((move for move in moves if move.kind == kind), key=lambda move: order.index(move.fate))
    rows: list[list[object]] = [[move.fate, move.name, move.value, move.target, move.note] for move in chosen]
    names = ("", kind, "value", "becomes", "note")
    titles = {"setting": "Settings", "input": "Inputs of a request", "output": "Outputs"}
    return Table(titles[kind], [Column(name, align="left") for name in names], rows)


if __name__ == "__main__":
    main()
