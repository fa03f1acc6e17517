"""What every stage may expect of a checkpoint folder in Hugging Face's layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from throughline.contracts.errors import CheckpointError

# `model_type` of the families that conversion, training and engines know alike.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_TERMS = ("LICENSE", "LICENCE", "NOTICE")


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a decoder of one of `FAMILIES`, with transformers' defaults for what its `config.json` leaves out.

    Attributes:
        family: `model_type`.
        layers: Decoder layers.
        hidden: Size of the residual stream.
        intermediate: Size of the gated MLP.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Size of a head.
        vocab: Rows of the embedding.
        positions: Longest sequence that the model was made for.
        tied: Whether the output head is the embedding; None leaves it to the tensors.
    """

    family: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int
    tied: bool | None

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str) -> Self:
        """Reads a parsed `config.json`.

        Raises:
            CheckpointError: Naming the size that is missing or makes no sense.
        """

        def size(name: str, default: int | None = None) -> int:
            value = config.get(name)
            if value is None and default is not None:
                return default
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(
                    "model config lacks a size",
                    where=f"{where}:{name}",
                    seen=repr(value),
                    fix="take the config.json that belongs to these weights",
                )
            return value

        family = str(config.get("model_type"))
        heads, hidden = size("num_attention_heads"), size("hidden_size")
        kv_heads = size("num_key_value_heads", heads)
        if heads % kv_heads:
            raise CheckpointError(
                "key and value heads do not divide the query heads",
                where=f"{where}:num_key_value_heads",
                seen=f"{kv_heads} of {heads}",
                fix="take the config.json that belongs to these weights",
            )
        tied = config.get("tie_word_embeddings")
        return cls(
            family=family,
            layers=size("num_hidden_layers"),
            hidden=hidden,
            intermediate=size("intermediate_size"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=size("head_dim", 128 if family == "qwen3" else hidden // heads),
            vocab=size("vocab_size"),
            positions=size("max_position_embeddings"),
            tied=None if tied is None else bool(tied),
        )


def read_checkpoint_config(folder: Path) -> dict[str, Any]:
    """Returns `config.json` of a folder that has all that a base checkpoint needs.

    Raises:
        CheckpointError: Naming what is missing or not supported.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            "base checkpoint is missing",
            where=str(folder),
            seen="no config.json",
            fix="give a Hugging Face folder with model=hf model.path=…, or a .gguf file with model=gguf model.path=…",
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON", where=str(path), seen=str(error), fix="copy it again"
        ) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path.name} is no JSON object", where=str(path), fix="copy it again")
    if config.get("model_type") not in FAMILIES:
        raise CheckpointError(
            "model family is not supported",
            where=f"{path}:model_type",
            seen=repr(config.get("model_type")),
            fix=f"use one of {', '.join(FAMILIES)}",
        )
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            "base checkpoint has no safetensors weights", where=str(folder), fix="convert it with save_pretrained"
        )
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(
            "base checkpoint has no tokenizer.json", where=str(folder), fix="save its fast tokenizer there"
        )
    return config


def licence_files(folder: Path) -> list[Path]:
    """Returns the files that go wherever the weights go: LICENSE, NOTICE and their variants."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.upper().startswith(_TERMS))
