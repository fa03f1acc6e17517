"""The lab's raw records: dirty sources to train on, and three clean sets of questions.

`acceptance` is the same world: the phrases of training in combinations that training lacks, about other people,
hosts, codes and customers, later in time. `shifted` is worded as training never is. `probe` is drawn like
acceptance, for looks at a model while it learns. No set shares a customer, document, host or code with another.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from throughline.contracts.data import LabShares
from throughline.contracts.errors import ConfigError, InternalError
from throughline.lab import banks, dirt, grounded, refusal, triage
from throughline.lab.banks import SetName
from throughline.lab.phrases import PhraseSampler
from throughline.lab.task_schema import SYSTEM_PROMPTS, open_ticket, tool_call

Record = dict[str, Any]

HELD_OUT: Mapping[SetName, Mapping[str, int]] = {
    "acceptance": {"triage": 400, "grounded": 150, "disallowed": 150, "benign": 150},
    "shifted": {"triage": 200, "grounded": 50, "disallowed": 50, "benign": 50},
    "probe": {"triage": 120, "grounded": 40, "disallowed": 40, "benign": 40},
}
# An exam that changed with the seed could not compare two seeds.
HELD_OUT_SEED = 1


@dataclass(frozen=True)
class Source:
    """A raw file: its licence, and its weight per task."""

    name: str
    licence: str
    weights: Mapping[str, float]


SOURCES: tuple[Source, ...] = (
    Source("helpdesk-2025", "Apache-2.0", {"triage": 0.45}),
    Source("community-forum", "CC-BY-4.0", {"triage": 0.25, "refusal": 0.5, "chat": 1.0}),
    Source("vendor-kb", "CC-BY-SA-4.0", {"grounded": 1.0}),
    Source("chat-archive", "proprietary-internal", {"triage": 0.3, "refusal": 0.5}),
)
_FORMATS = {"triage": "tool_call", "grounded": "sft", "refusal": "chat", "chat": "chat"}
_EPOCHS: Mapping[SetName, datetime] = {
    "train": datetime(2025, 1, 1, 6, tzinfo=UTC),
    "probe": datetime(2026, 1, 2, 6, tzinfo=UTC),
    "acceptance": datetime(2026, 3, 2, 6, tzinfo=UTC),
    "shifted": datetime(2026, 5, 4, 6, tzinfo=UTC),
}
# Few enough that customers come back, some of them often.
_CUSTOMERS: Mapping[SetName, int] = {"train": 300, "probe": 20, "acceptance": 80, "shifted": 40}
_SHARES = LabShares()
_SMALL_TALK_SHARE = 0.1
_MAX_DRAWS = 200


@dataclass(frozen=True)
class Sample:
    """A record as the generator made it.

    Attributes:
        expected: What a scorer needs.
        phrases: What may stand in one set only: the phrases that decide the answer, or the whole text.
        group: What it is a variant of: the ticket's symptom, the document, or what is asked for.
    """

    record: Record
    expected: dict[str, Any]
    phrases: tuple[str, ...]
    group: str


class _Maker:
    """Makes the samples of one set, none of them with the phrases of one in `taken`."""

    def __init__(self, split: SetName, seed: int, taken: frozenset[tuple[str, ...]]) -> None:
        self.split = split
        self.rng = Random(f"{seed}/{split}")
        self.sampler = PhraseSampler(self.rng, split)
        self.taken = taken
        self.clock = _EPOCHS[split]
        self.serial = 0
        self.customers = ["cust-" + self.sampler.fresh("customer").lower() for _ in range(_CUSTOMERS[split])]
        self.document: tuple[str, str, list[grounded.Fact]] | None = None
        self.questions_left = 0
        # Drawn without putting back: a repeated question would only be dropped as a duplicate.
        self.small_talk = self.rng.sample(list(banks.chat()), len(banks.chat())) if split == "train" else []

    def sample(self, kind: str) -> Sample:
        """Returns a sample of a kind: a task, or `disallowed` and `benign` for the two sides of refusal."""
        makers = {"triage": self._triage, "grounded": self._grounded, "chat": self._chat}
        for _ in range(_MAX_DRAWS):
            self.sampler.begin()
            made = makers[kind]() if kind in makers else self._refusal(kind == "disallowed")
            if made.phrases not in self.taken:
                return made
        raise InternalError(f"the banks hold too few phrases for {kind}", where=self.split, seen=f"{_MAX_DRAWS} draws")

    def _record(self, task: str, user: str, answer: Record, *, customer: str = "", document: str = "") -> Record:
        self.serial += 1
        self.clock += timedelta(seconds=self.rng.randint(60, 5400))
        choices = [source for source in SOURCES if task in source.weights]
        source = self.rng.choices(choices, [source.weights[task] for source in choices])[0]
        talk = banks.refusal(self.split).small_talk
        history: list[Record] = []
        if self.split == "train" and task == "refusal" and self.rng.random() < _SMALL_TALK_SHARE:
            said = self.rng.choice(list(talk))
            history = [{"role": "user", "content": said}, {"role": "assistant", "content": talk[said]}]
        record = {
            "id": f"{self.split[:2]}-{self.serial:06d}",
            "task": task,
            "format": _FORMATS[task],
            "source": source.name,
            "licence": source.licence,
            "customer": customer or self._customer(),
            "document": document or self._document_id("th"),
            "created": self.clock.isoformat().replace("+00:00", "Z"),
            "messages": [
                *([{"role": "system", "content": SYSTEM_PROMPTS[task]}] if task in SYSTEM_PROMPTS else []),
                *history,
                {"role": "user", "content": user},
                {"role": "assistant", **answer},
            ],
        }
        return record | ({"tools": [open_ticket()]} if task == "triage" else {})

    def _customer(self) -> str:
        return self.customers[int(self.rng.random() ** 1.6 * len(self.customers))]

    def _document_id(self, prefix: str) -> str:
        return f"{prefix}-{self.split[:1]}{zlib.crc32(f'{self.split}/{self.serial}'.encode()):08x}"

    def _triage(self) -> Sample:
        ticket = triage.write_ticket(self.sampler)
        record = self._record("triage", ticket.text, {"content": "", "tool_calls": [tool_call(ticket.labels)]})
        return Sample(record, {"tool": "open_ticket", "arguments": ticket.labels}, ticket.phrases, ticket.phrases[0])

    def _grounded(self) -> Sample:
        if not self.questions_left or self.document is None:
            facts = grounded.write_document(self.sampler)
            self.document = (self._document_id("kb"), self._customer(), facts)
            self.questions_left = self.rng.randint(1, 4)
        self.questions_left -= 1
        name, customer, facts = self.document
        asked = grounded.ask(self.sampler, facts)
        expected = {
            "answer": asked.answer,
            "answerable": asked.citation is not None,
            "citation": asked.citation,
            "value": asked.value,
            "passages": asked.passages,
        }
        record = self._record("grounded", asked.text, {"content": asked.answer}, customer=customer, document=name)
        return Sample(record, expected, (asked.text,), name)

    def _chat(self) -> Sample:
        asked = self.small_talk.pop()
        answer = banks.chat()[asked]
        return Sample(self._record("chat", asked, {"content": answer}), {"answer": answer}, (asked,), asked)

    def _refusal(self, disallowed: bool) -> Sample:
        made = refusal.write_request(self.sampler, disallowed)
        record = self._record("refusal", made.text, {"content": made.answer})
        expected = {"answer": made.answer, "refuse": disallowed, "category": made.category}
        return Sample(record, expected, made.phrases, made.phrases[0])


def samples(
    split: SetName, counts: Mapping[str, int], seed: int = 0, taken: frozenset[tuple[str, ...]] = frozenset()
) -> Iterator[Sample]:
    """Yields clean samples of a set in random order; the same seed gives the same samples.

    Args:
        split: The set.
        counts: How many of each kind: triage, grounded, disallowed, benign, chat (in training, at most its bank).
        seed: Seed of the draws.
        taken: `Sample.phrases` that other sets have.
    """
    maker = _Maker(split, seed, taken)
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    maker.rng.shuffle(kinds)
    for kind in kinds:
        yield maker.sample(kind)


def held_out(counts: Mapping[SetName, Mapping[str, int]] = HELD_OUT) -> dict[SetName, list[Sample]]:
    """Returns the sets of questions, the same at every seed."""
    found: dict[SetName, list[Sample]] = {}
    for split, wanted in counts.items():
        taken = frozenset(sample.phrases for rows in found.values() for sample in rows)
        found[split] = list(samples(split, wanted, HELD_OUT_SEED, taken))
    return found


def as_question(sample: Sample) -> Record:
    """Returns the record without its last answer, with `expected` instead: what an evaluation asks."""
    return {
        **sample.record,
        "messages": sample.record["messages"][:-1],
        "expected": sample.expected,
        "group": sample.group,
    }


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote: sources, question sets by name, the oracle of planted dirt, lines per file."""

    sources: tuple[Path, ...]
    questions: dict[str, Path]
    planted: Path
    counts: dict[str, int] = field(default_factory=dict)


def train_counts(total: int, shares: LabShares) -> dict[str, int]:
    """Returns how many clean samples of each kind make about `total` training lines once duplicates are added.

    Raises:
        ConfigError: If all shares are 0.
    """
    clean = total / (1 + dirt.DUPLICATE_SHARE + dirt.NEAR_DUPLICATE_SHARE)
    weights = shares.model_dump()
    whole = sum(weights.values())
    if not whole:
        raise ConfigError("nothing to train on", where="data.shares", seen="all are 0", fix="raise at least one")
    counts = {kind: round(clean * weight / whole) for kind, weight in weights.items()}
    return counts | {"chat": min(counts["chat"], len(banks.chat()))}


def generate(
    out_dir: Path,
    seed: int = 0,
    train_records: int = 2500,
    shares: LabShares = _SHARES,
    counts: Mapping[SetName, Mapping[str, int]] = HELD_OUT,
) -> Generated:
    """Writes the sources, one file a question set and `planted.json` into `out_dir`.

    Sources are JSON lines with everything wrong that `dirt` plants; the question sets are clean and have
    `expected` in place of the last answer.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    exams = held_out(counts)
    taken = frozenset(sample.phrases for rows in exams.values() for sample in rows)
    clean = [sample.record for sample in samples("train", train_counts(train_records, shares), seed, taken)]
    corrupted = dirt.corrupt(clean, Random(f"{seed}/dirt"))
    rows = {source.name: [line.raw for line in corrupted.lines if line.source == source.name] for source in SOURCES}
    rows |= {name: [dirt.to_line(as_question(sample)) for sample in found] for name, found in exams.items()}
    paths = {name: out_dir / f"{name}.jsonl" for name in rows}
    for name, lines in rows.items():
        paths[name].write_bytes(b"".join(line + b"\n" for line in lines))
    planted = out_dir / "planted.json"
    planted.write_text(json.dumps(corrupted.planted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Generated(
        sources=tuple(paths[source.name] for source in SOURCES),
        questions={name: paths[name] for name in exams},
        planted=planted,
        counts={name: len(lines) for name, lines in rows.items()},
    )
