"""The dataset card: what is in it, where from, under which terms, what was done and what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from throughline.contracts.data import DataSpec
from throughline.data.report import DataReport


def render(report: DataReport, spec: DataSpec, files: Sequence[str], seed: int) -> str:
    """Returns the card as Markdown."""
    parts = [
        "# Dataset card",
        f"{report.lines:,} raw lines from {len(files)} files became {report.kept:,} records: "
        f"{report.train:,} to train on and {report.validation:,} for the validation loss. "
        f"{sum(report.rejects.values()):,} lines are in `restricted/rejects.jsonl`, each with its reason.",
        "## Terms",
        _table(("Licence", "Records"), report.licences.items()),
        "What is made from this dataset inherits these terms.",
        "## Composition",
        _table(("Task", "Records"), report.tasks.items()),
        _table(("Format", "Records"), report.formats.items()),
        _table(("Source", "Records"), report.sources.items()),
        _table(("Tokens", "Count"), report.tokens.items()),
        "## Left out",
        _table(("Reason", "Lines"), report.rejects.items()),
        "## Changed",
        _table(("Repair", "Records"), report.repairs.items()),
        _table(("Personal data replaced", "Places"), report.personal.items()),
        "## Split",
        f"By {', '.join(spec.group_by) or 'nothing'} with seed {seed}: no group is on both sides. "
        f"{report.overlap} training records that nearly repeat a held-out question or share its group were left out.",
    ]
    if report.split_off:
        parts.append(f"No acceptance set was given: {report.split_off}.")
    parts += [
        "## Limits",
        "Personal data is found by patterns (e-mail, international phone numbers, IP addresses, card numbers "
        "with a valid check digit, common API keys); names of people and companies stay.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = [f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |" for name, value in rows]
    return "\n".join([f"| {head[0]} | {head[1]} |", "|---|---|", *lines]) if lines else ""
