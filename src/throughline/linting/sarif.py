"""Findings as SARIF 2.1.0, which code hosts and editors show beside the lines (OASIS standard)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from throughline.contracts.linting import Finding, Rule


def to_sarif(findings: Iterable[Finding], rules: Mapping[str, Rule], version: str) -> dict[str, Any]:
    """Returns a SARIF log of one run.

    Args:
        findings: What was found.
        rules: All rules by id, those that are kept too.
        version: Ours.
    """
    described = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.summary},
            "defaultConfiguration": {"level": rule.severity},
        }
        for rule in rules.values()
    ]
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "throughline", "version": version, "rules": described}},
                "results": [_result(finding) for finding in findings],
            }
        ],
    }


def _result(finding: Finding) -> dict[str, Any]:
    place = {
        "artifactLocation": {"uri": finding.path.resolve().as_uri()},
        "region": {"startLine": finding.line},
    }
    result: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "level": finding.rule.severity,
        "message": {"text": f"{finding.key}: {finding.seen}; {finding.cure}"},
        "locations": [{"physicalLocation": place}],
    }
    if finding.edit is not None:
        result["fixes"] = [_fix(finding)]
    return result


def _fix(finding: Finding) -> dict[str, Any]:
    edit = finding.edit
    if edit is None:
        return {}
    text = Path(edit.path).read_text(encoding="utf-8").splitlines()[edit.line - 1]
    column = text.index(edit.old) + 1
    region = {"startLine": edit.line, "startColumn": column, "endColumn": column + len(edit.old)}
    change = {
        "artifactLocation": {"uri": edit.path.resolve().as_uri()},
        "replacements": [{"deletedRegion": region, "insertedContent": {"text": edit.new}}],
    }
    return {"description": {"text": finding.cure}, "artifactChanges": [change]}
