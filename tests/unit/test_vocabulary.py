"""The bytes of a token are what the tokenizer itself decodes to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from throughline.contracts.errors import EngineError
from throughline.engines import Vocabulary


def test_tokens_join_to_what_the_tokenizer_decodes(tiny_tokenizer_dir: Path) -> None:
    path = tiny_tokenizer_dir / "tokenizer.json"
    tokenizer, vocabulary = Tokenizer.from_file(str(path)), Vocabulary.from_tokenizer(path)
    assert len(vocabulary) == tokenizer.get_vocab_size()

    @given(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=30))
    def check(ids: list[int]) -> None:
        expected = tokenizer.decode(ids, skip_special_tokens=False)
        assert vocabulary.bytes_of(ids).decode("utf-8", "replace") == expected

    check()


def test_hidden_ids_and_ids_beyond_the_vocabulary_have_no_text(tiny_tokenizer_dir: Path) -> None:
    path = tiny_tokenizer_dir / "tokenizer.json"
    vocabulary = Vocabulary.from_tokenizer(path, hidden=(0, 2))
    assert vocabulary.bytes_of([0, 2, len(vocabulary), 10**6]) == b""
    assert Vocabulary.from_tokenizer(path).bytes_of([2]) != b""


def test_sentencepiece_pieces_and_byte_tokens(tmp_path: Path) -> None:
    pieces = {"<unk>": 0, "▁gpu": 1, "s": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    vocabulary = Vocabulary.from_tokenizer(tmp_path / "tokenizer.json")
    ids = [1, 2, *(3 + byte for byte in "é→".encode())]
    assert vocabulary.bytes_of(ids).decode() == tokenizer.decode(ids) == " gpusé→"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "tokenizer cannot be read"),
        ("{", "tokenizer cannot be read"),
        (json.dumps({"decoder": {"type": "WordPiece"}, "model": {"vocab": {}}}), "decoder is not supported.*WordPiece"),
        (json.dumps({"decoder": None, "model": {"vocab": {}}}), "decoder is not supported.*none"),
    ],
)
def test_other_tokenizers_are_refused_by_name(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EngineError, match=words):
        Vocabulary.from_tokenizer(path)
