"""An engine folder without an engine, a scripted Triton, and the gateway as a child process before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from tests.tiny import save_tiny_tokenizer, write_engine_info
from tests.unit.gateway.fake_text_models import FakeTextModels
from tests.unit.gateway.fake_triton import MODEL, FakeTriton, say
from throughline.contracts.gateway import GatewaySpec, ModelRoute
from throughline.gateway import GatewayProcess

CONTEXT = 256


@pytest.fixture(scope="session")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the gateway reads of an engine: a tiny tokenizer with its template, `engine.json`."""
    folder = save_tiny_tokenizer(tmp_path_factory.mktemp("gateway-engine"), tool_tags=True)
    write_engine_info(folder, max_seq_len=CONTEXT)
    return folder


@pytest.fixture(scope="session")
def running_triton() -> Iterator[FakeTriton]:
    """The scripted server; tests take `triton`, which starts clean."""
    server = FakeTriton()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def triton(running_triton: FakeTriton) -> FakeTriton:
    """The scripted server with nothing seen and the default script."""
    running_triton.seen.clear()
    running_triton.embedded.clear()
    running_triton.failures.clear()
    running_triton.ready = True
    running_triton.script = say("Hello there")
    return running_triton


@pytest.fixture(scope="session")
def models() -> Iterator[FakeTextModels]:
    """Scripted models of TensorRT-LLM's layouts; a test begins with `says`."""
    server = FakeTextModels()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def make_spec(engine_dir: Path, running_triton: FakeTriton) -> Callable[..., GatewaySpec]:
    """Makes a spec with one model, `lab`, on the scripted server."""

    def make(**values: object) -> GatewaySpec:
        route = ModelRoute(
            id="lab",
            upstream=f"127.0.0.1:{running_triton.port}",
            triton_model=MODEL,
            engine_dir=engine_dir,
        )
        return GatewaySpec.model_validate({"port": 0, "models": (route,), **values})

    return make


@pytest.fixture(scope="session")
def gateway(make_spec: Callable[..., GatewaySpec]) -> Iterator[GatewayProcess]:
    """A gateway with default limits."""
    with GatewayProcess(make_spec()) as process:
        yield process


@pytest.fixture(scope="session")
def client(gateway: GatewayProcess) -> openai.OpenAI:
    """The stock client without retries, so that each error is seen."""
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=20)
