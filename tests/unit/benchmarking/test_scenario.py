"""The pool of requests is drawn from the questions as the data stage writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughline.benchmarking.scenario import load_questions
from throughline.contracts.errors import DataError


def write(path: Path, *contents: str) -> Path:
    asked = [[{"role": "user", "content": text}] for text in contents]
    rows = [{"task": "chat", "messages": messages, "prompt_token_ids": [1] * 5} for messages in asked]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_line_separator_within_a_question_ends_no_line(tmp_path: Path) -> None:
    texts = {"one\u2028two", "three\u0085four", "five"}
    pool = load_questions(write(tmp_path / "q.jsonl", *texts), output_lengths=[4], max_seq_len=64, size=9, seed=0)
    assert {request.messages[0]["content"] for request in pool} == texts


def test_requests_beyond_the_context_are_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fits the engine's context.*max_seq_len=8"):
        load_questions(write(tmp_path / "q.jsonl", "x"), output_lengths=[4], max_seq_len=8, size=9, seed=0)
