"""genai-perf and its perf_analyzer in `tensorrtllm` mode against Triton: gRPC streams, generate_stream over HTTP."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunningTriton
from tests.stock_clients.conftest import RunClient

pytestmark = [pytest.mark.slow, pytest.mark.integration]

REQUESTS, TOKENS = 24, 16


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """What perf_analyzer is linked against, libb64 and CUDA's runtime, under the names that it asks for.

    nvidia-pytriton's wheel carries both with a hash in their names.
    """
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None and spec.origin is not None
    carried = Path(spec.origin).parents[1] / "nvidia_pytriton.libs"
    folder = tmp_path / "libraries"
    folder.mkdir()
    for pattern, name in (("libb64-*.so.0d", "libb64.so.0d"), ("libcudart-*.so.12*", "libcudart.so.12")):
        [library] = carried.glob(pattern)
        (folder / name).symlink_to(library)
    return folder


@pytest.mark.parametrize("endpoint", ["kserve", "generate"])
def test_every_request_streams(
    endpoint: str, triton_server: RunningTriton, run_client: RunClient, libraries: Path, tmp_path: Path
) -> None:
    name = triton_server.model
    how = {
        "kserve": ("--backend", "tensorrtllm", "-u", f"127.0.0.1:{triton_server.grpc_port}"),
        "generate": (
            *("--endpoint", f"v2/models/{name}/generate_stream"),
            *("-u", f"127.0.0.1:{triton_server.http_port}"),
        ),
    }
    run_client(
        "genai-perf",
        *("genai-perf", "profile", "-m", name, "--streaming", "--endpoint-type", endpoint, *how[endpoint]),
        *("--tokenizer", str(triton_server.engine_dir), "--artifact-dir", str(tmp_path / "out")),
        *("--concurrency", "4", "--request-count", str(REQUESTS), "--random-seed", "5"),
        *("--synthetic-input-tokens-mean", "40", "--output-tokens-mean", str(TOKENS)),
        *("--extra-inputs", "ignore_eos:true"),
        env={
            "HF_HUB_OFFLINE": "1",
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")])),
        },
    )
    [report] = (tmp_path / "out").rglob("profile_export_genai_perf.json")
    found: dict[str, Any] = json.loads(report.read_text("utf-8"))
    assert found["request_count"]["avg"] == REQUESTS
    first, total = found["time_to_first_token"], found["request_latency"]
    assert 0 < first["min"] <= first["avg"] < total["avg"]
    assert found["inter_token_latency"]["avg"] > 0
    assert found["output_sequence_length"]["min"] > 1
    [raw] = (tmp_path / "out").rglob("profile_export.json")
    requests = json.loads(raw.read_text("utf-8"))["experiments"][0]["requests"]
    assert [request for request in requests if not request.get("success", True)] == []
    # Several messages each, and not the whole answer at its end.
    assert min(len(request["response_timestamps"]) for request in requests) > 1
