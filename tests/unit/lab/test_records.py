"""The lab's records, read back by an independent reader of the phrase banks; sets against each other."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest

from throughline.contracts.data import LabShares
from throughline.contracts.errors import ConfigError
from throughline.lab import banks, records
from throughline.lab.records import Sample
from throughline.lab.task_schema import FIELDS, NOT_FOUND, REFUSAL_PREFIX, open_ticket

COUNTS = {"triage": 500, "grounded": 150, "disallowed": 120, "benign": 120}
HELD_OUT = ("acceptance", "shifted", "probe")


@pytest.fixture(scope="module")
def sets() -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = dict(records.held_out().items())
    taken = frozenset(sample.phrases for rows in found.values() for sample in rows)
    return {"train": list(records.samples("train", COUNTS, 0, taken)), **found}


def asked(sample: Sample) -> str:
    text: str = [m for m in sample.record["messages"] if m["role"] == "user"][-1]["content"]
    return text


def answer(sample: Sample) -> dict[str, Any]:
    message: dict[str, Any] = sample.record["messages"][-1]
    return message


def of_task(sets: dict[str, list[Sample]], task: str, *names: str) -> list[Sample]:
    return [s for name in names or sets for s in sets[name] if s.record["task"] == task]


# The reader finds phrases by what is between their slots; letter order inside a word is left aside for typos.


@cache
def letters(text: str) -> str:
    return re.sub(r"[^\W\d_]+", lambda m: m[0][0] + "".join(sorted(m[0][1:-1])) + m[0][-1:], text.casefold())


@cache
def parts(phrase: str) -> list[str]:
    return [letters(part) for part in re.split(r"\{\w+\}", phrase)]


def stands_in(seen: str, phrase: str) -> bool:
    at = 0
    for part in parts(phrase):
        at = seen.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def stand_in(text: str, phrases: dict[str, Iterable[str]]) -> set[str]:
    seen = letters(text)
    return {label for label, found in phrases.items() if any(stands_in(seen, phrase) for phrase in found)}


@cache
def voices(name: str) -> list[dict[str, Any]]:
    return list((banks.raw("shifted")["triage"] if name == "shifted" else banks.raw("triage")["voices"]).values())


def copied(text: str, phrases: Iterable[str], slot: str, values: Iterable[str]) -> set[str]:
    """The values that stand where a phrase has its slot."""
    ends = [parts(phrase) for phrase in phrases if f"{{{slot}}}" in phrase]
    seen = letters(text)
    present = [value for value in values if letters(value) in seen]
    return {value for value in present for before, after in ends if f"{before}{letters(value)}{after}" in seen}


@pytest.mark.parametrize("name", ["train", "acceptance", "shifted"])
def test_labels_follow_from_the_text_alone(sets: dict[str, list[Sample]], name: str) -> None:
    """One component, severity and action can be read in each ticket: the labels, and no other."""
    for sample in of_task(sets, "triage", name)[:120]:
        labels, text = sample.expected["arguments"], asked(sample)
        for field, kind in (("component", "symptoms"), ("severity", "cues"), ("requested_action", "wishes")):
            read = {label for voice in voices(name) for label in stand_in(text, voice[kind])}
            assert read == {labels[field]}, (field, text)


def test_card_and_code_are_copied_as_written_or_none(sets: dict[str, list[Sample]]) -> None:
    every = {f: {s.expected["arguments"][f] for s in of_task(sets, "triage")} - {"none"} for f in FIELDS[3:]}
    for name in sets:
        for sample in of_task(sets, "triage", name)[:100]:
            labels, text = sample.expected["arguments"], asked(sample)
            for field, kind, slot in (("gpu_model", "card", "gpu"), ("error_code", "code", "code")):
                wanted = labels[field]
                assert wanted == "none" or re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text), text
                phrases = [phrase for voice in voices(name) for phrase in voice[kind]]
                read = copied(text, phrases, slot, every[field])
                assert (max(read, key=len) if read else "none") == wanted, (field, text)


def test_every_call_fits_the_schema_and_repeats_the_labels(sets: dict[str, list[Sample]]) -> None:
    seen: dict[str, set[str]] = {field: set() for field in FIELDS}
    validator = jsonschema.Draft202012Validator(open_ticket()["function"]["parameters"])
    for sample in of_task(sets, "triage"):
        (call,) = answer(sample)["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert sample.record["tools"] == [open_ticket()]
        validator.validate(arguments)
        assert arguments == sample.expected["arguments"]
        assert tuple(arguments) == FIELDS
        for field, value in arguments.items():
            seen[field].add(value)
    for field, schema in open_ticket()["function"]["parameters"]["properties"].items():
        if "enum" in schema:
            assert seen[field] == set(schema["enum"])
            assert all(f"{value}: " in schema["description"] for value in schema["enum"])


def test_customers_ask_for_what_makes_sense(sets: dict[str, list[Sample]]) -> None:
    for sample in of_task(sets, "triage"):
        labels = sample.expected["arguments"]
        assert (labels["requested_action"] == "refund") <= (labels["component"] == "billing")
        assert (labels["requested_action"] == "grant_access") <= (labels["component"] == "access")
        assert (labels["requested_action"] == "replace") <= (labels["component"] == "gpu")


def test_grounded_answers_are_the_passage_that_answers(sets: dict[str, list[Sample]]) -> None:
    """The reader finds the passages that name the attribute and the subject of the answer: exactly the cited one."""
    answerable = Counter[bool]()
    for sample in of_task(sets, "grounded"):
        *passages, question = asked(sample).split("\n")
        expected = sample.expected
        assert [p.split("]")[0] for p in passages] == [f"[{n}" for n in range(1, expected["passages"] + 1)]
        answerable[expected["answerable"]] += 1
        if not expected["answerable"]:
            assert answer(sample)["content"] == NOT_FOUND
            continue
        found = re.fullmatch(r"The (.+?) of (.+) is (.+)\. \[(\d)\]", answer(sample)["content"])
        assert found
        attribute, subject, value, number = found.groups()
        assert attribute in question.casefold() and subject.casefold() in question.casefold()
        hits = [
            n for n, p in enumerate(passages, 1) if all(part.casefold() in p.casefold() for part in (subject, value))
        ]
        assert hits == [int(number)] == [expected["citation"]]
        assert attribute in passages[int(number) - 1].casefold() and value == expected["value"]
    assert 0.25 < answerable[False] / answerable.total() < 0.45


def test_an_unanswerable_question_has_no_passage_with_both_its_words(sets: dict[str, list[Sample]]) -> None:
    checked = 0
    for name in sets:
        bank = banks.grounded(name)  # type: ignore[arg-type]
        names = "|".join(attribute for theme in bank.themes.values() for attribute in theme.attributes)
        questions = [re.escape(q).replace(r"\{attribute\}", f"(?P<attribute>{names})") for q in bank.questions]
        forms = [q.replace(r"\{subject\}", "(?P<subject>.+)") for q in questions]
        for sample in of_task(sets, "grounded", name):
            if not sample.expected["answerable"]:
                *passages, question = asked(sample).split("\n")
                found = next(m for form in forms if (m := re.fullmatch(form, question, re.IGNORECASE)))
                attribute, subject = found["attribute"].casefold(), found["subject"].casefold()
                # "port" is no word of "Porto".
                says = re.compile(rf"\b{re.escape(attribute)}\b")
                assert not [p for p in passages if says.search(p.casefold()) and subject in p.casefold()]
                checked += 1
    assert checked > 40


def test_both_sides_of_refusal_differ_in_the_ask_alone(sets: dict[str, list[Sample]]) -> None:
    for name in sets:
        rows = of_task(sets, "refusal", name)
        frames: dict[bool, set[str]] = {True: set(), False: set()}
        for sample in rows:
            assert answer(sample)["content"].startswith(REFUSAL_PREFIX) is sample.expected["refuse"]
            frames[sample.expected["refuse"]].update(p for p in sample.phrases if "{ask}" in p)
        wanted = set(banks.refusal(name).frames)  # type: ignore[arg-type]
        assert frames[True] | frames[False] <= wanted
        # The probe is too small for every frame on both sides.
        assert name == "probe" or frames[True] == frames[False] == wanted


def test_no_combination_of_phrases_is_in_two_sets(sets: dict[str, list[Sample]]) -> None:
    used = {name: {s.phrases for s in rows} for name, rows in sets.items()}
    texts = {name: {asked(s).casefold() for s in rows} for name, rows in sets.items()}
    for found in (used, texts):
        assert sum(map(len, found.values())) == len(set[Any]().union(*found.values()))
    assert all(len(s.phrases) >= 3 for s in of_task(sets, "triage"))


def test_sets_share_no_customer_document_host_code_or_person(sets: dict[str, list[Sample]]) -> None:
    def seen(rows: list[Sample]) -> dict[str, set[str]]:
        text = "\n".join(asked(s) for s in rows)
        codes = {s.expected["arguments"]["error_code"] for s in rows if s.record["task"] == "triage"} - {"none"}
        hosts = set(re.findall(r"\b(?:node|rig|vm|worker|blade|compute|srv|unit|metal|cell)-?\d+\b", text))
        return {
            "customer": {s.record["customer"] for s in rows},
            "document": {s.record["document"] for s in rows},
            "id": {s.record["id"] for s in rows},
            "code": codes,
            "host": hosts,
        }

    found = {name: seen(rows) for name, rows in sets.items()}
    for kind in found["train"]:
        parts = [found[name][kind] for name in sets]
        assert all(parts)
        assert sum(map(len, parts)) == len(set[str]().union(*parts)), kind
    people = banks.entities().lists["last"]
    assert sum(map(len, people.values())) == len({name for names in people.values() for name in names})


def test_held_out_sets_are_later_than_training_and_the_same_at_every_seed(sets: dict[str, list[Sample]]) -> None:
    newest = max(s.record["created"] for s in sets["train"])
    assert all(s.record["created"] > newest for name in HELD_OUT for s in sets[name])
    assert {name: rows for name, rows in sets.items() if name != "train"} == records.held_out()


def phrases_of(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    for item in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        yield from phrases_of(item)


def test_no_phrase_of_the_shifted_set_is_one_of_training() -> None:
    """Values' forms and offers are no wording of a question; everything else that a customer says is."""
    shifted = banks.raw("shifted")
    for part in ("grounded", "refusal"):
        for group in (*shifted[part].get("themes", {}).values(), *shifted[part].get("categories", {}).values()):
            group["attributes"] = list(group.get("attributes", ()))
            group.pop("offer", None)
            group["benign"] = list(group.get("benign", ()))
    seen = {p.casefold() for name in ("triage", "grounded", "refusal") for p in phrases_of(banks.raw(name))}
    own = [p for p in phrases_of(shifted) if p != "{greeting} {symptom} {card} {code} {cue} {wish} {closing}"]
    assert len(own) > 300
    assert not [p for p in own if p.casefold() in seen]


def test_seeds_decide_training() -> None:
    few = {"triage": 5, "grounded": 5, "disallowed": 5, "benign": 5}
    assert list(records.samples("train", few, 1)) == list(records.samples("train", few, 1))
    assert list(records.samples("train", few, 1)) != list(records.samples("train", few, 2))


def test_shares_are_a_dial() -> None:
    counts = records.train_counts(1070, LabShares(triage=3, grounded=1, disallowed=0, benign=0, chat=0))
    assert counts == {"triage": 750, "grounded": 250, "disallowed": 0, "benign": 0, "chat": 0}
    with pytest.raises(ConfigError, match=r"data\.shares"):
        records.train_counts(100, LabShares(triage=0, grounded=0, disallowed=0, benign=0, chat=0))


def test_everyday_questions_come_once_without_a_system_message() -> None:
    counts = records.train_counts(10_000, LabShares())
    assert counts["chat"] == len(banks.chat())
    made = list(records.samples("train", {"chat": counts["chat"]}))
    asked = [[message["role"] for message in sample.record["messages"]] for sample in made]
    assert asked == [["user", "assistant"]] * counts["chat"]
    assert {sample.record["messages"][0]["content"] for sample in made} == set(banks.chat())
