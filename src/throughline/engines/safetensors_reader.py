"""Reads (sharded) safetensors folders with numpy alone: headers, lazy tensors, exact bfloat16 rounding."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.errors import CheckpointError

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_HEADER_LIMIT = 100 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: its file, dtype in safetensors' spelling, shape and absolute byte offset."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class SafetensorsFolder:
    """The tensors of a checkpoint folder, by name.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and its shards.

    Raises:
        CheckpointError: If files are missing, truncated, or hold a type other than F32, F16 and BF16.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self.entries: dict[str, TensorEntry] = {}
        for file in self.files:
            self.entries.update(_header(file))

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def f32(self, name: str) -> npt.NDArray[np.float32]:
        """Returns a tensor as float32, a copy unless it is stored so (then read-only, mapped)."""
        entry = self.entries[name]
        raw = self._raw(entry)
        if entry.dtype == "BF16":
            return bf16_to_f32(raw)
        return raw.astype(np.float32, copy=False)

    def bf16(self, name: str) -> npt.NDArray[np.uint16]:
        """Returns a tensor's bfloat16 bit patterns, rounded to nearest even if it is stored wider."""
        entry = self.entries[name]
        raw = self._raw(entry)
        return raw if entry.dtype == "BF16" else f32_to_bf16(raw.astype(np.float32, copy=False))

    def digest(self) -> str:
        """Returns the SHA-256 over all weight files and `config.json`, in name order."""
        total = hashlib.sha256()
        for file in sorted([*self.files, self.folder / "config.json"]):
            total.update(file.name.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(2**22):
                    total.update(chunk)
        return total.hexdigest()

    @staticmethod
    def _raw(entry: TensorEntry) -> npt.NDArray[Any]:
        dtype: np.dtype[Any] = np.dtype({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[entry.dtype])
        if not entry.size:
            return np.zeros(entry.shape, dtype)
        return np.memmap(entry.file, dtype, "r", entry.offset, entry.shape)


def bf16_to_f32(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Widens bfloat16 bit patterns (uint16) to float32, exactly."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds float32 to bfloat16 bit patterns, to nearest, ties to even; NaN stays a quiet NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise CheckpointError("no checkpoint here", where=str(folder), fix="give the path of a Hugging Face folder")
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        single = folder / "model.safetensors"
        if not single.is_file():
            raise CheckpointError(
                "checkpoint has no safetensors weights",
                where=str(folder),
                seen=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
                fix="save it with save_pretrained(safe_serialization=True)",
            )
        return [single]
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "shard index cannot be read", where=str(index), seen=repr(error), fix="copy it again"
        ) from None
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            "shards of the checkpoint are missing",
            where=str(index),
            seen=", ".join(missing[:4]),
            fix="copy the whole folder",
        )
    return [folder / name for name in shards]


def _header(file: Path) -> dict[str, TensorEntry]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise _damaged(file, f"header of {length} bytes in a file of {size}")
        try:
            header = json.loads(stream.read(length))
            found = {
                name: TensorEntry(file, item["dtype"], tuple(item["shape"]), 8 + length + item["data_offsets"][0])
                for name, item in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(file, repr(error)) from None
    for name, entry in found.items():
        if entry.dtype not in _ITEM_BYTES:
            raise CheckpointError(
                "tensor type is not supported",
                where=f"{file.name}:{name}",
                seen=entry.dtype,
                fix="give a checkpoint in F32, F16 or BF16, not a quantised one",
            )
        if entry.offset + entry.size * _ITEM_BYTES[entry.dtype] > size:
            raise _damaged(file, f"{name} ends beyond the file's {size} bytes")
    return found


def _damaged(file: Path, seen: str) -> CheckpointError:
    return CheckpointError("safetensors file is damaged", where=str(file), seen=seen, fix="copy it again")
