"""A GGUF file opened: typed access to its metadata and its tensors (https://github.com/ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from throughline.contracts.errors import CheckpointError

if TYPE_CHECKING:
    from gguf import ReaderTensor

T = TypeVar("T")
MAGIC = b"GGUF"


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file holds.

    Attributes:
        path: The file.
        metadata: Its key-value pairs in plain Python types.
        tensors: Its tensors by name; data is mapped from the file, not read.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, ReaderTensor]

    @property
    def architecture(self) -> str:
        """`general.architecture`, which prefixes the keys of the model's sizes."""
        return self.require("general.architecture", str)

    def find(self, key: str, kind: type[T], default: T) -> T:
        """Returns a value, or the default when the file lacks the key.

        Raises:
            CheckpointError: If it is there with another type.
        """
        return self.require(key, kind) if key in self.metadata else default

    def require(self, key: str, kind: type[T]) -> T:
        """Returns a value.

        Raises:
            CheckpointError: If the file lacks it or holds another type.
        """
        value = self.metadata.get(key)
        if not isinstance(value, kind):
            raise CheckpointError(
                f"GGUF metadata has no {key} of type {kind.__name__}",
                where=str(self.path),
                seen="nothing" if value is None else type(value).__name__,
                fix="convert the model to GGUF again with a current llama.cpp, or give its Hugging Face folder: "
                "model=hf model.path=…",
            )
        return value

    def size(self, key: str) -> int:
        """Returns a count of the architecture, such as `block_count`."""
        return self.require(f"{self.architecture}.{key}", int)


def open_gguf(path: Path) -> GgufFile:
    """Opens a GGUF file of version 2 or 3.

    Raises:
        CheckpointError: If it is missing, cut short or no GGUF file.
    """
    from gguf import GGUFReader

    _check_magic(path)
    try:
        reader = GGUFReader(str(path))
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(
            "GGUF file cannot be read", where=str(path), seen=str(error), fix="download it again and compare its digest"
        ) from None
    return GgufFile(path, metadata, {tensor.name: tensor for tensor in reader.tensors})


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as handle:
            head = handle.read(len(MAGIC))
    except OSError as error:
        raise CheckpointError(
            "GGUF file cannot be opened", where=str(path), seen=error.strerror, fix="correct model.path"
        ) from None
    if head != MAGIC:
        raise CheckpointError(
            "not a GGUF file",
            where=str(path),
            seen=f"first bytes {head!r}",
            fix="give a .gguf file, or a Hugging Face folder with model=hf",
        )
