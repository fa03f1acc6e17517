"""What a conversion came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

UNSTATED = "unstated"


@dataclass(frozen=True)
class Conversion:
    """A checkpoint folder that is ready.

    Attributes:
        architecture: `model_type` of its `config.json`.
        parameters: Number of weights, a tied head counted once.
        vocab_size: Rows of the embedding.
        tokenizer: Kind of tokenizer, for people.
        template: Where the chat template is from.
        default_system: System message that the template writes unasked; empty for none.
        licence: Licence terms, `unstated` if nobody says.
        grid_bits: Bits of the grid that the weights were on in a quantised file, else None.
        largest_rounding: Largest move of a weight over its tensor's largest weight.
    """

    architecture: str
    parameters: int
    vocab_size: int
    tokenizer: str
    template: str
    default_system: str
    licence: str
    grid_bits: int | None = None
    largest_rounding: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the values in plain JSON types."""
        return asdict(self)
