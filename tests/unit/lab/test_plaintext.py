"""Plain text: reproducible, copy-structured, diverse, and free of the lab's tasks and held-out values."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import islice
from random import Random

import pytest

from throughline.lab.entities import Entities, company_stem
from throughline.lab.plaintext import FAMILIES, documents, statistics
from throughline.lab.writer import Writer

SAMPLE = list(documents(17, 1_500_000))


def test_same_seed_gives_the_same_stream() -> None:
    assert list(islice(documents(5), 200)) == list(islice(documents(5), 200))
    assert list(islice(documents(5), 200)) != list(islice(documents(6), 200))


def test_stream_is_what_the_shipped_checkpoint_was_trained_on() -> None:
    digest = hashlib.sha256()
    for text in documents(3, 1_000_000):
        digest.update(text.encode() + b"\0")
    assert digest.hexdigest() == "105c5bd2ff58fa941879a659731ba9a575c486ee552f1706d86b4cb4bb6d11c7"


def test_stops_after_the_asked_number_of_characters() -> None:
    texts = list(documents(1, 10_000))
    assert sum(map(len, texts)) >= 10_000
    assert sum(map(len, texts[:-1])) < 10_000


def test_most_documents_copy_and_few_phrases_repeat_across_documents() -> None:
    found = statistics(SAMPLE)
    assert found.copy_share >= 0.65
    assert found.copied_chars >= 0.25
    assert found.distinct_trigrams >= 0.40
    assert 150 <= found.mean_chars <= 900


def test_no_two_documents_of_the_sample_are_equal() -> None:
    long = [text for text in SAMPLE if len(text) > 60]
    assert len(set(long)) > 0.998 * len(long)


def test_by_weight_most_documents_are_built_on_copying() -> None:
    assert sum(f.weight for f in FAMILIES if f.copies) / sum(f.weight for f in FAMILIES) >= 0.65


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.copies], ids=lambda f: f.write.__name__)
def test_copying_families_restate_unguessable_strings(family: object) -> None:
    writer = Writer(Random(2), "pretrain")
    texts = []
    for _ in range(300):
        writer.begin()
        texts.append(family.write(writer))  # type: ignore[attr-defined]
    assert statistics(texts).copy_share > 0.6


def test_never_shows_the_task_format_or_its_answers() -> None:
    banned = (
        *("open_ticket", "requested_action", "error_code", "gpu_model", "severity", "component"),
        "Not found in the provided documents",
    )
    for text in SAMPLE:
        assert not [word for word in banned if word in text], text


def test_never_uses_a_held_out_value() -> None:
    held_out = Entities(Random(9), "heldout")
    values: set[str] = set()
    for _ in range(20_000):
        values |= {held_out.code(), held_out.host(), held_out.surname(), company_stem(held_out.company())}
    used = {w.strip(".:?!") for text in SAMPLE for w in re.split(r"[\s\"'`,;()<>\[\]{}|=]+", text)}
    assert not values & used


def test_tool_calls_are_json_that_only_repeats_the_conversation() -> None:
    pattern = re.compile(r"<tool_call>(.*?)</tool_call>")
    calls = [(text, call) for text in SAMPLE for call in pattern.finditer(text)]
    assert len(calls) > 30
    for text, call in calls:
        for value in json.loads(call[1])["arguments"].values():
            assert value in text[: call.start()]


def test_absent_values_are_said_to_be_absent() -> None:
    text = "\n".join(SAMPLE)
    for phrase in ("No code was given.", ": null", "code=none", "is not in the text."):
        assert phrase in text


@pytest.mark.parametrize("word", ["Produktion", "redémarrer", "tarjeta", "nvidia-smi", "refund", "def "])
def test_vocabulary_covers_languages_and_domain(word: str) -> None:
    assert any(word in text for text in SAMPLE)


def test_statistics_tell_copying_from_prose() -> None:
    prose = statistics(["The cat sleeps on the warm keyboard and dreams of fish all day long."])
    copied = statistics(["It shows XID-79 on node-4.\ncode=XID-79 host=node-4"])
    assert prose.copy_share == 0 == prose.copied_chars
    assert copied.copy_share == 1
    assert copied.copied_chars == pytest.approx(len("XID-79node-4") / len("ItshowsXID-79onnode-4.codeXID-79hostnode-4"))


def test_statistics_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no documents"):
        statistics([])
