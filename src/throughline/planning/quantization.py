"""Bytes of a quantisation by ModelOpt, before it starts: memory of the host, of the GPU, and disk.

Compared with the peak of a process on a CPU for 135 M and 1.2 B parameters, and with what PyTorch allocated on an H100
for FP8 of 8 B (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from throughline.contracts.planning import PlannedPrecision, PlanSpec
from throughline.contracts.quantization import QuantSpec
from throughline.planning.memory import weight_bytes
from throughline.planning.shape import ModelShape

_HALF, _SINGLE = 2.0, 4.0
# torch, transformers and ModelOpt in memory; measured on Linux with torch 2.13 for CPUs.
_LIBRARIES = 0.7e9
_SMALL_FILES = 32e6
# Float32 logits of a record, and their log-probabilities.
_LOGITS = 2 * _SINGLE


@dataclass(frozen=True)
class QuantisationMemory:
    """Bytes that a quantisation takes at its peak.

    Attributes:
        host: Of the process.
        device: Of the GPU beside its context and the allocator's losses; 0 on a CPU.
        disk: Of what it writes; no less than `weights`.
        weights: Of the exported weights; None for a recipe, and for formats whose size is not known here.
    """

    host: float
    device: float
    disk: float
    weights: float | None


def quantisation_memory(
    shape: ModelShape, spec: QuantSpec, *, device: str, tokens: int, computes_in_16_bits: bool
) -> QuantisationMemory:
    """Returns the peak of loading, running records, and exporting.

    Args:
        shape: The model.
        spec: What to do with it.
        device: `cpu` or `cuda`.
        tokens: Of the longest record that is calibrated on or scored.
        computes_in_16_bits: Whether `device` multiplies bfloat16 matrices; a CPU that does not holds float32 weights,
            beside the 16-bit ones while they are read.
    """
    exported = exported_bytes(shape, spec)
    written = shape.parameters * _HALF if exported is None else exported
    held = shape.parameters * _HALF
    wide = 1.0 if computes_in_16_bits else _SINGLE / _HALF
    # A record's pass, or a weight that is packed: its copy in 16 bits and the packed one.
    largest = shape.hidden * shape.intermediate
    logits = shape.vocab * (_LOGITS + (_HALF if computes_in_16_bits else 0.0)) if spec.score_records else 0.0
    running = max(tokens * (wide * _running(shape) + logits), largest * (_HALF + 1))
    if device == "cuda":
        # The weights are read on the host and stay on the GPU; packed ones come back to be written.
        return QuantisationMemory(
            host=_LIBRARIES + max(held, written),
            device=held + running,
            disk=written + _SMALL_FILES,
            weights=exported,
        )
    loading = held if computes_in_16_bits else held + wide * held
    peak = max(loading, wide * held + running, held + written)
    return QuantisationMemory(host=_LIBRARIES + peak, device=0.0, disk=written + _SMALL_FILES, weights=exported)


def exported_bytes(shape: ModelShape, spec: QuantSpec) -> float | None:
    """Returns the bytes of the exported weights; None where a recipe or excluded modules decide them."""
    if spec.recipe is not None or spec.exclude_modules or spec.qformat not in get_args(PlannedPrecision):
        return None
    return weight_bytes(shape, PlanSpec.model_validate({"precision": spec.qformat}))


def _running(shape: ModelShape) -> float:
    """Bytes of a token within a layer: residual, its norm in float32, and attention or the MLP's inner results."""
    attention = shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return _HALF * (2 * shape.hidden + max(attention, 3 * shape.intermediate)) + _SINGLE * shape.hidden
