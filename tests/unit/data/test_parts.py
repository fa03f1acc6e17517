"""Parts of the data stage against slow twins: duplicates, personal data, normalising, splitting."""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.contracts.errors import DataError
from throughline.data import dedup
from throughline.data.dedup import find_duplicates, find_repeats, jaccard, shingles, words
from throughline.data.ingest import Record, Reject, read_records, source_files
from throughline.data.normalise import normalise_text
from throughline.data.pii import Redactor, find
from throughline.data.split import groups, split, times
from throughline.lab.dirt import personal_value

WORDS = ["the", "gpu", "is", "hot", "and", "slow", "on", "node", "seven"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)


def slow_duplicates(texts: list[str], threshold: float) -> list[tuple[int, float]]:
    kept: list[int] = []
    found = []
    for index, text in enumerate(texts):
        mine = shingles(words(text))
        similar = [jaccard(mine, shingles(words(texts[other]))) for other in kept]
        if any(words(texts[other]) == words(text) for other in kept):
            found.append((index, 1.0))
        elif similar and max(similar) >= threshold:
            found.append((index, max(similar)))
        else:
            kept.append(index)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=25))
def test_duplicates_equal_the_slow_twin(texts: list[str]) -> None:
    found = [(item.index, item.jaccard) for item in find_duplicates(texts, 0.8)]
    assert found == slow_duplicates(texts, 0.8)


def near_texts(seed: int) -> list[str]:
    """Long texts and edits of them, so that similarities lie on both sides of the threshold."""
    rng = Random(seed)
    boilerplate = [f"w{number}" for number in range(rng.randrange(40))]
    texts: list[list[str]] = []
    for _ in range(rng.randint(1, 12)):
        if texts and rng.random() < 0.7:
            tokens = list(rng.choice(texts))
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(tokens))
                tokens[at : at + rng.randrange(2)] = [rng.choice(WORDS)]
        else:
            tokens = boilerplate + [f"x{rng.randrange(30)}" for _ in range(rng.randrange(3, 30))]
        texts.append(tokens)
    return [" ".join(tokens) for tokens in texts]


NEAR_TEXTS = st.integers(0, 10**9).map(near_texts)


@settings(max_examples=200, deadline=None)
@given(NEAR_TEXTS, st.sampled_from([0.5, 0.7, 0.8, 0.9, 1.0]))
def test_near_duplicates_equal_the_slow_twin(texts: list[str], threshold: float) -> None:
    found = [(item.index, item.jaccard) for item in find_duplicates(texts, threshold)]
    assert found == slow_duplicates(texts, threshold)


def test_the_near_texts_have_duplicates_and_others() -> None:
    """The property above says something only if both happen."""
    texts = [near_texts(seed) for seed in range(200)]
    near = sum(0.8 <= score < 1 for found in texts for _, score in slow_duplicates(found, 0.8))
    others = sum(len(found) - len(slow_duplicates(found, 0.8)) for found in texts)
    assert near > 50 and others > 50


@settings(max_examples=100, deadline=None)
@given(NEAR_TEXTS, NEAR_TEXTS)
def test_repeats_equal_the_slow_twin(texts: list[str], of: list[str]) -> None:
    best = [max((jaccard(shingles(words(text)), shingles(words(o))) for o in of), default=0.0) for text in texts]
    same = [any(words(text) == words(o) for o in of) for text in texts]
    wanted = {n: 1.0 if same[n] else best[n] for n in range(len(texts)) if same[n] or best[n] >= 0.8}
    assert {item.index: item.jaccard for item in find_repeats(texts, of, 0.8)} == wanted


@pytest.mark.parametrize("unique", [3, 8, 25])
def test_boilerplate_does_not_make_it_quadratic(monkeypatch: pytest.MonkeyPatch, unique: int) -> None:
    """Before, 500, 1,000 and 2,000 records with boilerplate took 31,000, 139,000 and 534,000 comparisons."""
    counts = []
    for total in (500, 1000, 2000):
        rng = Random(total)
        boilerplate = " ".join(f"word{number}" for number in range(40))
        texts = [f"{boilerplate} {' '.join(str(rng.random()) for _ in range(unique))}" for _ in range(total)]
        calls: list[int] = []
        monkeypatch.setattr(dedup, "jaccard", lambda a, b, calls=calls: calls.append(1) or jaccard(a, b))
        assert list(find_duplicates(texts, 0.8)) == []
        counts.append(len(calls))
    assert counts[2] <= 2000


def test_exact_ignores_case_and_white_space() -> None:
    found = list(find_duplicates(["GPU 3 is hot", "gpu 3\n is  HOT", "gpu 4 is hot"], 1.0))
    assert [(item.index, item.original) for item in found] == [(1, 0)]


@pytest.mark.parametrize("kind", ["email", "phone", "ip", "credit_card", "api_key"])
@given(seed=st.integers(0, 10_000))
def test_every_planted_form_is_found(kind: str, seed: int) -> None:
    value = personal_value(Random(seed), kind)
    text = f"Before {value} after"
    assert [(item.kind, item.value) for item in find(text)] == [(kind, value)]
    assert Redactor()(text).startswith("Before <")
    assert value not in Redactor()(text)


@given(st.text())
def test_normalising_is_idempotent(text: str) -> None:
    once = normalise_text(text, [])
    assert normalise_text(once, []) == once


def test_mojibake_is_repaired_and_clean_text_is_not_touched() -> None:
    repairs: list[str] = []
    assert normalise_text("Zürich, naïve – déjà vu".encode().decode("latin-1"), repairs) == "Zürich, naïve – déjà vu"
    assert repairs == ["mojibake"]
    for text in ("Die Größe ist 5 µm", "温度が高い", "garçon “quoted” – dash"):
        assert normalise_text(text, []) == text


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: without the non-joiner another word
        "क्\u200dष और क्\u200cष",  # Devanagari: half form and virama shown
        "👩\u200d💻 and 👨🏽\u200d🚀, 🏳️\u200d🌈",  # emoji sequences, with a skin tone and a variation selector
    ],
)
def test_joiners_stay_where_they_mean_something(text: str) -> None:
    assert normalise_text(text, []) == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("pass\u200dword", "password"),
        ("\u200cGPU \u200d3\u200b is\ufeff hot\u2060", "GPU 3 is hot"),
        ("می\u200c\u200c\u200cخواهم", "می\u200cخواهم"),
        ("سلام\u200c", "سلام"),
    ],
)
def test_joiners_that_hide_go(text: str, clean: str) -> None:
    repairs: list[str] = []
    assert normalise_text(text, repairs) == clean
    assert set(repairs) == {"invisible_characters"}


PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("wxyz")), min_size=1, max_size=20)


@given(PAIRS)
def test_groups_equal_transitive_closure(pairs: list[tuple[str, str]]) -> None:
    records = [{"customer": a, "document": b} for a, b in pairs]
    found = groups(records, ("customer", "document"))
    linked = [{index} for index in range(len(records))]
    for _ in records:
        for i, j in itertools.combinations(range(len(records)), 2):
            tied = any(pairs[x][0] == pairs[y][0] or pairs[x][1] == pairs[y][1] for x in linked[i] for y in linked[j])
            if tied:
                linked[i] = linked[j] = linked[i] | linked[j]
    for i, j in itertools.combinations(range(len(records)), 2):
        assert (found[i] == found[j]) == (j in linked[i])


@given(PAIRS, st.integers(0, 5))
def test_split_never_cuts_a_group(pairs: list[tuple[str, str]], seed: int) -> None:
    records = [{"customer": a, "document": b} for a, b in pairs]
    chosen = split(records, ("customer",), 0.3, seed)
    assert not {r["customer"] for r, c in zip(records, chosen, strict=True) if c} & {
        r["customer"] for r, c in zip(records, chosen, strict=True) if not c
    }
    assert sum(chosen) <= round(0.3 * len(records))


def test_the_latest_groups_are_held_out_and_one_undated_record_makes_the_order_random() -> None:
    records: list[dict[str, str]] = [{"customer": f"c{n % 5}", "created": f"2026-01-{n:02d}"} for n in range(1, 11)]
    found = times(records)
    assert found is not None
    chosen = split(records, ("customer",), 0.4, 0, latest=found)
    assert {r["customer"] for r, c in zip(records, chosen, strict=True) if c} == {"c0", "c4"}
    assert times([*records, {"customer": "x"}]) is None


@given(st.lists(st.binary(max_size=40).filter(lambda raw: b"\n" not in raw), max_size=8))
def test_any_bytes_are_read_as_records_or_rejects(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("any") / "x.jsonl"
    path.write_bytes(b"".join(row + b"\n" for row in rows))
    items = list(read_records([path]))
    assert len(items) == sum(bool(row.rstrip(b"\r").strip()) for row in rows)
    assert all(isinstance(item, Record | Reject) for item in items)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.source"):
        source_files(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"has no \*\.jsonl"):
        source_files(str(tmp_path))
