"""Bad words on the CPU: a grammar of all texts that hold none of them, by which xgrammar masks the tokens.

GenAI has no list of bad words of its own. A grammar bans the text, so that no other way to cut it into tokens gets by.
"""

from __future__ import annotations

from collections.abc import Sequence


def grammar_without(words: Sequence[str]) -> str:
    """Returns a grammar, in xgrammar's EBNF, of the texts that none of the words is in.

    Its rules are the states of the words' automaton (Aho and Corasick, 1975), which is the longest beginning of a word
    that the text so far ends with; those that end a word are left out. It is right-linear and the text may end in every
    state.

    Args:
        words: Not empty, and none of them is.
    """
    states = _beginnings(words)
    alphabet = sorted({character for word in words for character in word})
    numbers = {state: number for number, state in enumerate(states)}
    rules = ["root ::= s0"]
    for state, number in numbers.items():
        follows: dict[int, str] = {}
        for character in alphabet:
            text = state + character
            if not text.endswith(tuple(words)):
                place = numbers[_longest_ending(text, numbers)]
                follows[place] = follows.get(place, "") + _escaped(character)
        others = f"[^{''.join(map(_escaped, alphabet))}] s0"
        rules.append(
            f"s{number} ::= " + " | ".join(['""', others, *(f"[{found}] s{to}" for to, found in follows.items())])
        )
    return "\n".join(rules)


def _beginnings(words: Sequence[str]) -> list[str]:
    """What a text may end with of the words, the empty one first: beginnings that no word is in."""
    found = {word[:length] for word in words for length in range(len(word))}
    return sorted(text for text in found if not any(word in text for word in words))


def _longest_ending(text: str, known: dict[str, int]) -> str:
    return next(text[start:] for start in range(len(text) + 1) if text[start:] in known)


def _escaped(character: str) -> str:
    """A character by its number, so that none means anything else to the grammar."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
