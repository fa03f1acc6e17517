"""Dirty sources: everything the oracle lists is in the files, and nothing else is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import jsonschema
import pytest

from throughline.lab.dirt import DAMAGE_SHARES, DUPLICATE_SHARE, NEAR_DUPLICATE_SHARE, luhn_digits
from throughline.lab.records import Generated, generate
from throughline.lab.task_schema import open_ticket

FIELDS = {"id", "task", "format", "source", "licence", "customer", "document", "created", "messages"}
SCHEMA = jsonschema.Draft202012Validator(open_ticket()["function"]["parameters"])
FEW = {"triage": 3, "grounded": 3, "disallowed": 3, "benign": 3}


@dataclass(frozen=True)
class Made:
    generated: Generated
    planted: dict[str, Any]
    lines: list[bytes]
    records: dict[str, dict[str, Any]]
    unreadable: list[bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    generated = generate(tmp_path_factory.mktemp("raw"), train_records=3000, counts={"acceptance": FEW, "shifted": FEW})
    lines = [line for path in generated.sources for line in path.read_bytes().split(b"\n") if line]
    records: dict[str, dict[str, Any]] = {}
    unreadable: list[bytes] = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # both broken JSON and broken UTF-8
            unreadable.append(line)
            continue
        assert record["id"] not in records
        records[record["id"]] = record
    return Made(generated, json.loads(generated.planted.read_text()), lines, records, unreadable)


def damaged(made: Made) -> set[str]:
    return {record_id for ids in made.planted["damage"].values() for record_id in ids}


def user_text(record: dict[str, Any]) -> str:
    text: str = [m for m in record["messages"] if m["role"] == "user"][-1]["content"]
    return text


def test_damage_counts_match_the_shares(made: Made) -> None:
    clean = len(made.lines) / (1 + DUPLICATE_SHARE + NEAR_DUPLICATE_SHARE)
    for kind, share in DAMAGE_SHARES.items():
        assert len(made.planted["damage"][kind]) == pytest.approx(share * clean, abs=1)
    assert len(made.planted["duplicates"]) == pytest.approx(DUPLICATE_SHARE * clean, abs=1)
    assert len(made.planted["near_duplicates"]) == pytest.approx(NEAR_DUPLICATE_SHARE * clean, abs=1)


def test_exactly_the_planted_lines_cannot_be_read(made: Made) -> None:
    broken = made.planted["damage"]["truncated_json"] + made.planted["damage"]["invalid_utf8"]
    found = {re.match(rb'\{"id": "([^"]+)"', line).group(1).decode() for line in made.unreadable}  # type: ignore[union-attr]
    assert found == set(broken)


def test_each_damage_is_where_the_oracle_says(made: Made) -> None:
    damage = made.planted["damage"]
    for record_id in damage["nul"]:
        assert "\x00" in user_text(made.records[record_id])
    for record_id in damage["zero_width"]:
        assert re.search("[\u200b\u200c\ufeff]", user_text(made.records[record_id]))
    for record_id in damage["mojibake"]:
        text = user_text(made.records[record_id])
        assert text.encode("latin-1").decode("utf-8") != text
    for record_id in damage["empty_output"]:
        last = made.records[record_id]["messages"][-1]
        assert not last["content"].strip() and "tool_calls" not in last
    for record_id in damage["echoed_output"]:
        record = made.records[record_id]
        assert record["messages"][-1]["content"] == user_text(record)
    for record_id in damage["role_order"]:
        assert [m["role"] for m in made.records[record_id]["messages"]][-2:] != ["user", "assistant"]
    for record_id in damage["missing_field"]:
        assert FIELDS - made.records[record_id].keys()


def test_everything_else_is_sound(made: Made) -> None:
    wrong = damaged(made)
    sound = [r for record_id, r in made.records.items() if record_id not in wrong]
    assert len(sound) > 0.95 * len(made.lines)
    for record in sound:
        assert record.keys() >= FIELDS
        assert not re.search("[\x00\u200b\u200c\ufeff]|Ã", user_text(record))
        last = record["messages"][-1]
        assert last["role"] == "assistant"
        if record["task"] == "triage":
            assert record["format"] == "tool_call" and record["tools"]
            SCHEMA.validate(json.loads(last["tool_calls"][0]["function"]["arguments"]))
        else:
            assert last["content"].strip()


def test_duplicates_are_equal_and_near_duplicates_are_not_quite(made: Made) -> None:
    for twin, original in made.planted["duplicates"]:
        assert {**made.records[twin], "id": original} == made.records[original]
    for twin, original in made.planted["near_duplicates"]:
        a, b = user_text(made.records[twin]), user_text(made.records[original])
        assert a != b
        words = [set(re.findall(r"\w+", text.casefold())) for text in (a, b)]
        assert len(words[0] & words[1]) / len(words[0] | words[1]) > 0.75
        assert made.records[twin]["messages"][-1] == made.records[original]["messages"][-1]


def test_personal_values_are_listed_completely(made: Made) -> None:
    """The oracle against independent patterns: each listed value is there, each match is listed."""
    listed: dict[str, set[str]] = {}
    kinds = Counter[str]()
    for entry in made.planted["personal"]:
        listed.setdefault(entry["id"], set()).add(entry["value"])
        kinds[entry["kind"]] += 1
    assert set(kinds) == {"email", "phone", "ip", "credit_card", "api_key"}
    patterns = (
        r"[\w.+-]+@[\w-]+\.[\w.]*\w",
        r"(?<![\d.])(?:10|192|172|203|198)(?:\.\d{1,3}){3}(?![\d.]*\d)",
        r"\+\d{1,2} [\d ]{8,}\d",
        r"(?:sk-|hf_|ghp_|nvapi-)\w{32}",
        r"(?<!\d)[45]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}(?!\d)",
    )
    wrong = damaged(made)
    for record_id, record in made.records.items():
        if record_id in wrong:
            continue
        text = user_text(record)
        for value in listed.get(record_id, ()):
            assert (
                value in text
                or value.casefold() in text.casefold()
                or " ".join(value.split()) in " ".join(text.split())
            )
        for pattern in patterns:
            for match in re.finditer(pattern, text):
                assert any(match.group(0) in v or v in match.group(0) for v in listed.get(record_id, ())), (
                    pattern,
                    match.group(0),
                    text,
                )


def test_credit_cards_pass_luhn() -> None:
    for seed in range(50):
        digits = [int(c) for c in luhn_digits(Random(seed)) if c.isdigit()]
        doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
        assert len(digits) == 16 and sum(doubled) % 10 == 0


def test_sources_carry_their_licence_and_all_are_used(made: Made) -> None:
    licences = {(r["source"], r["licence"]) for r in made.records.values() if "licence" in r}
    assert len(licences) == len(made.generated.sources) == 4
    formats = {r["format"] for r in made.records.values()}
    assert formats == {"sft", "chat", "tool_call"}


def test_records_share_customers_and_documents(made: Made) -> None:
    customers = Counter(r["customer"] for r in made.records.values())
    documents = Counter(r["document"] for r in made.records.values())
    assert customers.most_common(1)[0][1] > 3
    assert documents.most_common(1)[0][1] > 1


def test_held_out_files_are_clean_and_keep_no_answer(made: Made) -> None:
    for path in made.generated.questions.values():
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            assert record["messages"][-1]["role"] == "user" and record["expected"]
