"""What docker/compose.yaml runs, as processes on loopback: Triton by its command, the gateway by its spec."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.unit.house.deployment import DOCKER, read
from throughline.artifacts import ArtifactStore
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess
from throughline.triton.state import read_state

pytestmark = pytest.mark.integration
DEADLINE_SECONDS = 60


@pytest.fixture
def engine(tmp_path: Path, tiny_engine: Path) -> Path:
    """The engine as an artifact's folder, away from the store that serves it and not writable, as mounted."""
    store = ArtifactStore(tmp_path / "made-elsewhere")
    with store.stage("engine", "tiny", config={}, code_version="0") as run:
        shutil.copytree(tiny_engine, run.directory, dirs_exist_ok=True)
        made = run.commit()
    for path in (made.path, *made.path.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return made.path


@contextmanager
def triton(engine: Path, folder: Path) -> Iterator[int]:
    """The service `triton` in `folder`: its command, but for the engine's place, the address and free ports."""
    _, *words = read(DOCKER / "compose.yaml")["services"]["triton"]["command"]
    words = [re.sub(r"^(serve\.\w+_port)=.*", r"\1=0", word) for word in words]
    words = [
        {"target=/engine": f"target={engine}", "serve.host=0.0.0.0": "serve.host=127.0.0.2"}.get(w, w) for w in words
    ]
    environment = os.environ | {"THROUGHLINE_HOME": str(folder / "artifacts"), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield ready_port(process, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_SECONDS)


def ready_port(process: subprocess.Popen[bytes], folder: Path) -> int:
    """Triton's gRPC port, once the container's health check would pass."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        state = read_state(folder / "artifacts/run")
        if state is not None:
            assert state.host == "127.0.0.2"
            url = f"http://{state.host}:{state.http_port}/v2/models/lab/ready"
            try:
                if httpx.get(url, timeout=2).status_code == 200:
                    return state.grpc_port
            except httpx.TransportError:
                continue
    pytest.fail((folder / "log").read_text())


def test_the_stack_answers(engine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "container"
    folder.mkdir()
    with triton(engine, folder) as port:
        text = (DOCKER / "gateway.json").read_text(encoding="utf-8")
        values = json.loads(text.replace("triton:8001", f"127.0.0.2:{port}").replace("/engine", str(engine)))
        spec = GatewaySpec.model_validate(values | {"host": "127.0.0.1", "port": 0})
        with GatewayProcess(spec) as gateway:
            assert httpx.get(f"{gateway.url}/health/ready", timeout=10).status_code == 200
            body = {"model": "lab", "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=20)
            assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] >= 1
            assert 'vllm:generation_tokens_total{model_name="lab"}' in httpx.get(f"{gateway.url}/metrics").text
