"""The grammar of texts without bad words, read by a small interpreter of its own, against looking for the words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.bad_words import grammar_without
from throughline.engines.cpu.guided import MOST_STATES, check_guide

_RULE = re.compile(r"(\w+) ::= (.*)")
_STEP = re.compile(r"\[(\^?)((?:\\u[0-9a-f]{4}|\\U[0-9a-f]{8})+)\] (\w+)")
_CHARACTER = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")


def accepts(grammar: str, text: str) -> bool:
    """Whether the right-linear grammar has the text."""
    rules = {match[1]: match[2].split(" | ") for match in map(_RULE.fullmatch, grammar.splitlines()) if match}
    assert rules.pop("root") == ["s0"]
    state = "s0"
    for character in text:
        following = []
        for part in rules[state]:
            step = _STEP.fullmatch(part)
            if step is None:
                assert part == '""'
                continue
            negated, characters, target = step.groups()
            known = {chr(int(short or long, 16)) for short, long in _CHARACTER.findall(characters)}
            if (character in known) != bool(negated):
                following.append(target)
        assert len(following) <= 1, "an automaton goes one way"
        if not following:
            return False
        state = following[0]
    return '""' in rules[state]


LETTERS = st.sampled_from('ab]-^\\"\n é😀')
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=5)


@given(words=WORDS, text=st.text(LETTERS, max_size=12))
def test_just_the_texts_without_a_word_are_in_the_grammar(words: list[str], text: str) -> None:
    assert accepts(grammar_without(words), text) == (not any(word in text for word in words))


@given(words=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4), text=st.text("abc", max_size=9))
def test_words_within_words_and_over_one_another(words: list[str], text: str) -> None:
    assert accepts(grammar_without(words), text) == (not any(word in text for word in words))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (SamplingParams(bad_words=("a" * (MOST_STATES + 1),)), f"seen: {MOST_STATES + 1} characters together"),
        (SamplingParams(bad_words=("",)), "no text to ban"),
        (SamplingParams(bad_words=("\ud800",)), "send texts of valid Unicode"),
        (SamplingParams(bad_words=("a",), guided_decoding=GuidedDecodingParams(regex="b")), "leave one out"),
    ],
)
def test_what_cannot_be_banned_is_refused(params: SamplingParams, words: str) -> None:
    with pytest.raises(EngineError, match="bad_words") as caught:
        check_guide(params)
    assert words in str(caught.value)
