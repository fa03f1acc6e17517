"""NVIDIA's AIPerf: streamed chats of the gateway, and Triton's generate_stream by a template of the request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningTriton
from tests.stock_clients.conftest import RunClient
from throughline.gateway import GatewayProcess

pytestmark = [pytest.mark.slow, pytest.mark.integration]

REQUESTS, PROMPT, TOKENS = 24, 40, 16


def profile(run_client: RunClient, tokenizer: Path, out: Path, *arguments: str) -> dict[str, Any]:
    """Runs `aiperf profile`; the metrics of its report by name."""
    run_client(
        "aiperf",
        *("aiperf", "profile", "--streaming", "--tokenizer", str(tokenizer), "--ui", "none"),
        *("--concurrency", "4", "--request-count", str(REQUESTS), "--random-seed", "5"),
        *("--isl", str(PROMPT), "--osl", str(TOKENS), "--artifact-dir", str(out)),
        *("--extra-inputs", "ignore_eos:true"),
        *arguments,
    )
    [report] = out.rglob("profile_export_aiperf.json")
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return found


def check_times(report: dict[str, Any]) -> None:
    """All requests were answered, and the times of their tokens are in order."""
    assert report["request_count"]["avg"] == REQUESTS
    assert report.get("error_request_count", {"avg": 0})["avg"] == 0
    assert report["error_summary"] == []
    first, total = report["time_to_first_token"], report["request_latency"]
    assert 0 < first["min"] <= first["avg"] < total["avg"]
    assert report["inter_token_latency"]["avg"] > 0
    assert report["request_throughput"]["avg"] > 0


def test_the_gateway_s_chats(
    gateway: GatewayProcess, triton_server: RunningTriton, run_client: RunClient, tmp_path: Path
) -> None:
    report = profile(
        run_client,
        triton_server.engine_dir,
        tmp_path / "out",
        *("--model", "lab", "--url", gateway.url, "--endpoint-type", "chat", "--use-server-token-count"),
    )
    check_times(report)
    # By `usage` of the stream, which the client asks for: every answer has the length that was asked for.
    lengths = report["output_sequence_length"]
    assert (lengths["min"], lengths["max"]) == (TOKENS, TOKENS)
    # The text's tokens and the template's.
    assert report["input_sequence_length"]["min"] > PROMPT


def test_tritons_generate_stream(triton_server: RunningTriton, run_client: RunClient, tmp_path: Path) -> None:
    # A file, for the option is split at commas.
    template = tmp_path / "request.j2"
    template.write_text(
        f'{{"text_input": {{{{ text|tojson }}}}, "max_tokens": {TOKENS}, "stream": true, "ignore_eos": true}}',
        encoding="utf-8",
    )
    path = f"/v2/models/{triton_server.model}/generate_stream"
    report = profile(
        run_client,
        triton_server.engine_dir,
        tmp_path / "out",
        *("--model", triton_server.model, "--url", f"http://127.0.0.1:{triton_server.http_port}"),
        *("--endpoint-type", "template", "--custom-endpoint", path),
        *("--extra-inputs", f"payload_template:{template}", "--extra-inputs", "response_field:text_output"),
    )
    check_times(report)
    # Counted by the client's tokenizer in the text: bytes that are no text, which a random model writes, count anew.
    assert report["output_sequence_length"]["min"] > 1
