"""Traces in each public format, with broken lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from throughline.benchmarking.traces import Trace, TraceRow, read_trace
from throughline.contracts.errors import DataError


def read(path: Path, text: str) -> Trace:
    path.write_text(text)
    return read_trace(path, longest_input=8000, longest_output=1000)


def test_azure(tmp_path: Path) -> None:
    """Seven digits behind the seconds as in 2023, a zone as in 2024."""
    found = read(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:47+00:00,9,1\n"
        "2023-11-16 18:15:50.9951690,396,109\n",
    )
    assert found.rows == (
        TraceRow(0.0, 374, 44),
        TraceRow(pytest.approx(0.31941), 9, 1),
        TraceRow(pytest.approx(4.314579), 396, 109),
    )
    assert not found.rejects


def test_mooncake(tmp_path: Path) -> None:
    rows = [
        {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]},
        {"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46, 2366]},
    ]
    found = read(tmp_path / "mooncake.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert found.rows == (TraceRow(0.0, 6955, 52, (46, 47)), TraceRow(pytest.approx(3.053), 6472, 26, (46, 2366)))


def test_the_gateway_s_log(tmp_path: Path) -> None:
    """A line is written when its request ends; lines of other things are none."""
    request = {"level": "INFO", "message": "request", "prompt_tokens": 20, "completion_tokens": 8}
    lines = [
        {"time": "2026-11-26T20:00:00.000+00:00", "level": "INFO", "message": "listening"},
        {"time": "2026-11-26T20:00:05.000+00:00", "seconds": 4.0, **request},
        {"time": "2026-11-26T20:00:04.500+00:00", "seconds": 0.5, **request, "prompt_tokens": 21},
    ]
    found = read(tmp_path / "gateway.log", "".join(json.dumps(line) + "\n" for line in lines))
    assert found.rows == (TraceRow(0.0, 20, 8), TraceRow(pytest.approx(3.0), 21, 8))
    assert not found.rejects


def test_broken_lines_are_kept_with_their_reason(tmp_path: Path) -> None:
    found = read(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.68,374,44\n"
        "2023-11-16 18:15:47,374\n"
        "yesterday,374,44\n"
        "\n"
        "2023-11-16 18:15:48,9000,44\n"
        "2023-11-16 18:15:48,12,0\n",
    )
    assert len(found.rows) == 1
    assert [(reject.line, reject.reason) for reject in found.rejects] == [
        (3, "2 fields for 3 columns"),
        (4, "Invalid isoformat string: 'yesterday+00:00'"),
        (6, "9000 prompt tokens, longer than workload.longest_input_tokens=8000"),
        (7, "12 prompt tokens and 0 output tokens"),
    ]
    found.write_rejects(tmp_path / "rejects.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [3, 4, 6, 7]


def test_broken_objects(tmp_path: Path) -> None:
    found = read(
        tmp_path / "mooncake.jsonl",
        '{"timestamp": 0, "input_length": 10, "output_length": 5}\n{"timestamp": 0,\n{"timestamp": 1}\n[1]\n',
    )
    assert [reject.reason for reject in found.rejects] == ["no JSON", "no 'input_length'", "no JSON object"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r"trace is of no known format — .*trace.csv:1 — seen: 'a,b' — give a CSV with TIMESTAMP"),
        ("", "no known format"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n",
            "no request that can be sent .* 1 lines left out, the first",
        ),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "trace.csv", text)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"trace cannot be read — .*nothing — seen: No such file"):
        read_trace(tmp_path / "nothing", longest_input=1, longest_output=1)
