"""Planned bytes against what was allocated on an H100 (`benchmarks/gpu_plan.py`, results beside it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from throughline.contracts.config import parse
from throughline.contracts.planning import PlanSpec, TrainingPlanSpec
from throughline.planning.memory import activation_bytes, weight_bytes
from throughline.planning.shape import ModelShape
from throughline.planning.training import training_memory

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks" / "results"


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return found


def shape(name: str) -> ModelShape:
    first = name == "mistral-7b-v0.1"
    path = ROOT / "engines" / "models" / f"{'mistral-7b' if first else name}.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    return ModelShape.of(config | ({"sliding_window": 4096, "vocab_size": 32000} if first else {}), where=name)


@pytest.mark.parametrize("row", rows("gpu_plan_train"), ids=lambda row: f"{row['model']}-{row['moment']}")
def test_a_training_step_took_what_is_planned(row: dict[str, Any]) -> None:
    spec = parse(TrainingPlanSpec, {"other_bytes": 0.0} | row["settings"], where=row["model"])
    assert training_memory(shape(row["model"]), spec).total == pytest.approx(row["allocated"], rel=0.01)


@pytest.mark.parametrize("row", rows("gpu_plan_serve"), ids=lambda row: str(row["model"]))
def test_weights_and_activations_took_what_is_planned(row: dict[str, Any]) -> None:
    """Transformers holds two tensors of the hidden size more than a fused engine: within what they and cuBLAS take."""
    spec, model = parse(PlanSpec, row["settings"], where=row["model"]), shape(row["model"])
    weights, activations = (row["terms"][name][1] for name in ("weights", "activations"))
    # ModelOpt's compressed INT4 keeps float32 scales and padding that an engine does not.
    assert weight_bytes(model, spec) == pytest.approx(weights, rel=0.05 if spec.precision == "int4_awq" else 0.001)
    more = activations - activation_bytes(model, spec)
    unpacked = 2 * model.intermediate * model.hidden if spec.precision == "fp8" else 0
    assert 0 <= more <= 2 * 2 * spec.max_num_tokens * model.hidden + unpacked + 70e6


def test_exported_checkpoints_have_the_planned_size() -> None:
    """8B in FP8 to the byte of its scales; AWQ's scales are float32 in the file, 16 bits in an engine."""
    found = {row["format"]: row["exported_bytes"] for row in rows("quantization_h100")}
    model = shape("llama-3.1-8b")
    assert weight_bytes(model, PlanSpec(precision="fp8")) == pytest.approx(found["fp8"], rel=1e-4)
    wider = model.linear * 2.0 / 128
    assert weight_bytes(model, PlanSpec(precision="int4_awq")) + wider == pytest.approx(found["int4_awq"], rel=1e-3)
