"""Clients that know nothing of us, unmodified, against the real Triton and gateway with the tiny engine.

python -m tests.stock_clients.environments aiperf genai-perf lm-eval
python -m pytest tests/stock_clients -m slow
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import RunningTriton
from tests.stock_clients import environments
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

RunClient = Callable[..., str]
LIMIT_SECONDS = 300
SHOWN = 3000


@pytest.fixture(scope="session")
def gateway(triton_server: RunningTriton) -> Iterator[GatewayProcess]:
    """A gateway in front of it; its model is called `lab`."""
    route = triton_server.route("lab")
    with GatewayProcess(GatewaySpec(port=0, models=(route,))) as process:
        yield process


def client_folder(name: str) -> Path:
    """The client's environment; the test is skipped, with what to do, where it is not made."""
    if not environments.is_made(name):
        pytest.skip(f"no environment of {name}: run `python -m tests.stock_clients.environments {name}` first")
    return environments.folder(name)


@pytest.fixture
def run_client(tmp_path: Path) -> RunClient:
    """Runs a program of a client's environment in `tmp_path`, without a network beyond loopback's names."""

    def run(name: str, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        folder = client_folder(name)
        program = folder / "bin" / arguments[0]
        given = {
            **os.environ,
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            # Nothing listens there: a client that asks a hub for anything says so.
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": str(tmp_path / "hf"),
            "NO_COLOR": "1",
            **(env or {}),
        }
        for inherited in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            given.pop(inherited, None)
        done = subprocess.run(
            [str(program), *arguments[1:]],
            cwd=tmp_path,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        assert done.returncode == 0, done.stdout[-SHOWN:]
        return done.stdout

    return run
