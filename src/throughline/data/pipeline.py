"""The data stage from end to end; every record comes out as kept or as a reject with a reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from throughline.contracts.data import DataSpec
from throughline.contracts.errors import DataError, InternalError, ThroughlineError
from throughline.contracts.progress import OnProgress
from throughline.contracts.text import shorten
from throughline.data import card
from throughline.data.dedup import conversation_text, find_duplicates, find_repeats
from throughline.data.ingest import Record, Reject, read_records, reject
from throughline.data.normalise import map_texts, map_value, normalise
from throughline.data.pii import Redactor, check_kinds
from throughline.data.questions import as_question, asked, read_questions
from throughline.data.render import Rendered, Renderer
from throughline.data.report import DataReport
from throughline.data.split import split, times
from throughline.data.validate import validate

# Folder of a dataset for lines as they came.
RESTRICTED = "restricted"
_RESTRICTED_NOTE = """# Not for everybody

These lines are as they came: with personal data and secrets in them, and under their own licences. Who may read the
sources may read them; nothing reads them after the data stage. Leave this folder out when you hand the dataset on.
"""
_LOST = "lost_in_template"
# More of the records than this are no accident of single texts.
_MOST_LOST = 0.01


def prepare(
    files: Sequence[Path],
    tokenizer_dir: Path,
    out: Path,
    spec: DataSpec,
    *,
    questions: Mapping[str, Sequence[Path]],
    seed: int,
    on_progress: OnProgress = lambda phase, fraction: None,
) -> DataReport:
    """Turns raw records into a dataset folder.

    Args:
        files: Raw JSONL files.
        tokenizer_dir: Checkpoint folder whose chat template and tokenizer render the records.
        out: Folder to write `train` and `validation` (`.jsonl` and `.parquet`), `README.md` (the card),
            `report.json`, one JSONL of rendered questions for each of `questions`, and `restricted/rejects.jsonl`,
            which has every line that was left out as it came.
        spec: What to do.
        questions: Held-out question files by name; the train side is checked against them. Without any, an
            acceptance set is held out of the records, by group and the latest first where all say `created`.
        seed: Seed of the split.
        on_progress: Hears phase and fraction.

    Raises:
        DataError: If a file is missing, a held-out question cannot be used, or nothing is left to train on.
        CheckpointError: If the tokenizer cannot be used.
        ConfigError: If the spec names an unknown kind of personal data.
    """
    check_kinds(spec.pii)
    renderer = Renderer(tokenizer_dir)
    report = DataReport()
    rejects: list[Reject] = []
    held_out = {name: read_questions(paths, spec) for name, paths in questions.items()}

    on_progress("ingest", 0.0)
    records = _read(files, spec, rejects, report)
    on_progress("deduplicate", 0.2)
    # Before duplicates: of two records with a question's text the second must not outlive the first.
    records = _drop_held_out(records, held_out, spec, rejects)
    records = _drop_duplicates(records, spec, rejects)
    on_progress("redact", 0.4)
    redact = _Redaction(spec, report)
    for values in (*(record.values for record in records), *(row for rows in held_out.values() for row in rows)):
        redact(values)
    on_progress("render", 0.5)
    kept: list[tuple[Record, Rendered]] = []
    for index, record in enumerate(records):
        if index % 500 == 0:
            on_progress("render", 0.5 + 0.4 * index / len(records))
        outcome = _render(record, renderer, spec)
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            kept.append((record, outcome))
    on_progress("write", 0.9)
    _check_template(len(kept), rejects, tokenizer_dir)
    if kept and not questions:
        kept, held_out["acceptance"] = _split_off(kept, spec, seed, rejects, report)
    if not kept:
        raise DataError(
            "no record is left to train on",
            where=", ".join(str(path) for path in files),
            seen=f"{len(rejects)} rejects: {dict(Counter(item.reason for item in rejects).most_common(5))}",
            fix="read the reasons, correct the records or the data settings",
        )
    out_again = len(kept) + len(rejects) + (0 if questions else len(held_out["acceptance"]))
    if out_again != report.lines:
        raise InternalError("records were lost", seen=f"{report.lines} in, {out_again} out")
    for_validation = split([record.values for record, _ in kept], spec.group_by, spec.validation_share, seed)
    if not any(for_validation):
        raise DataError(
            "no group is small enough for validation",
            where="data.validation_share",
            seen=f"{spec.validation_share} of {len(kept)} records",
            fix="raise it, or group by fewer fields (data.group_by)",
        )
    _write_side(out, "train", [pair for pair, held in zip(kept, for_validation, strict=True) if not held], report)
    _write_side(out, "validation", [pair for pair, held in zip(kept, for_validation, strict=True) if held], report)
    for name, rows in held_out.items():
        report.questions += _write_questions(out / f"{name}.jsonl", rows, renderer, spec.question_group)
    restricted = out / RESTRICTED
    restricted.mkdir(exist_ok=True)
    restricted.chmod(0o700)
    (restricted / "README.md").write_text(_RESTRICTED_NOTE)
    _write_lines(restricted / "rejects.jsonl", (item.as_dict() for item in rejects))
    _count(report, [record for record, _ in kept], rejects)
    (out / "report.json").write_text(json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n")
    (out / "answer_lengths.json").write_text(json.dumps(sorted(report.answer_lengths)) + "\n")
    (out / "README.md").write_text(card.render(report, spec, [path.name for path in files], seed))
    on_progress("done", 1.0)
    return report


def _read(files: Sequence[Path], spec: DataSpec, rejects: list[Reject], report: DataReport) -> list[Record]:
    records = []
    for item in read_records(files):
        report.lines += 1
        if isinstance(item, Record):
            fault = validate(item, spec)
            if fault is None:
                normalise(item)
                # A text of invisible characters alone is empty only now.
                fault = validate(item, spec)
            if fault is None:
                records.append(item)
                continue
            item = fault
        rejects.append(item)
    return records


def _drop_duplicates(records: list[Record], spec: DataSpec, rejects: list[Reject]) -> list[Record]:
    found = {item.index: item for item in find_duplicates(map(conversation_text, records), spec.near_duplicate_jaccard)}
    for item in found.values():
        kind = "exact_duplicate" if item.jaccard == 1.0 else "near_duplicate"
        detail = f"of {records[item.original].id}, Jaccard {item.jaccard:.2f}"
        rejects.append(reject(records[item.index], "deduplicate", kind, detail))
    return [record for index, record in enumerate(records) if index not in found]


def _drop_held_out(
    records: list[Record], held_out: Mapping[str, list[dict[str, Any]]], spec: DataSpec, rejects: list[Reject]
) -> list[Record]:
    """Leaves out what nearly repeats a held-out question or shares its group: scores shall measure more than memory."""
    questions = [row for rows in held_out.values() for row in rows]
    repeats = {
        item.index: item
        for item in find_repeats(
            (asked(record.values["messages"]) for record in records),
            (asked(row["messages"]) for row in questions),
            spec.near_duplicate_jaccard,
        )
    }
    tied = {(name, str(row[name])): row["id"] for row in questions for name in spec.group_by if row.get(name)}
    kept = []
    for index, record in enumerate(records):
        repeat = repeats.get(index)
        ties = [(name, str(record.values.get(name))) for name in spec.group_by if record.values.get(name)]
        tie = next((tie for tie in ties if tie in tied), None)
        if repeat is not None:
            detail = f"held-out question {questions[repeat.original]['id']} asks the same, Jaccard {repeat.jaccard:.2f}"
            rejects.append(reject(record, "deduplicate", "held_out_overlap", detail))
        elif tie is not None:
            detail = f"held-out question {tied[tie]} has the same {tie[0]}: {shorten(tie[1])}"
            rejects.append(reject(record, "deduplicate", "held_out_group", detail))
        else:
            kept.append(record)
    return kept


def _split_off(
    kept: list[tuple[Record, Rendered]], spec: DataSpec, seed: int, rejects: list[Reject], report: DataReport
) -> tuple[list[tuple[Record, Rendered]], list[dict[str, Any]]]:
    """Holds an acceptance set out of the records; returns what is left and the questions."""
    values = [record.values for record, _ in kept]
    latest = times(values)
    held = split(values, spec.group_by, spec.acceptance_share, seed, latest=latest)
    if not any(held):
        raise DataError(
            "no group is small enough for an acceptance set",
            where="data.acceptance_share",
            seen=f"{spec.acceptance_share} of {len(kept)} records",
            fix="give your own (data.acceptance=…), raise the share, or group by fewer fields (data.group_by)",
        )
    rows = [as_question(record.values, record.id) for (record, _), out in zip(kept, held, strict=True) if out]
    order = "the latest ones first" if latest else "in random order, as not all records say when they were created"
    report.split_off = f"{len(rows)} of {len(kept)} records are held out by {' and '.join(spec.group_by)}, {order}"
    left = {id(record): (record, rendered) for (record, rendered), out in zip(kept, held, strict=True) if not out}
    records = [record for record, _ in left.values()]
    return [left[id(record)] for record in _drop_held_out(records, {"": rows}, spec, rejects)], rows


class _Redaction:
    """Redacts records and questions alike, so that a model is asked what it was trained on."""

    def __init__(self, spec: DataSpec, report: DataReport) -> None:
        self._spec = spec
        self._report = report
        # Names that tie records together get one placeholder in all of them, or groups would fall apart.
        self._names = Redactor(spec.pii)

    def __call__(self, values: dict[str, Any]) -> None:
        """Redacts a record's conversation, tools and names, and what a question expects, in place."""
        redactor = Redactor(self._spec.pii)
        map_texts(values["messages"], redactor)
        values["tools"] = map_value(values.get("tools") or [], redactor)
        if "expected" in values:
            expected = values["expected"]
            map_texts(expected.get("messages", []), redactor)
            values["expected"] = {
                key: value if key == "messages" else map_value(value, redactor) for key, value in expected.items()
            }
        for kind, count in redactor.counts.items():
            self._report.personal[kind] = self._report.personal.get(kind, 0) + count
        for name in dict.fromkeys(("id", *self._spec.group_by, *self._spec.question_group)):
            if values.get(name):
                values[name] = self._names(str(values[name]))


def _render(record: Record, renderer: Renderer, spec: DataSpec) -> Rendered | Reject:
    messages, tools = record.values["messages"], record.values["tools"]
    token = renderer.foreign_special_token(messages, tools)
    if token is not None:
        return reject(record, "render", "special_token_in_text", token)
    try:
        rendered = renderer.conversation(messages, tools)
    except ThroughlineError as error:
        return reject(record, "render", "not_a_prefix", error.what)
    except Exception as error:  # jinja2 and transformers raise many kinds for messages they refuse
        return reject(record, "render", "template_refused", shorten(error))
    if len(rendered.input_ids) > spec.max_seq_len:
        return reject(record, "render", "too_long", f"{len(rendered.input_ids)} tokens > {spec.max_seq_len}")
    if not any(label >= 0 for label in rendered.labels):
        return reject(record, "render", "no_assistant_tokens", f"{len(rendered.input_ids)} tokens")
    lost = renderer.lost(messages, rendered)
    return rendered if lost is None else reject(record, "render", _LOST, lost)


def _check_template(kept: int, rejects: Sequence[Reject], tokenizer_dir: Path) -> None:
    """Stops at a template that loses answers: what is left would train on something else than the records say."""
    lost = [item for item in rejects if item.reason == _LOST]
    if len(lost) > _MOST_LOST * (kept + len(lost)):
        raise DataError(
            "the chat template loses what the assistant says",
            where=f"{tokenizer_dir}, {len(lost)} of {kept + len(lost)} records, the first is {lost[0].id}",
            seen=lost[0].detail,
            fix="take a template that keeps texts and calls: model.chat_template=chatml, or a path",
        )


def _write_side(out: Path, name: str, pairs: list[tuple[Record, Rendered]], report: DataReport) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    keep = ("task", "format", "source", "licence", "customer", "document", "created")
    rows = [
        {"id": record.id, **{key: record.values.get(key) for key in keep}, "repairs": record.repairs}
        | {"messages": record.values["messages"], "tools": record.values["tools"]}
        for record, _ in pairs
    ]
    _write_lines(out / f"{name}.jsonl", rows)
    table = pa.table(
        {
            "id": pa.array([record.id for record, _ in pairs], pa.string()),
            "task": pa.array([record.values["task"] for record, _ in pairs], pa.string()),
            "input_ids": pa.array([item.input_ids for _, item in pairs], pa.list_(pa.int32())),
            "labels": pa.array([item.labels for _, item in pairs], pa.list_(pa.int32())),
        }
    )
    pq.write_table(  # type: ignore[no-untyped-call]
        table, out / f"{name}.parquet"
    )
    tokens = sum(len(item.input_ids) for _, item in pairs)
    answers = [sum(label >= 0 for label in item.labels) for _, item in pairs]
    report.tokens |= {name: tokens, f"{name}_with_loss": sum(answers)}
    setattr(report, name, len(pairs))
    if name == "train":
        report.answer_lengths = answers


def _write_questions(
    path: Path, rows: Iterable[dict[str, Any]], renderer: Renderer, group_fields: Sequence[str]
) -> int:
    done = []
    for row in rows:
        text, ids = renderer.prompt(row["messages"], row.get("tools") or [])
        done.append(
            {
                "id": row["id"],
                "task": row.get("task", "chat"),
                "customer": row.get("customer", ""),
                "group": next((f"{name} {row[name]}" for name in group_fields if row.get(name)), ""),
                "messages": row["messages"],
                "tools": row.get("tools") or [],
                "expected": row["expected"],
                "prompt": text,
                "prompt_token_ids": ids,
            }
        )
    _write_lines(path, done)
    return len(done)


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("wb") as handle:
        for row in rows:
            handle.write(orjson.dumps(row) + b"\n")


def _count(report: DataReport, kept: Sequence[Record], rejects: Sequence[Reject]) -> None:
    report.kept = len(kept)
    report.overlap = sum(item.reason in ("held_out_overlap", "held_out_group") for item in rejects)
    report.rejects = dict(Counter(item.reason for item in rejects).most_common())
    report.repairs = dict(Counter(name for record in kept for name in record.repairs).most_common())
    report.personal = dict(sorted(report.personal.items()))
    for name in ("task", "format", "source", "licence"):
        values = Counter(str(record.values.get(name) or "unknown") for record in kept)
        setattr(report, f"{name}s", dict(sorted(values.items())))
