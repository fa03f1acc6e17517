"""A sweep of `recipes.build` as a user runs it: engines beside each other in a table and on a page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.build_matrix import MatrixSpec as Spec
from recipes.build_matrix import Row, matrix_table, page_of
from throughline.contracts.benchmark import Estimate
from throughline.reporting.html import write_report

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


def row(name: str, size: int, change: Estimate | None) -> Row:
    rates = {users: Estimate(10.0 * users, 9.0 * users, 11.0 * users, 3) for users in (1, 8)}
    return Row(name, name * 6, size, 0.5, 3 * size, rates, None if change is None else 1.0 + change.value, change)


def test_a_sweep_ends_with_a_comparison(tiny_checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.build", "-m", "quant=f32,int8", f"checkpoint={tiny_checkpoint}"]
    sizes = ["matrix.repeats=1", "matrix.concurrency=[1,2]", "matrix.prompt_tokens=8", "matrix.output_tokens=4"]
    done = subprocess.run(
        [*command, *sizes, "engine.max_seq_len=128", "engine.kv_cache_bytes=8388608"],
        env=os.environ | {"THROUGHLINE_HOME": str(tmp_path), "COLUMNS": "160"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("Engines of the sweep")[1]
    lines = [line for line in table.splitlines() if line.startswith("tiny-llama")]
    assert [line.split()[0] for line in lines] == ["tiny-llama-f32", "tiny-llama-int8"]
    # Weights, seconds to load, memory, and a rate with its interval for either concurrency; no dataset to score on.
    assert all(len(re.findall(r"\[", line)) == 2 for line in lines) and "loss" not in table
    (page,) = tmp_path.glob("matrices/*/report.html")
    assert "tiny-llama-int8" in page.read_text(encoding="utf-8")


def test_one_engine_is_not_compared(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *[sys.executable, "-m", "recipes.build", "-m", "quant=f32", f"checkpoint={tiny_checkpoint}"],
            *["engine.max_seq_len=128", "engine.kv_cache_bytes=8388608"],
        ],
        env=os.environ | {"THROUGHLINE_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Engines of the sweep" not in done.stdout and not (tmp_path / "matrices").exists()


def test_the_change_of_the_loss_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    scored = [row("a", 100, Estimate(0.0, 0.0, 0.0, 9)), row("b", 50, Estimate(0.02, -0.01, 0.05, 9))]
    table = matrix_table(scored)
    assert [column.name for column in table.columns][-2:] == ["loss of answers", "change"]
    page, _ = write_report(page_of(scored, table, Spec()), tmp_path)
    assert "smallest: b" in page.read_text(encoding="utf-8")
    bare = matrix_table([row("a", 100, None), row("b", 50, None)])
    assert [column.name for column in bare.columns][-1] == "8 at a time"
