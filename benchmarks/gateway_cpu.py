"""What the gateway's process takes of a core: for a streamed message, and for a request.

    python benchmarks/gateway_cpu.py --engine artifacts/engine/<digest> [--streams 32] [--messages 200] [--repeats 5]

A scripted Triton in a process of its own sends messages as fast as they are taken; what is measured is the CPU time of
the gateway's process alone, user and system. Rounds of long and of short answers take turns; two unknowns, two
equations: CPU time = requests * a + messages * b.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import platform
import statistics
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from tritonclient.grpc import service_pb2, service_pb2_grpc

from throughline.artifacts.environment import processor_name
from throughline.contracts.gateway import GatewayLimits, GatewaySpec, ModelRoute
from throughline.gateway import GatewayProcess

MODEL = "scripted"
SHORT_MESSAGES = 2
TEXT = " word"


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # no types there
    """Answers a request with as many messages as it asks for tokens."""

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        """One message a token, the reason in the last."""
        request = next(requests)
        values = {item.name: raw for item, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        (count,) = struct.unpack("<i", values["max_tokens"])
        for number in range(1, count + 1):
            yield _message(number, len(values["input_ids"]) // 4, "length" if number == count else "")


def _message(number: int, prompt_tokens: int, reason: str) -> Any:
    response = service_pb2.ModelInferResponse(model_name=MODEL)
    for name, kind, raw in (
        ("text_output", "BYTES", struct.pack("<I", len(TEXT)) + TEXT.encode()),
        ("finish_reason", "BYTES", struct.pack("<I", len(reason)) + reason.encode()),
        ("prompt_tokens", "INT32", struct.pack("<i", prompt_tokens)),
        ("completion_tokens", "INT32", struct.pack("<i", number)),
        ("output_ids", "INT32", struct.pack("<i", 5)),
    ):
        response.outputs.add(name=name, datatype=kind, shape=[1])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


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


def main() -> int:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine: its tokenizer and template")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--messages", type=int, default=200, help="of a long answer")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=upstream, args=(options.streams, theirs), daemon=True)
    server.start()
    route = ModelRoute(
        id=MODEL, upstream=f"127.0.0.1:{ours.recv()}", triton_model=MODEL, engine_dir=options.engine.resolve()
    )
    limits = GatewayLimits(max_concurrent_tokens=2**31)
    with GatewayProcess(GatewaySpec(port=0, models=(route,), limits=limits)) as gateway:
        measure(gateway, options.streams, 4, SHORT_MESSAGES)
        rounds = [one_round(gateway, options) for _ in range(options.repeats)]
        memory = psutil.Process(gateway.pid).memory_info().rss
    server.terminate()
    summary = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name in rounds[0]
        if (values := [each[name] for each in rounds])
    }
    facts = {
        "processor": processor_name(),
        "python": platform.python_version(),
        "streams": options.streams,
        "messages": options.messages,
        "rss_bytes": memory,
    }
    json.dump({**facts, **summary, "rounds": rounds}, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
