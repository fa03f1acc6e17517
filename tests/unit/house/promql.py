"""The dashboard's expressions, and what of PromQL they use taken apart."""

from __future__ import annotations

import json
import re

from tests.unit.house.deployment import DOCKER

DASHBOARD = json.loads((DOCKER / "grafana/dashboards/serving.json").read_text(encoding="utf-8"))
# Functions, aggregations and keywords of PromQL in our expressions.
WORDS = {"histogram_quantile", "sum", "rate", "deriv", "by"}


def expressions() -> list[tuple[str, str]]:
    """Panel and PromQL of every target."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def selectors(expression: str) -> dict[str, set[str]]:
    """The series of an expression, each with the labels that it is asked by."""
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    rest = re.sub(r"\[[^\]]*\]|by \([^)]*\)", " ", expression)
    found: dict[str, set[str]] = {}
    for name, braces in re.findall(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})?", re.sub(r'"[^"]*"', '""', rest)):
        if name not in WORDS:
            labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", braces))
            found[name] = labels | {label.strip() for text in grouped for label in text.split(",")}
    return found
