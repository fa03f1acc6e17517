"""A checkpoint's tokenizer as the models before and after the engine use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class TextTokenizer:
    """Text to ids and back.

    Args:
        folder: Holds `tokenizer.json`, and `tokenizer_config.json` for the ids that end and pad.
        add_special_tokens: Whether a prompt gets the tokenizer's own tokens around it.
        skip_special_tokens: Whether control tokens are left out of the text.

    Raises:
        ValueError: If there is no tokenizer.
    """

    def __init__(self, folder: Path, *, add_special_tokens: bool = False, skip_special_tokens: bool = True) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"no tokenizer: {file} is missing; tokenizer_dir is the checkpoint's folder")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._add, self._skip = add_special_tokens, skip_special_tokens
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        config = _read(folder / "tokenizer_config.json")
        self.end_id = self._id(config.get("eos_token"))
        pad = self._id(config.get("pad_token"))
        # TensorRT-LLM pads with the id that ends where a tokenizer has none for it.
        self.pad_id = self.end_id if pad is None else pad

    def prompt(self, text: str) -> list[int]:
        """Returns the ids of a prompt."""
        return list(self._tokenizer.encode(text, add_special_tokens=self._add).ids)

    def word(self, text: str) -> list[int]:
        """Returns the ids of a word, without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids; bytes that are no UTF-8 become U+FFFD."""
        return str(self._tokenizer.decode([int(item) for item in ids], skip_special_tokens=self._skip))

    def _id(self, token: Any) -> int | None:
        name = token.get("content") if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(name) if isinstance(name, str) else None
        return None if found is None else int(found)


def flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    """Returns a parameter of a model's configuration as true or false."""
    value = str(parameters.get(name, {}).get("string_value", "")).lower()
    return value in ("true", "1") if value else default


def of_parameters(parameters: dict[str, Any]) -> TextTokenizer:
    """Returns the tokenizer that a model's `parameters` name."""
    folder = Path(parameters["tokenizer_dir"]["string_value"])
    return TextTokenizer(
        folder,
        add_special_tokens=flag(parameters, "add_special_tokens", False),
        skip_special_tokens=flag(parameters, "skip_special_tokens", True),
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
