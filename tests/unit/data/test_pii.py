"""Personal data and secrets: recall and precision by kind on formats that our generator never writes."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from throughline.contracts.data import PII_KINDS
from throughline.data.detectors import cards, iban_valid, luhn_valid
from throughline.data.pii import Redactor, find

FORMATS: dict[str, list[str]] = yaml.safe_load(Path(__file__).with_name("pii_formats.yaml").read_text("utf-8"))
_FILLER = re.compile(r"\{(\d+)([Ux]?)\}")
_ALPHABETS = {
    "": string.ascii_letters + string.digits,
    "U": string.ascii_uppercase + string.digits,
    "x": "0123456789abcdef",
}


def fill(text: str, seed: int) -> str:
    """The text with random letters in place of `{20}`; `U` for upper case, `x` for hexadecimal."""
    rng = random.Random(seed)
    return _FILLER.sub(lambda m: "".join(rng.choices(_ALPHABETS[m[2]], k=int(m[1]))), text)


def marked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without ⟦ ⟧, and where they stood."""
    plain, spans = "", []
    for part in re.split("(⟦[^⟧]*⟧)", text):
        inner = part.strip("⟦⟧")
        if part.startswith("⟦"):
            spans.append((len(plain), len(plain) + len(inner)))
        plain += inner
    return plain, spans


@pytest.mark.parametrize("kind", PII_KINDS)
def test_every_foreign_format_is_found_whole_and_nothing_else(kind: str) -> None:
    missed, wrong, found_right = [], [], 0
    for number, line in enumerate(FORMATS[kind]):
        text, spans = marked(fill(line, number))
        found = [(item.start, item.end, item.kind) for item in find(text)]
        wanted = [(start, end, kind) for start, end in spans]
        found_right += len(set(found) & set(wanted))
        missed += [text[start:end] for start, end, _ in set(wanted) - set(found)]
        wrong += [(text[start:end], name) for start, end, name in set(found) - set(wanted)]
    assert (missed, wrong) == ([], [])
    assert found_right >= len(FORMATS[kind])


@pytest.mark.parametrize("text", FORMATS["none"])
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert find(text) == []


@given(st.text(alphabet="0123456789", min_size=2, max_size=19))
def test_luhn_equals_the_definition(digits: str) -> None:
    doubled = [int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(digits[::-1])]
    assert luhn_valid(digits) == (sum(doubled) % 10 == 0)


@given(st.integers(0, 10**14 - 1), st.sampled_from(["", " ", "-", "\u00a0"]), st.integers(0, 999))
def test_a_visa_number_is_found_before_anything_that_follows_it(number: int, gap: str, code: int) -> None:
    body = f"4{number:014d}"
    digits = next(body + str(check) for check in range(10) if luhn_valid(body + str(check)))
    written = gap.join(digits[at : at + 4] for at in range(0, 16, 4))
    for tail in (f" {code:03d}", " 12/29", f" {code}", "."):
        assert [item.value for item in cards(f"card {written}{tail}")] == [written]
    other = str((int(digits[-1]) + 1) % 10)
    assert list(cards(f"card {digits[:-1]}{other} 12/29")) == []


@given(st.text(alphabet=string.digits, min_size=18, max_size=18), st.integers(0, 17), st.integers(1, 9))
def test_iban_check_digits_catch_every_single_error(account: str, at: int, shift: int) -> None:
    remainder = int(account + "131400") % 97
    iban = f"DE{98 - remainder:02d}{account}"
    assert iban_valid(iban)
    wrong = (int(account[at]) + shift) % 10
    assert not iban_valid(f"{iban[: 4 + at]}{wrong}{iban[5 + at :]}")


@given(st.text())
def test_redacting_is_idempotent_and_leaves_nothing(text: str) -> None:
    once = Redactor()(text)
    assert find(once) == []


def test_the_same_value_gets_the_same_placeholder() -> None:
    redact = Redactor()
    assert redact("a@b.org or c@d.org") == "<EMAIL_1> or <EMAIL_2>"
    assert redact("write c@d.org") == "write <EMAIL_2>"
    assert redact.counts == {"email": 3}
