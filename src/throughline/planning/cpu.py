"""Bytes of an engine of the CPU back end."""

from __future__ import annotations

from throughline.contracts.engine import EngineSpec
from throughline.planning.shape import ModelShape

_SCALE, _ZERO_POINT = 2, 1
_FLOAT = {"f32": 4, "bf16": 2}


def cpu_weight_bytes(shape: ModelShape, spec: EngineSpec) -> float:
    """Returns the bytes of the weights as NNCF stores them.

    INT8 has a 16-bit scale a row, and a byte of zero point unless it is symmetric; FP8 the scale alone. INT4 has a
    scale and half a byte of zero point a group; the layers beyond `int4_ratio`, embedding and head are INT8 then.
    Norms and biases are float32; tables of angles are not counted.
    """
    if spec.precision in _FLOAT:
        return shape.parameters * _FLOAT[spec.precision]
    zero_point = 0 if spec.symmetric or spec.precision == "fp8" else _ZERO_POINT
    row = _SCALE + zero_point
    embedding_rows = shape.vocab * (1 if shape.tied else 2)
    eight_bits = shape.linear + shape.linear_rows * row
    embedding = shape.embedding + embedding_rows * row + shape.small * _FLOAT["f32"]
    if spec.precision != "int4":
        return eight_bits + embedding
    four_bits = shape.linear * (0.5 + (_SCALE + zero_point / 2) / spec.group_size)
    return spec.int4_ratio * four_bits + (1 - spec.int4_ratio) * eight_bits + embedding
