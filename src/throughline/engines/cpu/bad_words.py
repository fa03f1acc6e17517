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
    alphabet = sorted({character for word in words for character in word})
    others = f"[^{''.join(map(_escaped, alphabet))}] s0"
    numbers = {state: number for number, state in enumerate(_beginnings(words))}
    longest_first = sorted(numbers, key=len, reverse=True)
    endings = {letter: [state for state in longest_first if state.endswith(letter)] for letter in alphabet}
    rules = ["root ::= s0"]
    for state, number in numbers.items():
        follows: dict[int, str] = {}
        for letter in alphabet:
            text = state + letter
            if not text.endswith(tuple(words)):
                place = numbers[next((ending for ending in endings[letter] if text.endswith(ending)), "")]
                follows[place] = follows.get(place, "") + _escaped(letter)
        rules.append(
            f"s{number} ::= " + " | ".join(['""', others, *(f"[{found}] s{to}" for to, found in follows.items())])
        )
    return "\n".join(rules)


def _beginnings(words: Sequence[str]) -> list[str]:
    """What a text may end with of the words, the empty one first: beginnings that no word is in."""
    found = {word[:length] for word in words for length in range(len(word))}
    return sorted(text for text in found if not any(word in text for word in words))


def _escaped(character: str) -> str:
    """A character by its number, so that none means anything else to the grammar."""
    number = ord(character)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
