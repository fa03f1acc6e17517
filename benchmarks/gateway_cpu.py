"""What the gateway's process takes of a core: for a streamed message, and for a request.

    python benchmarks/gateway_cpu.py --engine artifacts/engine/<digest> [--streams 32] [--messages 200] [--repeats 5]
    python benchmarks/gateway_cpu.py --engine artifacts/engine/<digest> --tracing

A scripted Triton in a process of its own sends messages as fast as they are taken; what is measured is the CPU time of
the gateway's process alone, user and system. Rounds of long and of short answers take turns; two unknowns, two
equations: CPU time = requests * a + messages * b.

With --tracing three gateways take turns, a round each: one without tracing, one that traces no request (sample_ratio 0)
and one that traces each of them and sends the spans to a collector in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from instant_upstreams import TEXT, message
from results_file import command_line, spread
from tritonclient.grpc import service_pb2_grpc

from throughline.artifacts.environment import processor_name
from throughline.contracts.gateway import GatewayLimits, GatewaySpec, ModelRoute
from throughline.contracts.tracing import GatewayTracing
from throughline.gateway import GatewayProcess

MODEL = "scripted"
SHORT_MESSAGES = 2
SETTLE_SECONDS = 0.5
TIMES = ("arrival", "first_token", "last_token")


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # no types there
    """Answers a request with as many messages as it asks for tokens."""

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """One message a token, the reason in the last."""
        request = next(requests)
        values = {item.name: raw for item, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        (count,) = struct.unpack("<i", values["max_tokens"])
        for number in range(1, count + 1):
            reason, size = "length" if number == count else "", len(values["input_ids"]) // 4
            yield message(TEXT, reason, prompt_tokens=size, completion_tokens=number, times=TIMES)


def upstream(streams: int, ready: Connection) -> None:
    """Serves the script until the other end of `ready` closes; sends its port first."""
    server = grpc.server(ThreadPoolExecutor(streams))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Scripted(), server)
    ready.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    ready.poll(None)
    server.stop(0)


async def ask(url: str, streams: int, requests: int, messages: int) -> int:
    """Sends `requests` chats on each of `streams` connections, all at once; returns the messages that came."""
    body = {"model": MODEL, "stream": True, "max_tokens": messages, "messages": [{"role": "user", "content": "Hi"}]}
    came = 0

    async def one(client: httpx.AsyncClient) -> None:
        nonlocal came
        for _ in range(requests):
            async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    came += '"content":" word"' in line

    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=streams)) as client:
        await asyncio.gather(*(one(client) for _ in range(streams)))
    return came


def cpu_seconds(gateway: GatewayProcess) -> float:
    """CPU seconds of the gateway's process so far."""
    times = psutil.Process(gateway.pid).cpu_times()
    return times.user + times.system


def measure(gateway: GatewayProcess, streams: int, requests: int, messages: int) -> float:
    """CPU seconds of the gateway for a round.

    Raises:
        RuntimeError: If a message is missing.
    """
    before = cpu_seconds(gateway)
    came = asyncio.run(ask(gateway.url, streams, requests, messages))
    # What its threads have left to do counts too.
    time.sleep(SETTLE_SECONDS)
    if came != streams * requests * messages:
        raise RuntimeError(f"{came} messages came of {streams * requests * messages}")
    return cpu_seconds(gateway) - before


def one_round(gateway: GatewayProcess, options: argparse.Namespace) -> dict[str, float]:
    """Returns the seconds of CPU for a message and for a request (which has at least its first message)."""
    short_requests = options.messages // SHORT_MESSAGES // 4
    long = measure(gateway, options.streams, 1, options.messages) / options.streams
    short = measure(gateway, options.streams, short_requests, SHORT_MESSAGES) / options.streams / short_requests
    message = (long - short) / (options.messages - SHORT_MESSAGES)
    return {"message_seconds": message, "request_seconds": short - SHORT_MESSAGES * message}


def collector(ready: Connection) -> None:
    """Takes spans and keeps none, until the other end of `ready` closes; sends its port first."""

    class Taker(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    ready.send(server.server_port)
    ready.poll(None)


def started(stack: contextlib.ExitStack, target: Callable[..., None], *arguments: Any) -> int:
    """Runs a function in a process that ends with `stack`; returns the port that it sends."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    stack.callback(process.terminate)
    return int(stack.enter_context(ours).recv())


def variants(stack: contextlib.ExitStack, tracing: bool) -> dict[str, GatewayTracing]:
    """What is compared, by name."""
    if not tracing:
        return {"gateway": GatewayTracing()}
    endpoint = f"http://127.0.0.1:{started(stack, collector)}"
    return {
        "off": GatewayTracing(),
        "sample_ratio_0": GatewayTracing(endpoint=endpoint, sample_ratio=0.0),
        "sample_ratio_1": GatewayTracing(endpoint=endpoint, sample_ratio=1.0),
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median and range of each figure."""
    return {name: spread(values) for name in rounds[0] if (values := [each[name] for each in rounds])}


def differences(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """What each variant takes beyond the first, round by round."""
    first, *others = rounds
    pairs = {name: zip(rounds[first], rounds[name], strict=True) for name in others}
    return {
        name: summary([{key: theirs[key] - own[key] for key in own} for own, theirs in each])
        for name, each in pairs.items()
    }


def main() -> int:
    """Prints one JSON object."""
    parser = command_line(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine: its tokenizer and template")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--messages", type=int, default=200, help="of a long answer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tracing", action="store_true", help="compare tracing off, of no request, and of each")
    options = parser.parse_args()
    # Spans are sent within the round that they belong to.
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "100"
    with contextlib.ExitStack() as stack:
        address = f"127.0.0.1:{started(stack, upstream, options.streams)}"
        route = ModelRoute(id=MODEL, upstream=address, triton_model=MODEL, engine_dir=options.engine.resolve())
        spec = GatewaySpec(port=0, models=(route,), limits=GatewayLimits(max_concurrent_tokens=2**31))
        gateways = {
            name: stack.enter_context(GatewayProcess(spec.model_copy(update={"tracing": tracing})))
            for name, tracing in variants(stack, options.tracing).items()
        }
        for gateway in gateways.values():
            measure(gateway, options.streams, 4, SHORT_MESSAGES)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in gateways}
        for _ in range(options.repeats):
            for name, gateway in gateways.items():
                rounds[name].append(one_round(gateway, options))
        memory = {name: psutil.Process(gateway.pid).memory_info().rss for name, gateway in gateways.items()}
    facts = {
        "processor": processor_name(),
        "python": platform.python_version(),
        "streams": options.streams,
        "messages": options.messages,
    }
    found = {name: {"rss_bytes": memory[name], **summary(each), "rounds": each} for name, each in rounds.items()}
    more = {"differences": differences(rounds)} if options.tracing else {}
    json.dump({**facts, **(found if options.tracing else found["gateway"]), **more}, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
