"""Raw records: reproducible, true to their labels, disjoint between the splits, and varied."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from throughline.lab.entities import REAL_GPUS
from throughline.lab.grammar import SPLITS, RecordSplit
from throughline.lab.record_statistics import near_duplicates, statistics
from throughline.lab.records import Generated, Sample, generate, samples, train_counts
from throughline.lab.task_schema import NOT_FOUND, OPEN_TICKET_SCHEMA, REFUSAL_PREFIX
from throughline.lab.triage_components import COMPONENTS

HELD_OUT = {"triage": 300, "grounded": 100, "disallowed": 120, "benign": 120, "summary": 60}


def question(sample: Sample) -> str:
    text: str = sample.record["messages"][-2]["content"]
    assert sample.record["messages"][-2]["role"] == "user"
    return text


def answer(sample: Sample) -> dict[str, Any]:
    message: dict[str, Any] = sample.record["messages"][-1]
    assert message["role"] == "assistant"
    return message


@pytest.fixture(scope="module")
def by_split() -> dict[RecordSplit, list[Sample]]:
    return {
        "train": list(samples("train", train_counts(9000))),
        "probe": list(samples("probe", HELD_OUT)),
        "acceptance": list(samples("acceptance", HELD_OUT)),
    }


@pytest.fixture(scope="module")
def everything(by_split: dict[RecordSplit, list[Sample]]) -> list[Sample]:
    return [sample for split in SPLITS for sample in by_split[split]]


def of_task(all_samples: list[Sample], task: str) -> list[Sample]:
    found = [s for s in all_samples if s.record["task"] == task]
    assert len(found) > 100
    return found


def digests(made: Generated) -> dict[str, str]:
    paths = [*made.sources, made.acceptance, made.probe, made.planted]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    counts = {"triage": 5, "grounded": 5, "disallowed": 5, "benign": 5, "summary": 5}
    runs = [
        digests(generate(tmp_path / str(i), seed, train_records=300, acceptance=counts, probe=counts))
        for i, seed in enumerate((3, 3, 4))
    ]
    assert runs[0] == runs[1]
    assert all(runs[0][name] != runs[2][name] for name in runs[0])


def test_counts_and_shares(tmp_path: Path) -> None:
    made = generate(tmp_path, train_records=2000, acceptance=HELD_OUT, probe={"triage": 7})
    lines = sum(len(path.read_bytes().splitlines()) for path in made.sources)
    assert lines == sum(made.counts[path.stem] for path in made.sources)
    assert abs(lines - 2000) <= 5
    assert len(made.acceptance.read_text().splitlines()) == made.counts["acceptance"] == 700
    assert len(made.probe.read_text().splitlines()) == 7


def test_triage_labels_follow_the_schema_and_are_in_the_text(everything: list[Sample]) -> None:
    for sample in of_task(everything, "triage"):
        (call,) = answer(sample)["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert call["function"]["name"] == "open_ticket"
        assert arguments == sample.expected["arguments"]
        assert list(arguments) == list(OPEN_TICKET_SCHEMA["properties"])
        jsonschema.validate(arguments, OPEN_TICKET_SCHEMA)
        text = question(sample)
        for name in ("error_code", "gpu_model"):
            value = arguments[name]
            if value != "none":
                assert len(re.findall(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", text)) == 1, text


def test_absent_card_means_that_no_known_card_is_named(everything: list[Sample]) -> None:
    known = re.compile(r"(?<![A-Za-z0-9])(" + "|".join(map(re.escape, REAL_GPUS)) + r")(?![A-Za-z0-9-])")
    absent = 0
    for sample in of_task(everything, "triage"):
        arguments = sample.expected["arguments"]
        named = {m for m in known.findall(question(sample)) if m not in arguments["error_code"]}
        if arguments["gpu_model"] == "none":
            absent += 1
            assert not named, question(sample)
        else:
            assert all(n in arguments["gpu_model"] for n in named), question(sample)
    assert 0.08 < absent / len(of_task(everything, "triage")) < 0.17


def test_every_enum_value_is_common(by_split: dict[RecordSplit, list[Sample]]) -> None:
    for split in ("train", "acceptance"):
        rows = [s.expected["arguments"] for s in of_task(by_split[split], "triage")]
        for name in ("component", "severity", "requested_action"):
            seen = Counter(row[name] for row in rows)
            assert set(seen) == set(OPEN_TICKET_SCHEMA["properties"][name]["enum"])
            assert min(seen.values()) > 0.02 * len(rows)


# Words that a person would go by; they are chosen here, not taken from the generator.
_KEYWORDS = {
    "driver": "driver|kernel module|kernel update|nvidia|cuda|treiber|pilote|controlador",
    "memory": "memory|vram|hbm|frame buffer|gpu ram|ecc|speicher|mémoire|memoria",
    "network": "network|infiniband|nccl|switch|ethernet|rdma|interconnect|vpn|dns|link|packet|ping|ranks"
    "|bandwidth|fabric|netzwerk|réseau|red",
    "storage": "file|disk|nfs|object store|volume|nvme|bucket|lustre|storage|directory|checkpoint"
    "|dateisystem|platte|fichiers|disque|disco|volumen|archivos",
    "scheduler": "schedul|slurm|queue|job|partition|pod|reservation|sbatch|fair-share|file|cola|warteschlange",
    "billing": "invoice|bill|charge|payment|credit|statement|cost|vat|subscription|fee|price|debited|rechnung|factur",
    "access": "login|log in|account|sign|ssh|password|second factor|token|role|permission|invitation"
    "|anmeldung|konto|zugang|compte|accès|cuenta|acceso|sesión",
    "thermal": "temperature|fan|cool|heat|hot|thermal|airflow|degrees|lüfter|kühlung|temperatur|ventil"
    "|refroid|température|refriger|sensor",
}


def test_a_person_s_keywords_name_the_component(everything: list[Sample]) -> None:
    """A typo may hide the only keyword, so nearly all instead of all."""
    rows = of_task(everything, "triage")
    hits = Counter[str]()
    for sample in rows:
        component = sample.expected["arguments"]["component"]
        hits[component] += bool(re.search(_KEYWORDS[component], question(sample).casefold()))
    assert set(hits) == set(COMPONENTS)
    assert sum(hits.values()) / len(rows) > 0.97


def test_grounded_answers_cite_the_passage_that_holds_the_value(everything: list[Sample]) -> None:
    rows = of_task(everything, "grounded")
    for sample in rows:
        *passages, asked = question(sample).split("\n")
        assert 2 <= len(passages) <= 4 and len(passages) == sample.expected["passages"]
        text = answer(sample)["content"]
        if not sample.expected["answerable"]:
            assert text == NOT_FOUND
            continue
        value, n = sample.expected["value"], sample.expected["citation"]
        assert text.endswith(f" is {value} [{n}].")
        assert passages[n - 1].startswith(f"[{n}] ") and value in passages[n - 1]
        stem = text.removeprefix("The ").split(" is ")[0]
        attribute, subject = stem.split(" of ", 1)
        assert attribute in asked and subject.casefold() in asked.casefold()
        both = [p for p in passages if attribute in p.casefold() and subject.casefold() in p.casefold()]
        assert passages[n - 1] in both
    share = sum(not s.expected["answerable"] for s in rows) / len(rows)
    assert 0.2 < share < 0.3


def test_unanswerable_means_that_no_passage_has_attribute_and_subject(everything: list[Sample]) -> None:
    answered: dict[str, set[str]] = {}
    for sample in of_task(everything, "grounded"):
        if sample.expected["answerable"]:
            stem = answer(sample)["content"].removeprefix("The ").split(f" is {sample.expected['value']} [")[0]
            answered.setdefault(sample.record["document"], set()).add(stem)
    checked = 0
    for sample in of_task(everything, "grounded"):
        if sample.expected["answerable"]:
            continue
        *passages, asked = question(sample).casefold().split("\n")
        for stem in answered.get(sample.record["document"], ()):
            attribute, subject = stem.casefold().split(" of ", 1)
            if attribute in asked and re.search(rf"{re.escape(subject)}(?!\w| (of|in|on) )", asked):
                checked += 1
                plain = [p for p in passages if attribute in p and subject in p]
                assert not plain, question(sample)
    assert checked > 10


def test_refusals_are_told_apart_by_their_answer_only(everything: list[Sample]) -> None:
    for sample in of_task(everything, "refusal"):
        assert answer(sample)["content"].startswith(REFUSAL_PREFIX) is sample.expected["refuse"]


def test_both_sides_of_refusal_use_the_same_frames(by_split: dict[RecordSplit, list[Sample]]) -> None:
    for split in SPLITS:
        rows = [s for s in by_split[split] if s.record["task"] == "refusal"]
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for sample in rows:
            sides[sample.expected["refuse"]].update(line for line in sample.lines if "{ACT}" in line)
        assert sides[True] == sides[False] and sides[True]


def test_summaries_hold_their_facts_and_the_text_does_too(everything: list[Sample]) -> None:
    for sample in of_task(everything, "summary"):
        for name, value in sample.expected["facts"].items():
            assert value in answer(sample)["content"]
            if name != "component":
                assert value in question(sample)


def test_system_prompt_first_and_roles_alternate(everything: list[Sample]) -> None:
    turns = Counter[int]()
    for sample in everything:
        roles = [m["role"] for m in sample.record["messages"]]
        assert roles[0] == "system"
        assert roles[1:] == ["user", "assistant"] * ((len(roles) - 1) // 2)
        turns[len(roles)] += 1
    assert set(turns) == {3, 5}


def test_phrases_are_disjoint_between_splits(by_split: dict[RecordSplit, list[Sample]]) -> None:
    used = {split: {line for s in rows for line in s.lines} for split, rows in by_split.items()}
    assert all(len(lines) > 100 for lines in used.values())
    assert not used["train"] & used["acceptance"]
    assert not used["train"] & used["probe"]
    assert not used["probe"] & used["acceptance"]


def test_values_customers_and_documents_are_disjoint(by_split: dict[RecordSplit, list[Sample]]) -> None:
    def seen(rows: list[Sample]) -> dict[str, set[str]]:
        facts = [s.expected.get("arguments") or s.expected.get("facts") or {} for s in rows]
        return {
            "customer": {s.record["customer"] for s in rows},
            "document": {s.record["document"] for s in rows},
            "error_code": {f["error_code"] for f in facts if f.get("error_code", "none") != "none"},
            "host": {f["host"] for f in facts if "host" in f},
            "id": {s.record["id"] for s in rows},
        }

    found = {split: seen(rows) for split, rows in by_split.items()}
    for name in found["train"]:
        sets = [found[split][name] for split in SPLITS]
        assert all(sets)
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2]), name


def test_held_out_codes_hosts_and_customers_stand_nowhere_in_training(
    by_split: dict[RecordSplit, list[Sample]],
) -> None:
    """Brute force over the generated text, token by token."""
    words: set[str] = set()
    for sample in by_split["train"]:
        words.update(re.findall(r"[^\s\"'`,;()<>\[\]{}|=]+", question(sample)))
    words |= {w.strip(".:?!") for w in words}
    lower = {w.casefold() for w in words}
    for sample in (*by_split["acceptance"], *by_split["probe"]):
        facts = sample.expected.get("arguments") or sample.expected.get("facts") or {}
        for name in ("error_code", "host"):
            value = facts.get(name, "none")
            assert value == "none" or value not in words
        assert sample.record["customer"].removeprefix("cust-") not in lower


def masked_sentences(rows: list[Sample], vocabulary: set[str]) -> Counter[str]:
    """Sentences with at least five words of the vocabulary; everything else in them is masked."""
    found = Counter[str]()
    for sample in rows:
        for part in re.split(r"(?<=[.?!])\s+|\n+", question(sample)):
            words = [w if w in vocabulary else "#" for w in re.findall(r"[^\W\d_]+|\d+", part.casefold())]
            if sum(w != "#" for w in words) >= 5:
                found[re.sub(r"#( #)*", "#", " ".join(words))] += 1
    return found


def test_held_out_sentences_are_not_training_sentences(by_split: dict[RecordSplit, list[Sample]]) -> None:
    """Two different templates can still expand to the same words once in a while."""
    document_frequency = Counter(
        word for s in by_split["train"] for word in set(re.findall(r"[^\W\d_]+", question(s).casefold()))
    )
    vocabulary = {word for word, n in document_frequency.items() if n >= 25}
    known = masked_sentences(by_split["train"], vocabulary)
    for split in ("probe", "acceptance"):
        held_out = masked_sentences(by_split[split], vocabulary)
        assert sum(held_out.values()) > 1000
        assert sum(n for text, n in held_out.items() if text in known) / sum(held_out.values()) < 0.01


def test_training_records_are_varied(by_split: dict[RecordSplit, list[Sample]]) -> None:
    found = statistics(s.record for s in by_split["train"])
    assert found.records == len(by_split["train"])
    assert found.largest_template_share < 0.001
    assert found.largest_sentence_share < 0.03
    assert found.near_duplicate_rate < 0.005
    assert found.distinct[1] < found.distinct[2] < found.distinct[3]
    assert found.distinct[3] > 0.2


def test_tickets_are_short(everything: list[Sample]) -> None:
    words = sorted(len(question(s).split()) for s in of_task(everything, "triage"))
    assert words[len(words) // 2] < 50 and words[-1] < 120


def test_near_duplicates_against_brute_force() -> None:
    texts = [
        "the quick brown fox jumps over the lazy dog near the old river bank today",
        "an entirely different sentence that shares nothing with the first one at all",
        "the quick brown fox jumps over the lazy dog near the old river bank today",
        "The quick brown  fox jumps over the lazy dog near the old river bank today",
        "the quick brown fox",
    ]
    assert near_duplicates(texts) == [False, False, True, True, False]


def test_statistics_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError):
        statistics([{"id": "x"}])
