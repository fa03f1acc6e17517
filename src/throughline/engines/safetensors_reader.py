"""The tensors of a (sharded) safetensors folder by name, in float32 or bfloat16, read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.checkpoints import check_types, open_weights, read_tensors, weight_files


class SafetensorsFolder:
    """The tensors of a checkpoint folder, by name.

    Args:
        folder: Holds `model.safetensors`, or `model.safetensors.index.json` and its shards.

    Raises:
        CheckpointError: If files are missing, truncated, or hold a type other than F32, F16 and BF16.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Registers numpy's bfloat16, in which safetensors returns BF16 tensors.
        import ml_dtypes  # noqa: F401

        self.files = weight_files(folder)
        self.entries = read_tensors(folder)
        check_types(self.entries)
        self._readers = {file: open_weights(file) for file in self.files}

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
