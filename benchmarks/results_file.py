"""What the benchmarks' command lines and result files have in common."""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def command_line(doc: str | None, result: str = "") -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring; with a result's name it has `--out`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if result:
        parser.add_argument("--out", type=Path, default=RESULTS / f"{result}.json", help="where the figures go")
    return parser


def write(out: Path, values: Any) -> None:
    """Writes figures as JSON and says where."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
