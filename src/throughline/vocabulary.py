"""The bytes of every token id, read from `tokenizer.json`, so that text can be put together without a tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.errors import EngineError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """Token id → UTF-8 bytes, exactly what the tokenizer's decoder joins.

    Args:
        pieces: Bytes of each id, by index.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = tuple(pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes of each id, by index."""
        return self._pieces

    def bytes_of(self, token_ids: Iterable[int]) -> bytes:
        """Joins the bytes of `token_ids`; ids beyond the vocabulary (padding rows) have none."""
        pieces = self._pieces
        size = len(pieces)
        return b"".join([pieces[token] for token in token_ids if token < size])

    @classmethod
    def from_tokenizer(cls, path: Path, hidden: Iterable[int] = ()) -> Vocabulary:
        """Reads a `tokenizer.json`.

        Args:
            path: The file.
            hidden: Ids that shall have no text, e.g. bos, eos and pad.

        Raises:
            EngineError: If the file is missing or its decoder is neither byte-level nor SentencePiece's.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError) as error:
            raise EngineError(
                "tokenizer cannot be read",
                where=str(path),
                seen=repr(error),
                fix="save the tokenizer as a fast one (tokenizer.json) beside the weights",
            ) from None
        to_bytes = _decoder(values.get("decoder"), str(path))
        vocabulary: dict[str, int] = values["model"].get("vocab") or {}
        if not isinstance(vocabulary, Mapping):
            vocabulary = {str(piece): index for index, (piece, _) in enumerate(vocabulary)}
        added = {item["id"]: item["content"] for item in values.get("added_tokens") or ()}
        by_id = {index: token for token, index in vocabulary.items()} | added
        pieces = [b""] * (max(by_id, default=-1) + 1)
        unseen = set(hidden)
        for index, token in by_id.items():
            if index not in unseen:
                pieces[index] = to_bytes(token)
        return cls(pieces)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's table of the printable characters that stand for bytes (`bytes_to_unicode`)."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in kept}
    others = [byte for byte in range(256) if byte not in kept]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes([_ALPHABET[character] for character in token])
    except KeyError:
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte.group(1), 16)]) if byte else token.replace("▁", " ").encode()


def _decoder(decoder: Any, where: str) -> Any:
    kinds = _kinds(decoder)
    if kinds == ["ByteLevel"]:
        return _byte_level
    # A completion goes on from its prompt: the leading space that `Strip` removes from a whole text stays.
    if kinds == ["Metaspace"] or (
        kinds[:1] == ["Replace"] and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}
    ):
        return _sentencepiece
    raise EngineError(
        "tokenizer's decoder is not supported",
        where=f"{where}:decoder",
        seen=", ".join(kinds) or "none",
        fix="use a byte-level BPE or SentencePiece tokenizer",
    )


def _kinds(decoder: Any) -> list[str]:
    if not decoder:
        return []
    if decoder["type"] == "Sequence":
        return [kind for item in decoder["decoders"] for kind in _kinds(item)]
    return [str(decoder["type"])]
