"""A name that stands for several Tritons: requests take turns, and one that is away is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.unit.gateway.fake_triton import MODEL, FakeTriton
from throughline.contracts.gateway import GatewaySpec
from throughline.gateway import GatewayProcess

ASK: Any = {"model": "lab", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def pair() -> Iterator[tuple[FakeTriton, FakeTriton]]:
    servers = FakeTriton(), FakeTriton()
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


def test_requests_take_turns_and_a_server_that_is_away_gets_none(
    pair: tuple[FakeTriton, FakeTriton], make_spec: Callable[..., GatewaySpec]
) -> None:
    first, second = pair
    (route,) = make_spec().models
    # What the resolver makes of a headless Service with two pods.
    upstream = f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}"
    spec = make_spec(models=(route.model_copy(update={"upstream": upstream, "triton_model": MODEL}),))
    with (
        GatewayProcess(spec) as gateway,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=8, timeout=20) as client,
    ):
        # The second connection may come a moment after the first.
        for _ in range(200):
            client.chat.completions.create(**ASK)
            if first.seen and second.seen:
                break
        else:
            pytest.fail("one server got every request")
        for server in pair:
            server.seen.clear()
        for _ in range(8):
            client.chat.completions.create(**ASK)
        assert (len(first.seen), len(second.seen)) == (4, 4)
        first.stop()
        for server in pair:
            server.seen.clear()
        for _ in range(4):
            client.chat.completions.create(**ASK)
        assert (len(first.seen), len(second.seen)) == (0, 4)
