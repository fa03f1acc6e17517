"""What every stage may expect of a checkpoint folder in Hugging Face's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from throughline.contracts.errors import CheckpointError

# `model_type` of the families that conversion, training and engines know alike.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_TERMS = ("LICENSE", "LICENCE", "NOTICE")


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
