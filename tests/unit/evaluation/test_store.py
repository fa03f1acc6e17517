"""An evaluation on disk: what comes back, what a person can read, what damage is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.evaluation.helpers import WANTED, answer, call, refusal, triage
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import Answer, SuiteSpec
from throughline.evaluation.store import (
    ANSWERS_FILE,
    EVALUATION_FILE,
    read_answers,
    read_evaluation,
    read_evaluations,
    write_evaluation,
)
from throughline.evaluation.suite import score

QUESTIONS = [triage("a"), refusal(True, "b"), refusal(False, "c"), triage("d")]
ANSWERS = [
    answer(call(WANTED), "a"),
    answer("Sure\u2028thing \ud800 ü", "b"),
    Answer("c", "", (), "error", "prompt is too long"),
    answer(call({"severity": "low"}), "d", reason="length"),
]


def written(folder: Path) -> Path:
    evaluation = score("int8", QUESTIONS, ANSWERS, SuiteSpec(), seconds=2.5)
    write_evaluation(folder, evaluation, QUESTIONS, ANSWERS)
    return folder


def test_it_comes_back_whole(tmp_path: Path) -> None:
    folder = written(tmp_path / "new" / "folder")
    evaluation = score("int8", QUESTIONS, ANSWERS, SuiteSpec(), seconds=2.5)
    assert read_evaluation(folder) == evaluation
    assert read_answers(folder) == ANSWERS
    assert score("int8", QUESTIONS, read_answers(folder), SuiteSpec(), seconds=2.5) == evaluation


def test_the_sets_of_an_artifact_come_back_by_name_the_gated_one_first(tmp_path: Path) -> None:
    for name in ("shifted", "acceptance", "acceptance_constrained"):
        written(tmp_path / name)
    found = read_evaluations(tmp_path)
    assert list(found) == ["acceptance", "acceptance_constrained", "shifted"]
    assert found["shifted"] == read_evaluation(tmp_path / "shifted")
    (tmp_path / "acceptance" / EVALUATION_FILE).unlink()
    with pytest.raises(DataError, match=r"no evaluation here.*acceptance_constrained, shifted"):
        read_evaluations(tmp_path)


def test_failures_can_be_read(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (written(tmp_path) / ANSWERS_FILE).read_bytes().splitlines()]
    assert [row["id"] for row in rows if not row["success"]] == ["b", "c", "d"]
    failed = rows[3]
    assert failed["expected"]["arguments"] == WANTED
    assert (failed["prompt"], failed["text"]) == ("?", ANSWERS[3].text)
    assert (failed["task"], failed["finish_reason"]) == ("triage", "length")
    assert failed["outcomes"]["triage_severity_accuracy"] == 0
    assert rows[2]["error"] == "prompt is too long"


def test_an_unknown_answer_is_refused(tmp_path: Path) -> None:
    evaluation = score("int8", QUESTIONS, ANSWERS, SuiteSpec())
    with pytest.raises(DataError, match="answer without a question or an outcome — z"):
        write_evaluation(tmp_path, evaluation, QUESTIONS, [answer("x", "z")])


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation here"):
        read_evaluation(tmp_path)
    folder = written(tmp_path)
    answers = folder / ANSWERS_FILE
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.rindex(b"{")])
    with pytest.raises(DataError, match=r"answers\.jsonl:4"):
        read_evaluation(folder)
    answers.write_bytes(b"\n".join(whole.split(b"\n")[:3]))
    with pytest.raises(DataError, match=r"does not match.*3 answers of 4"):
        read_evaluation(folder)
    answers.write_bytes(b"{}\n")
    with pytest.raises(DataError, match="answers are damaged"):
        read_answers(folder)
    (folder / EVALUATION_FILE).write_text("{}")
    with pytest.raises(DataError, match="evaluation is damaged"):
        read_evaluation(folder)
    (folder / EVALUATION_FILE).write_text("[]")
    with pytest.raises(DataError, match="no JSON object"):
        read_evaluation(folder)
