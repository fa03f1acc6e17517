"""Finds contradictions in a model repository, an engine, `LLM()` options or a checkpoint, before a server meets them.

python -m recipes.lint path=/models/repository
python -m recipes.lint path=/engines/llama-8b gpu=h100-sxm version=1.2.1 format=sarif
python -m recipes.lint path=/models/repository fix=true
python -m recipes.lint path=/models/Llama-3.1-8B weights=true

Rules are of TensorRT-LLM up to 1.2.x and of the `llmapi` model; neither a GPU nor their software is needed. Exits with
2 if an error is left, with 0 if nothing or only warnings are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

from recipes import app
from throughline.contracts.errors import EngineLintError
from throughline.contracts.linting import Finding
from throughline.contracts.planning import GpuSpec
from throughline.contracts.report import Column, Table
from throughline.linting import RULES, Target, lint


class Config(app.RecipeConfig):
    """Settings of `recipes.lint`."""

    path: Path
    gpu: GpuSpec | None = None
    version: str = ""
    concurrency: int = 0
    weights: bool = False
    fix: bool = False
    format: Literal["table", "json", "sarif"] = "table"


def target(config: Config) -> Target:
    """Returns where it will run, as far as it is said."""
    return Target(
        compute_capability=config.gpu.compute_capability if config.gpu else None,
        version=config.version or None,
        concurrency=config.concurrency or None,
        weights=config.weights,
    )


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline.linting.fixes import apply

    found = lint(config.path, target(config))
    made = apply(found) if config.fix else []
    if made:
        found = lint(config.path, target(config))
    _show(found, config)
    for edit in made if config.format == "table" else ():
        app.echo(f"fixed    {edit.path}:{edit.line}: {edit.old} → {edit.new}")
    errors = [finding for finding in found if finding.rule.severity == "error"]
    if errors:
        first = errors[0]
        raise EngineLintError(
            f"{len(errors)} of {len(found)} findings are errors",
            where=f"{first.path}:{first.line}",
            seen=f"{first.rule.id}: {first.seen}",
            fix=first.cure,
        )
    if config.format == "table":
        app.echo(f"checked  {len(RULES)} rules on {config.path}: {len(found)} findings")
        app.echo("next     python -m recipes.deploy")


def _show(found: Sequence[Finding], config: Config) -> None:
    from throughline.linting.sarif import to_sarif
    from throughline.reporting.terminal import print_table

    if config.format == "sarif":
        sys.stdout.write(json.dumps(to_sarif(found, RULES, installed_version("throughline")), indent=1) + "\n")
    elif config.format == "json":
        sys.stdout.write(json.dumps([as_json(finding) for finding in found], indent=1) + "\n")
    elif found:
        print_table(table(found, config.path))


def as_json(finding: Finding) -> dict[str, object]:
    """Returns a finding in plain values."""
    return {
        "rule": finding.rule.id,
        "severity": finding.rule.severity,
        "path": str(finding.path),
        "line": finding.line,
        "key": finding.key,
        "seen": finding.seen,
        "cure": finding.cure,
        "fixable": finding.edit is not None,
    }


def table(found: Sequence[Finding], root: Path) -> Table:
    """Returns a row for each finding; paths are from `root` on where they are below it."""
    base = root if root.is_dir() else root.parent
    rows: list[list[object]] = []
    for each in found:
        path = each.path.relative_to(base) if each.path.is_relative_to(base) else each.path
        rule = each.rule
        cure = each.cure + (" (fix=true)" if each.edit else "")
        rows.append([f"{path}:{each.line}", rule.severity, rule.id, each.key, each.seen, cure])
    names = ("place", "severity", "rule", "setting", "seen", "cure")
    return Table("Findings", [Column(name, align="left") for name in names], rows)


if __name__ == "__main__":
    main()
