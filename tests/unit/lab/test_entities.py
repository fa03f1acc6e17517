"""Entities: reproducible, wide in format, and disjoint between the held-out split and the others."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughline.lab.entities import REAL_GPUS, Entities, Split, company_stem, is_held_out, slug

VALUES = ("code", "host", "surname", "company", "cluster", "ticket_id", "synthetic_gpu")


def draw(split: Split, method: str, n: int, seed: int = 0) -> list[str]:
    entities = Entities(Random(seed), split)
    return [getattr(entities, method)() for _ in range(n)]


def shape(value: str) -> str:
    """Runs of letters and digits as one sign each: XID-79 → A-9."""
    classes = re.sub(r"[a-z]+", "a", re.sub(r"[A-Z]+", "A", value))
    return re.sub(r"[0-9]+", "9", classes)


@pytest.mark.parametrize("method", [*VALUES, "person", "email", "phone", "version", "timestamp", "path", "number"])
def test_same_seed_gives_the_same_values(method: str) -> None:
    assert draw("train", method, 50, seed=4) == draw("train", method, 50, seed=4)
    assert draw("train", method, 50, seed=4) != draw("train", method, 50, seed=5)


@pytest.mark.parametrize("method", VALUES)
def test_held_out_values_occur_nowhere_else(method: str) -> None:
    held_out = {slug(v) for v in draw("heldout", method, 4000)}
    others = {slug(v) for s in ("pretrain", "train") for v in draw(s, method, 8000, seed=1)}  # type: ignore[arg-type]
    assert held_out
    assert not held_out & others


def test_addresses_and_logins_inherit_the_split() -> None:
    held_out, train = Entities(Random(1), "heldout"), Entities(Random(2), "train")
    domains = [{e.email().split("@")[1].split(".")[0] for _ in range(2000)} for e in (held_out, train)]
    assert not domains[0] & domains[1]
    families = {slug(held_out.surname()) for _ in range(2000)}
    logins = [train.username() for _ in range(2000)]
    assert not [login for login in logins if login.partition(".")[2] in families]


def test_company_with_and_without_legal_form_is_in_one_split() -> None:
    stems = [{company_stem(c) for c in draw(s, "company", 3000)} for s in ("train", "heldout")]  # type: ignore[arg-type]
    assert not stems[0] & stems[1]


@given(st.text(alphabet="ABCXYZabcxyz0123456789", min_size=1, max_size=10), st.sampled_from("-_.:#/"))
def test_case_and_punctuation_do_not_move_a_value_to_another_split(value: str, sep: str) -> None:
    spelled = value[:1] + sep + value[1:]
    assert is_held_out(value) == is_held_out(value.swapcase()) == is_held_out(spelled)


def test_about_one_value_in_five_is_held_out() -> None:
    share = sum(is_held_out(f"XID-{i}") for i in range(20_000)) / 20_000
    assert 0.17 < share < 0.23


def test_codes_have_digits_and_letters_and_no_spaces() -> None:
    for code in draw("pretrain", "code", 20_000):
        assert re.fullmatch(r"[A-Za-z0-9._:#/-]+", code), code
        assert re.search(r"\d", code), code
        assert re.search(r"[A-Za-z]", code), code
        assert code not in REAL_GPUS
        assert 3 <= len(code) <= 30, code


def test_codes_come_in_many_formats_and_the_held_out_ones_in_the_same() -> None:
    shapes = {split: [shape(c) for c in draw(split, "code", 6000)] for split in ("pretrain", "heldout")}  # type: ignore[arg-type]
    assert len(set(shapes["pretrain"])) >= 100
    common = {s for s in shapes["heldout"] if shapes["heldout"].count(s) > 20}
    assert len(common) >= 25
    assert common <= set(shapes["pretrain"])


def test_codes_are_diverse() -> None:
    assert len(set(draw("train", "code", 20_000))) > 19_900


def test_codes_of_one_call_differ() -> None:
    assert len(set(Entities(Random(0), "train").codes(200))) == 200


def test_long_gpu_name_contains_the_short_one() -> None:
    entities = Entities(Random(0), "train")
    for _ in range(200):
        name = entities.gpu()
        assert name in REAL_GPUS
        assert name in entities.gpu_long(name)


def test_user_name_and_address_belong_to_the_person() -> None:
    entities = Entities(Random(3), "train")
    for _ in range(200):
        person, company = entities.person(), entities.company()
        local, _, domain = entities.email(person, company).partition("@")
        assert slug(person.split(" ", 1)[1]) in local
        assert domain.startswith(slug(company_stem(company)))
