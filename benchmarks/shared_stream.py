"""What a gRPC stream to Triton for all requests saves over one for each: CPU time of the gateway, Triton and the model.

    python benchmarks/shared_stream.py --engine artifacts/engine/<digest> [--streams 32] [--messages 200] [--repeats 5]

The real Triton with the real engine model, behind which an engine gives a token at once; two gateways before it, one
for each `gateway.upstream.stream`, take turns, a round each. CPU time is that of the processes, user and system. Of
long and short answers there are two equations: CPU time = requests * a + messages * b. Whole answers are by themselves:
they show what their pacing (`stream_interval_ms`) costs when compared with another commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from gateway_cpu import SETTLE_SECONDS, SHORT_MESSAGES, differences, summary
from instant_engine import TEXT

from throughline.artifacts.environment import processor_name
from throughline.contracts.gateway import GatewayLimits, GatewaySpec, ModelRoute, UpstreamSettings
from throughline.contracts.serving import ServeSpec
from throughline.gateway import GatewayProcess
from throughline.triton import repository
from throughline.triton.server import TritonServer

MODEL = "instant"
Costs = dict[str, float]


async def ask(url: str, streams: int, requests: int, tokens: int, *, stream: bool) -> None:
    """Sends `requests` completions on each of `streams` connections, all at once.

    Raises:
        RuntimeError: If an answer is not whole.
    """
    body = {"model": MODEL, "stream": stream, "max_tokens": tokens, "prompt": [5] * 20, "ignore_eos": True}

    async def one(client: httpx.AsyncClient) -> None:
        for _ in range(requests):
            answer = await client.post(f"{url}/v1/completions", json=body)
            answer.raise_for_status()
            if answer.text.count(TEXT) != tokens:
                raise RuntimeError(f"an answer of {tokens} tokens is not whole: {answer.text[-200:]}")

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=streams)) as client:
        await asyncio.gather(*(one(client) for _ in range(streams)))


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def measure(
    url: str, pids: dict[str, int], options: argparse.Namespace, count: int, tokens: int, *, stream: bool
) -> Costs:
    """CPU seconds of each process for one of so many requests on each connection."""
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    asyncio.run(ask(url, options.streams, count, tokens, stream=stream))
    # What threads have left to do counts too.
    time.sleep(SETTLE_SECONDS)
    return {name: (cpu_seconds(pid) - before[name]) / options.streams / count for name, pid in pids.items()}


def one_round(gateway: GatewayProcess, server: TritonServer, options: argparse.Namespace) -> Costs:
    """CPU seconds by process for a message, a request, and a whole answer of as many tokens as a short one."""
    pids = {"gateway": gateway.pid, "triton": server.pid, "model": server.stub_pids(MODEL)[0]}
    short_count = options.messages // SHORT_MESSAGES // 4
    long = measure(gateway.url, pids, options, 1, options.messages, stream=True)
    short = measure(gateway.url, pids, options, short_count, SHORT_MESSAGES, stream=True)
    whole = measure(gateway.url, pids, options, short_count, SHORT_MESSAGES, stream=False)
    found: Costs = {}
    for name in pids:
        message = (long[name] - short[name]) / (options.messages - SHORT_MESSAGES)
        found[f"{name}_message_seconds"] = message
        found[f"{name}_request_seconds"] = short[name] - SHORT_MESSAGES * message
        found[f"{name}_whole_seconds"] = whole[name]
    return found


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine: its tokenizer and limits")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--messages", type=int, default=200, help="of a long answer")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    # The engine's process finds its engine here.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    engine = options.engine.resolve()
    serve = ServeSpec(runtime="instant_engine:load", max_responses_per_second=10**9)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        repository.render(folder / "repository", MODEL, engine, serve)
        server = stack.enter_context(TritonServer(folder / "repository", [MODEL], serve, run_dir=folder / "run"))
        route = ModelRoute(id=MODEL, upstream=server.grpc_url, triton_model=MODEL, engine_dir=engine)
        gateways = {}
        for use in ("request", "multiplexed"):
            spec = GatewaySpec(
                port=0,
                models=(route,),
                limits=GatewayLimits(max_concurrent_tokens=2**31),
                upstream=UpstreamSettings(stream=use),
            )
            gateways[use] = stack.enter_context(GatewayProcess(spec))
            asyncio.run(ask(gateways[use].url, options.streams, 4, SHORT_MESSAGES, stream=True))
        rounds: dict[str, list[Costs]] = {use: [] for use in gateways}
        for _ in range(options.repeats):
            for use, gateway in gateways.items():
                rounds[use].append(one_round(gateway, server, options))
    facts = {
        "processor": processor_name(),
        "python": platform.python_version(),
        "streams": options.streams,
        "messages": options.messages,
    }
    found = {use: {**summary(each), "rounds": each} for use, each in rounds.items()}
    json.dump({**facts, **found, "differences": differences(rounds)}, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
