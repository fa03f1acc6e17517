"""Tensors on the wire, taken apart and put together without the gateway's own code."""

from __future__ import annotations

import struct
from typing import Any

_FORMATS = {"INT32": "i", "UINT64": "Q", "FP32": "f", "BOOL": "?"}


def inputs_of(request: Any) -> dict[str, list[Any]]:
    """The elements of a `ModelInferRequest`'s inputs, as many as their shapes say, by name."""
    found: dict[str, list[Any]] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        values = strings(raw) if tensor.datatype == "BYTES" else _numbers(raw, _FORMATS[tensor.datatype])
        assert len(values) == tensor.shape[-1], tensor.name
        found[tensor.name] = values
    return found


def strings(raw: bytes) -> list[str]:
    """The elements of a BYTES tensor."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def string(text: str) -> bytes:
    """A BYTES tensor of one element."""
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def _numbers(raw: bytes, code: str) -> list[Any]:
    return [value for (value,) in struct.iter_unpack(f"<{code}", raw)]
