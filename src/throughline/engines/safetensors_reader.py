"""The tensors of a (sharded) safetensors folder by name, in float32 or bfloat16, read when asked for."""

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

_TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: its file, dtype in safetensors' spelling, and shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

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
        self._readers = {file: _open(file) for file in self.files}
        self.entries: dict[str, TensorEntry] = {}
        for file, reader in self._readers.items():
            names = reader.keys()
            self.entries |= {name: _entry(file, reader, name) for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def f32(self, name: str) -> npt.NDArray[np.float32]:
        """Returns a tensor as float32, a copy."""
        values: npt.NDArray[np.float32] = self._array(name).astype(np.float32, copy=False)
        return values

    def bf16(self, name: str) -> npt.NDArray[np.uint16]:
        """Returns a tensor's bfloat16 bit patterns, a copy, rounded to nearest even if it is stored wider."""
        import ml_dtypes

        bits: npt.NDArray[np.uint16] = self._array(name).astype(ml_dtypes.bfloat16, copy=False).view(np.uint16)
        return bits

    def digest(self) -> str:
        """Returns the SHA-256 over all weight files and `config.json`, in name order."""
        total = hashlib.sha256()
        for file in sorted([*self.files, self.folder / "config.json"]):
            total.update(file.name.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(2**22):
                    total.update(chunk)
        return total.hexdigest()

    def _array(self, name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = self._readers[self.entries[name].file].get_tensor(name)
        return array


def _open(file: Path) -> Any:
    # Registers numpy's bfloat16, in which safetensors returns BF16 tensors.
    import ml_dtypes  # noqa: F401
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise CheckpointError(
            "safetensors file is damaged", where=str(file), seen=str(error), fix="copy it again"
        ) from None


def _entry(file: Path, reader: Any, name: str) -> TensorEntry:
    part = reader.get_slice(name)
    if part.get_dtype() not in _TYPES:
        raise CheckpointError(
            "tensor type is not supported",
            where=f"{file.name}:{name}",
            seen=part.get_dtype(),
            fix="give a checkpoint in F32, F16 or BF16, not a quantised one",
        )
    return TensorEntry(file, part.get_dtype(), tuple(part.get_shape()))


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
