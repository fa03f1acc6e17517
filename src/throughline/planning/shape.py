"""The sizes of a dense decoder, from `config.json` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from throughline.contracts.checkpoint import FAMILIES, DecoderSizes
from throughline.contracts.errors import CheckpointError


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama, Mistral, Qwen2 or Qwen3 decoder; counts are of parameters.

    Attributes:
        family: `model_type`.
        layers: Decoder layers.
        hidden: Size of the residual stream.
        intermediate: Size of the gated MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Size of a head.
        vocab: Rows of the embedding.
        tied: Whether the output head is the embedding.
        positions: Longest sequence that the model was made for.
        window: Tokens that a token attends to at most; None for all before it.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    positions: int
    window: int | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str) -> Self:
        """Reads a parsed `config.json`.

        Raises:
            CheckpointError: Naming the key that is missing or of a family that we do not plan for.
        """
        family = str(config.get("model_type"))
        if family not in FAMILIES:
            raise CheckpointError(
                "model family cannot be planned",
                where=f"{where}:model_type",
                seen=repr(config.get("model_type")),
                fix=f"use one of {', '.join(FAMILIES)}",
            )

        sizes = DecoderSizes.of(config, where=where)
        # transformers' defaults: Mistral has a window unless it is null, Qwen's must be switched on.
        windowed = family == "mistral" or bool(config.get("use_sliding_window", False))
        window = config.get("sliding_window", 4096) if windowed else None
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
            raise CheckpointError(
                "model config has a window of no size",
                where=f"{where}:sliding_window",
                seen=repr(window),
                fix="take the config.json that belongs to these weights",
            )
        return cls(
            family=family,
            layers=sizes.layers,
            hidden=sizes.hidden,
            intermediate=sizes.intermediate,
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            vocab=sizes.vocab,
            tied=bool(sizes.tied),
            positions=sizes.positions,
            window=window,
        )

    @property
    def attention_linear(self) -> int:
        """Weights of the projections of one layer: queries, keys, values, output."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    @property
    def mlp_linear(self) -> int:
        """Weights of the gate, up and down projections of one layer."""
        return 3 * self.hidden * self.intermediate

    @property
    def linear(self) -> int:
        """Weights of all linear layers but the output head: what quantisation compresses and a token passes through."""
        return self.layers * (self.attention_linear + self.mlp_linear)

    @property
    def linear_rows(self) -> int:
        """Output channels of those layers: one scale each, where scales are by channel."""
        per_layer = self.head_dim * (self.heads + 2 * self.kv_heads) + self.hidden + 2 * self.intermediate + self.hidden
        return self.layers * per_layer

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output head if it is one of its own."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def small(self) -> int:
        """Norms and biases, which stay as they are in every precision."""
        norms = (2 * self.layers + 1) * self.hidden
        biases = self.layers * self.head_dim * (self.heads + 2 * self.kv_heads) if self.family == "qwen2" else 0
        head_norms = self.layers * 2 * self.head_dim if self.family == "qwen3" else 0
        return norms + biases + head_norms

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        return self.linear + self.embedding + self.small


def read_shape(path: Path) -> ModelShape:
    """Reads a `config.json`, or that of a folder.

    Raises:
        CheckpointError: If there is none or it is not one of a decoder that we can plan.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            "no model config to plan from", where="config", seen=f"{file}: {error.strerror}", fix="give a config.json"
        ) from None
    except ValueError as error:
        raise CheckpointError(
            "model config is not JSON", where=str(file), seen=str(error), fix="copy it again"
        ) from None
    if not isinstance(values, dict):
        raise CheckpointError("model config is no JSON object", where=str(file), fix="copy it again")
    return ModelShape.of(values, where=str(file))
