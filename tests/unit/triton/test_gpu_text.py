"""Word lists as TensorRT-LLM reads them, and text that comes in pieces: any split of the ids gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trtllm_words import words
from throughline.stop_words import StopWords
from throughline.triton.text.streams import TextStream, whole_text
from throughline.triton.text.tokenizer import TextTokenizer
from throughline.triton.text.word_lists import embedding_bias, word_list

LETTERS = {letter: [number] for number, letter in enumerate("abcdefgh", start=10)}


def encode(text: str) -> list[int]:
    return [token for letter in text for token in LETTERS.get(letter, [])]


def test_a_word_list_has_ids_and_where_each_word_ends() -> None:
    found = word_list(["ab", "c", "", "def"], encode)
    assert found.tolist() == [[[10, 11, 12, 13, 14, 15], [2, 3, 6, -1, -1, -1]]]
    assert (found.shape, found.dtype) == ((1, 2, 6), np.int32)
    assert word_list(["", "?"], encode).shape == word_list([], encode).shape == (1, 2, 0)


@given(st.lists(st.text("abcdefgh", max_size=4), max_size=5))
def test_a_word_list_reads_back(texts: list[str]) -> None:
    assert words(word_list(texts, encode)[0]) == [encode(text) for text in texts if text]


def test_weights_are_added_for_each_token() -> None:
    found = embedding_bias(["ab", "b"], [1.5, -4.0], encode, 20)
    assert {at: value for at, value in enumerate(found[0].tolist()) if value} == {10: 1.5, 11: -2.5}
    assert embedding_bias([], [], encode, 20).shape == (1, 0)
    with pytest.raises(ValueError, match="1 embedding_bias_words and 2 embedding_bias_weights"):
        embedding_bias(["a"], [1.0, 2.0], encode, 20)


def pieces(decode: object, ids: Sequence[int], cuts: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(decode, stop)  # type: ignore[arg-type]
    bounds = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    found = [stream.push(ids[start:end]) for start, end in pairwise(bounds)]
    return [*found, stream.finish()]


@pytest.fixture(scope="module")
def byte_level(tiny_tokenizer_dir: Path) -> TextTokenizer:
    return TextTokenizer(tiny_tokenizer_dir)


@pytest.fixture(scope="module")
def sentence_piece() -> object:
    """Decodes as SentencePiece does: a space before each word, none before the first; bytes as tokens of their own."""
    from tokenizers import Tokenizer, decoders, models

    names = [f"<0x{byte:02X}>" for byte in range(256)] + ["▁the", "▁server", "s", "▁é", "▁"]
    tokenizer = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[], byte_fallback=True))
    strip = decoders.Strip(content=" ", left=1, right=0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return lambda ids: tokenizer.decode(list(ids))


@given(data=st.data())
def test_any_split_gives_the_same_text(byte_level: TextTokenizer, data: st.DataObject) -> None:
    text = data.draw(st.text(max_size=40))
    ids = byte_level.word(text)
    found = pieces(byte_level.decode, ids, data.draw(st.lists(st.integers(0, 200), max_size=12)))
    assert "".join(found) == whole_text(byte_level.decode, ids) == text.rstrip("\ufffd") or "\ufffd" in text
    assert not any("\ufffd" in piece for piece in found) or "\ufffd" in text


@given(data=st.data())
def test_any_split_of_any_ids_gives_the_same_text(byte_level: TextTokenizer, data: st.DataObject) -> None:
    """Ids that a model may make: bytes that are no characters, special tokens."""
    ids = data.draw(st.lists(st.integers(0, 2047), max_size=40))
    cuts = data.draw(st.lists(st.integers(0, 200), max_size=40))
    assert "".join(pieces(byte_level.decode, ids, cuts)) == whole_text(byte_level.decode, ids)


@given(data=st.data())
def test_spaces_and_byte_tokens_survive(sentence_piece: object, data: st.DataObject) -> None:
    known = {"é": [0xC3, 0xA9], "🙂": [0xF0, 0x9F, 0x99, 0x82]}
    parts = data.draw(st.lists(st.sampled_from([[256], [257], [258], [259], *known.values()]), max_size=20))
    ids = [token for part in parts for token in part]
    cuts = data.draw(st.lists(st.integers(0, 200), max_size=30))
    found = pieces(sentence_piece, ids, cuts)
    assert "".join(found) == whole_text(sentence_piece, ids)  # type: ignore[arg-type]
    assert not any("\ufffd" in piece for piece in found)


def test_a_control_token_without_text_takes_no_space_away(sentence_piece: object) -> None:
    def decode(ids: Sequence[int]) -> str:
        # As skip_special_tokens does.
        return sentence_piece([token for token in ids if token != 999])  # type: ignore[operator,no-any-return]

    assert "".join(pieces(decode, [256, 999, 257, 999, 256], [1, 2, 3, 4])) == "the server the"


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_text_ends_before_the_stop_word_that_ends_first(text: str, stop: list[str], cuts: list[int]) -> None:
    ends = [(at + len(word), at) for word in stop if (at := text.find(word)) >= 0]
    wanted = text[: min(ends)[1]] if ends else text
    filtered = StopWords(stop)
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    found = [filtered.push(text[start:end]) for start, end in pairwise(bounds)]
    assert "".join(found) + filtered.finish() == wanted
    assert filtered.found == bool(ends)
    assert filtered.push("more") == "" or not ends


def test_the_tokenizer_knows_what_ends_and_pads(tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    found = TextTokenizer(tiny_tokenizer_dir)
    assert (found.end_id, found.pad_id, found.vocab_size) == (2, 2, 2048)
    assert found.decode([2, *found.prompt("hello")]) == "hello"
    assert TextTokenizer(tiny_tokenizer_dir, skip_special_tokens=False).decode([2]) == "<|im_end|>"
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        TextTokenizer(tmp_path)
