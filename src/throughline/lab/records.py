"""The lab's raw records: seeded sources of training records, a held-out acceptance set and a probe set.

Training, probe and acceptance use disjoint phrases, codes, hosts, people, customers and documents.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from throughline.lab import dirt, grounded, refusal, summary, triage
from throughline.lab.entities import company_stem, slug
from throughline.lab.grammar import RecordSplit, Scribe
from throughline.lab.task_schema import OPEN_TICKET, SYSTEM_PROMPTS, tool_call

Record = dict[str, Any]

TRAIN_SHARES: Mapping[str, float] = {
    "triage": 0.55,
    "grounded": 0.17,
    "disallowed": 0.09,
    "benign": 0.09,
    "summary": 0.10,
}
ACCEPTANCE_COUNTS: Mapping[str, int] = {
    "triage": 300,
    "grounded": 100,
    "disallowed": 120,
    "benign": 120,
    "summary": 60,
}
PROBE_COUNTS: Mapping[str, int] = {
    "triage": 150,
    "grounded": 60,
    "disallowed": 60,
    "benign": 60,
    "summary": 30,
}


@dataclass(frozen=True)
class Source:
    """A raw file: its licence, how people write there, and its weight per task."""

    name: str
    licence: str
    channel: triage.Channel
    weights: Mapping[str, float]


SOURCES: tuple[Source, ...] = (
    Source("helpdesk-2025", "Apache-2.0", "email", {"triage": 0.45, "summary": 0.5}),
    Source("community-forum", "CC-BY-4.0", "forum", {"triage": 0.25, "refusal": 0.5}),
    Source("vendor-kb", "CC-BY-SA-4.0", "kb", {"grounded": 1.0, "summary": 0.5}),
    Source("chat-archive", "proprietary-internal", "chat", {"triage": 0.3, "refusal": 0.5}),
)
_FORMATS = {"triage": "tool_call", "grounded": "sft", "summary": "sft", "refusal": "chat"}
_SMALL_TALK = (
    ("Hello.", "Hello, how can I help?"),
    ("Hi there", "Hi, what can I do for you?"),
    ("Good morning", "Good morning, how can I help?"),
    ("Are you there?", "Yes, how can I help?"),
    ("I have a question.", "Please ask."),
)
_EPOCHS: Mapping[RecordSplit, datetime] = {
    "train": datetime(2025, 1, 1, 6, tzinfo=UTC),
    "probe": datetime(2026, 1, 2, 6, tzinfo=UTC),
    "acceptance": datetime(2026, 3, 2, 6, tzinfo=UTC),
}
_CUSTOMERS: Mapping[RecordSplit, int] = {"train": 600, "probe": 40, "acceptance": 80}


@dataclass(frozen=True)
class Sample:
    """A record as the generator made it: `expected` holds what a scorer needs, `lines` the phrases used.

    `personal` are the e-mail, phone and IP addresses in its text as (kind, value).
    """

    record: Record
    expected: dict[str, Any]
    lines: tuple[str, ...]
    personal: tuple[tuple[str, str], ...]


class _Maker:
    """Makes the samples of one split; a writer per task, a pool of customers, documents with questions."""

    def __init__(self, split: RecordSplit, seed: int) -> None:
        self.split = split
        self.rng = Random(f"{seed}/{split}")
        self.scribes = {
            "triage": Scribe(self.rng, split, triage.BANKS),
            "grounded": Scribe(self.rng, split, grounded.BANKS),
            "refusal": Scribe(self.rng, split, refusal.BANKS),
            "summary": Scribe(self.rng, split, summary.BANKS),
        }
        entities = self.scribes["triage"].e
        self.companies = [entities.company() for _ in range(_CUSTOMERS[split])]
        self.clock = _EPOCHS[split]
        self.serial = 0
        self.document: tuple[str, str, list[grounded.Fact]] | None = None
        self.questions_left = 0

    def _header(self, task: str, source: Source, company: str, document: str) -> Record:
        self.serial += 1
        self.clock += timedelta(seconds=self.rng.randint(60, 5400))
        return {
            "id": f"{self.split[:2]}-{self.serial:06d}",
            "task": task,
            "format": _FORMATS[task],
            "source": source.name,
            "licence": source.licence,
            "customer": f"cust-{slug(company_stem(company))}",
            "document": document,
            "created": self.clock.isoformat().replace("+00:00", "Z"),
        }

    def _document_id(self, prefix: str) -> str:
        key = f"{self.split}/{self.serial}/{self.rng.random()}"
        return f"{prefix}-{self.split[:1]}{zlib.crc32(key.encode()):08x}"

    def _source(self, task: str) -> Source:
        choices = [s for s in SOURCES if task in s.weights]
        return self.rng.choices(choices, [s.weights[task] for s in choices])[0]

    def sample(self, kind: str) -> Sample:
        """One sample of a kind: a task, or `disallowed` and `benign` for the two sides of refusal."""
        task = "refusal" if kind in ("disallowed", "benign") else kind
        scribe, source = self.scribes[task], self._source(task)
        company = self.companies[int(self.rng.random() ** 1.6 * len(self.companies))]
        if task == "grounded" and self.questions_left:
            company = self.document[1] if self.document else company
        scribe.begin(company=company)
        if task == "triage":
            return self._triage(scribe, source, company)
        if task == "grounded":
            return self._grounded(scribe, source, company)
        if task == "summary":
            return self._summary(scribe, source, company)
        return self._refusal(scribe, source, company, kind == "disallowed")

    def _finish(
        self, s: Scribe, record: Record, user: str, answer: dict[str, Any], expected: dict[str, Any],
        lines: tuple[str, ...], history: tuple[tuple[str, str], ...] = (),
    ) -> Sample:  # fmt: skip
        messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM_PROMPTS[record["task"]]}]
        for said, replied in history:
            messages += [{"role": "user", "content": said}, {"role": "assistant", "content": replied}]
        messages += [{"role": "user", "content": user}, {"role": "assistant", **answer}]
        personal = tuple(dict.fromkeys((k, v) for k, v in s.personal if v in user))
        return Sample({**record, "messages": messages}, expected, lines, personal)

    def _triage(self, s: Scribe, source: Source, company: str) -> Sample:
        ticket = triage.write_ticket(s, source.channel)
        record = self._header("triage", source, company, self._document_id("th"))
        answer = {"content": "", "tool_calls": [tool_call(ticket.labels)]}
        sample = self._finish(
            s, record, ticket.text, answer,
            {"tool": "open_ticket", "arguments": ticket.labels}, ticket.lines,
        )  # fmt: skip
        sample.record["tools"] = [OPEN_TICKET]
        return sample

    def _grounded(self, s: Scribe, source: Source, company: str) -> Sample:
        if not self.questions_left or self.document is None:
            self.document = (self._document_id("kb"), company, grounded.write_document(s))
            self.questions_left = self.rng.randint(1, 4)
        self.questions_left -= 1
        name, company, facts = self.document
        q = grounded.ask(s, facts)
        expected = {
            "answer": q.answer,
            "answerable": q.citation is not None,
            "citation": q.citation,
            "value": q.value,
            "passages": len(q.passages),
        }
        record = self._header("grounded", source, company, name)
        return self._finish(s, record, q.text, {"content": q.answer}, expected, q.lines)

    def _refusal(self, s: Scribe, source: Source, company: str, disallowed: bool) -> Sample:
        r = refusal.write_request(s, disallowed)
        expected = {"answer": r.answer, "refuse": disallowed, "category": r.category}
        history = (self.rng.choice(_SMALL_TALK),) if self.split == "train" and self.rng.random() < 0.1 else ()
        record = self._header("refusal", source, company, self._document_id("th"))
        return self._finish(s, record, r.text, {"content": r.answer}, expected, r.lines, history)

    def _summary(self, s: Scribe, source: Source, company: str) -> Sample:
        d = summary.write_digest(s)
        record = self._header("summary", source, company, self._document_id("th"))
        expected = {"answer": d.answer, "facts": d.facts}
        return self._finish(s, record, d.text, {"content": d.answer}, expected, d.lines)


def samples(split: RecordSplit, counts: Mapping[str, int], seed: int = 0) -> Iterator[Sample]:
    """Clean samples of a split in random order, `counts[kind]` of each kind; the same seed, the same samples.

    Kinds: triage, grounded, disallowed, benign, summary.
    """
    maker = _Maker(split, seed)
    kinds = [kind for kind, n in counts.items() for _ in range(n)]
    maker.rng.shuffle(kinds)
    for kind in kinds:
        yield maker.sample(kind)


def as_question(sample: Sample) -> Record:
    """The record without its last answer, with `expected` instead: what an evaluation asks."""
    return {**sample.record, "messages": sample.record["messages"][:-1], "expected": sample.expected}


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote: sources, the two held-out sets, the oracle of planted dirt, lines per file."""

    sources: tuple[Path, ...]
    acceptance: Path
    probe: Path
    planted: Path
    counts: dict[str, int]


def _dump(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _write_questions(path: Path, split: RecordSplit, counts: Mapping[str, int], seed: int) -> int:
    rows = [_dump(as_question(sample)) for sample in samples(split, counts, seed)]
    path.write_bytes(b"".join(row + b"\n" for row in rows))
    return len(rows)


def train_counts(total: int) -> dict[str, int]:
    """How many clean samples of each kind make `total` training lines once duplicates are added."""
    clean = round(total / (1 + dirt.DUPLICATE_SHARE + dirt.NEAR_DUPLICATE_SHARE))
    counts = {kind: round(clean * share) for kind, share in TRAIN_SHARES.items()}
    counts["triage"] += clean - sum(counts.values())
    return counts


def generate(
    out_dir: Path,
    seed: int = 0,
    train_records: int = 9000,
    acceptance: Mapping[str, int] = ACCEPTANCE_COUNTS,
    probe: Mapping[str, int] = PROBE_COUNTS,
) -> Generated:
    """Writes the sources, `acceptance.jsonl`, `probe.jsonl` and `planted.json` into `out_dir`.

    Sources are JSON lines with everything wrong that `dirt` plants; the two held-out sets are clean and have
    `expected` in place of the last answer. About 9,700 lines take a few seconds.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    clean = list(samples("train", train_counts(train_records), seed))
    soiled = dirt.soil([s.record for s in clean], [s.personal for s in clean], Random(f"{seed}/dirt"))
    paths: list[Path] = []
    counts: dict[str, int] = {}
    for source in SOURCES:
        path = out_dir / f"{source.name}.jsonl"
        rows = [line.raw for line in soiled.lines if line.source == source.name]
        path.write_bytes(b"".join(row + b"\n" for row in rows))
        paths.append(path)
        counts[source.name] = len(rows)
    held_out = {name: out_dir / f"{name}.jsonl" for name in ("acceptance", "probe")}
    counts["acceptance"] = _write_questions(held_out["acceptance"], "acceptance", acceptance, seed)
    counts["probe"] = _write_questions(held_out["probe"], "probe", probe, seed)
    planted = out_dir / "planted.json"
    planted.write_text(json.dumps(soiled.planted, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Generated(tuple(paths), held_out["acceptance"], held_out["probe"], planted, counts)
