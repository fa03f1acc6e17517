"""Streamed text is the whole text cut at its first stop string, however the tokens arrive."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from tests import streamed_text as twin
from throughline.engines import Detokenizer, Vocabulary

# Every byte is a token, and so are some longer pieces, one of them half a character.
PIECES = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc", b"b\xc3", b"\xa9a", "→é".encode(), b"aab", b""]
VOCABULARY = Vocabulary(PIECES)
LETTERS = [*range(ord("a"), ord("d")), *range(256, 263), *"é→".encode()]
tokens = st.lists(st.one_of(st.sampled_from(LETTERS), st.integers(0, 262)), max_size=40)
stops = st.lists(st.text("abcé→", max_size=4), max_size=4)


def decode(ids: list[int]) -> str:
    return twin.decode(b"".join(PIECES[token] for token in ids))


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[int], list[list[int]], list[str]]:
    ids = draw(tokens)
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=10)))
    edges = [0, *cuts, len(ids)]
    return ids, [ids[a:b] for a, b in pairwise(edges)], draw(stops)


@given(streams())
@example(([0xED, 0xA9], [[0xED, 0xA9]], []))
@example(([0xED, 0xA9, ord("a")], [[0xED], [0xA9], [ord("a")]], ["a"]))
def test_any_split_gives_the_whole_text_cut_at_the_first_stop(
    stream: tuple[list[int], list[list[int]], list[str]],
) -> None:
    ids, parts, stop = stream
    detokenizer = Detokenizer(VOCABULARY, stop)
    pushed = [detokenizer.push(part) for part in parts]
    text, stopped = twin.cut(decode(ids), stop)
    assert ("".join(pushed) + detokenizer.finish(), detokenizer.stopped) == (text, stopped)


@given(streams())
def test_nothing_is_taken_back_and_no_more_is_held_than_a_stop_could_begin(
    stream: tuple[list[int], list[list[int]], list[str]],
) -> None:
    ids, parts, stop = stream
    final, _ = twin.cut(decode(ids), stop)
    detokenizer = Detokenizer(VOCABULARY, stop)
    shown, seen = "", []
    for part in parts:
        shown += detokenizer.push(part)
        seen += part
        assert final.startswith(shown)
        if detokenizer.stopped:
            break
        so_far = decode(seen)
        held = so_far[len(shown) :]
        assert so_far.startswith(shown)
        assert not held or any(word.startswith(held) for word in stop)


def test_overlapping_stops_end_where_the_first_is_complete() -> None:
    detokenizer = Detokenizer(VOCABULARY, ["abcd", "bc", "c"])
    assert detokenizer.push(b"xabcd") == "xa"
    assert detokenizer.stopped
    assert detokenizer.push(b"more") == detokenizer.finish() == ""


def test_half_a_character_waits_for_its_rest_and_is_dropped_at_the_end() -> None:
    first, second = "é".encode()
    detokenizer = Detokenizer(VOCABULARY)
    assert [detokenizer.push([first]), detokenizer.push([second]), detokenizer.push([first])] == ["", "é", ""]
    assert detokenizer.finish() == ""


def test_bytes_that_are_no_text_become_replacement_characters() -> None:
    assert Detokenizer(VOCABULARY).push([0xFF, ord("a")]) == "\ufffda"


def test_a_stop_before_the_minimum_does_not_count() -> None:
    detokenizer = Detokenizer(VOCABULARY, ["ab"])
    assert detokenizer.push(b"ab", allow_stop=False) == "ab"
    assert detokenizer.push(b"cab") == "c"
    assert detokenizer.stopped
