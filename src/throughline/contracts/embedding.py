"""Embedding engines: how vectors are made of hidden states, what an engine says of its vectors, and its runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import Field

from throughline.contracts.config import StrictModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Pooling = Literal["last", "mean", "cls"]


class EmbeddingSpec(StrictModel):
    """How an engine makes one vector of a sequence's hidden states; what is None comes from the checkpoint.

    A checkpoint says it in the files of sentence-transformers (`modules.json`, `1_Pooling/config.json`); what
    contradicts them is refused.

    Attributes:
        pooling: The state of the `last` token or of the first (`cls`), or the `mean` of all.
        normalize: Whether vectors are scaled to length 1.
        is_matryoshka: Whether the first numbers of a vector are a vector of their own, so that clients may ask for
            fewer `dimensions`; vLLM's name, which some checkpoints have in `config.json`.
        matryoshka_dimensions: The numbers of dimensions that clients may ask for; None for any.
    """

    pooling: Pooling | None = None
    normalize: bool | None = None
    is_matryoshka: bool | None = None
    matryoshka_dimensions: tuple[int, ...] | None = Field(default=None, min_length=1)


class EmbeddingInfo(StrictModel):
    """What an engine's vectors are; see `EmbeddingSpec`.

    Attributes:
        dimensions: Numbers of a whole vector.
        matryoshka_dimensions: Fewer dimensions that clients may ask for; None for any if `is_matryoshka`.
    """

    pooling: Pooling
    normalize: bool
    dimensions: int
    is_matryoshka: bool = False
    matryoshka_dimensions: tuple[int, ...] | None = None

    def allows(self, dimensions: int) -> bool:
        """Whether clients may ask for vectors of so many dimensions."""
        if dimensions == self.dimensions:
            return True
        if not self.is_matryoshka or not 1 <= dimensions < self.dimensions:
            return False
        return self.matryoshka_dimensions is None or dimensions in self.matryoshka_dimensions


@dataclass(frozen=True)
class VectorResult:
    """One golden prompt embedded again: `distance` is |found - recorded| / |recorded|, 0 for the same vector."""

    prompt_tokens: int
    distance: float


@dataclass(frozen=True)
class VectorReport:
    """The replay of an embedding engine's golden prompts; see `VerifyReport`.

    Attributes:
        ok: Whether every vector is as near as rounding explains.
        results: One entry for each prompt.
        same_machine_kind: Whether the compute type and processor are those of the build.
    """

    ok: bool
    results: tuple[VectorResult, ...]
    same_machine_kind: bool


class EmbeddingRuntime(Protocol):
    """A loaded embedding engine; one thread calls all methods."""

    def embed(self, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Returns the vectors of token ids, float32 [prompts, dimensions], in order; the array is the caller's.

        Raises:
            EngineError: If a prompt is empty, too long or has ids beyond the vocabulary; see `check`.
        """
        ...

    def check(self, prompt: Sequence[int]) -> None:
        """Raises `EngineError` for a prompt that `embed` would refuse."""
        ...

    def close(self) -> None:
        """Frees the engine."""
        ...
