"""Two upstreams that answer a chat at once with eight tokens, in a process each, for what stands in front of them.

python benchmarks/instant_upstreams.py grpc    our engine's text contract over Triton's gRPC
python benchmarks/instant_upstreams.py sse     OpenAI's chat completions over HTTP

Every token is a message of its own where the client streams; all answers are made before the first request. The port
is the first line of standard output; the process ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

MODEL = "instant"
TOKENS = 8
TEXT = " word"
PROMPT_TOKENS = 20


def message(text: str, reason: str, *, prompt_tokens: int, completion_tokens: int, times: Sequence[str] = ()) -> Any:
    """A message of our engine model; its `times` are all now."""
    from tritonclient.grpc import service_pb2

    response = service_pb2.ModelInferResponse(model_name=MODEL)
    for name, kind, raw in (
        ("text_output", "BYTES", _string(text)),
        ("finish_reason", "BYTES", _string(reason)),
        ("prompt_tokens", "INT32", struct.pack("<i", prompt_tokens)),
        ("completion_tokens", "INT32", struct.pack("<i", completion_tokens)),
        ("output_ids", "INT32", struct.pack("<i", 5)),
        *((f"{name}_time_ns", "INT64", struct.pack("<q", time.monotonic_ns())) for name in times),
    ):
        response.outputs.add(name=name, datatype=kind, shape=[1])
        response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data


def grpc_messages(*, stream: bool) -> list[bytes]:
    """The serialised messages of an answer."""
    found = []
    for number in range(1, TOKENS + 1) if stream else (TOKENS,):
        said, reason = TEXT if stream else TEXT * TOKENS, "length" if number == TOKENS else ""
        found.append(message(said, reason, prompt_tokens=PROMPT_TOKENS, completion_tokens=number))
    return [each.SerializeToString() for each in found]


async def serve_grpc() -> None:
    """Serves the gRPC upstream."""
    import grpc
    from tritonclient.grpc import service_pb2

    streamed, whole = grpc_messages(stream=True), grpc_messages(stream=False)

    async def infer(requests: AsyncIterator[Any], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            names = [item.name for item in request.inputs]
            streams = request.raw_input_contents[names.index("stream")] == b"\x01"
            # An answer that is paced is over before its first message is due.
            paced = "stream_interval_ms" in request.parameters
            for message in streamed if streams and not paced else whole:
                yield message

    method = grpc.stream_stream_rpc_method_handler(
        infer, request_deserializer=service_pb2.ModelInferRequest.FromString, response_serializer=bytes
    )
    server = grpc.aio.server()
    handlers = {"ModelStreamInfer": method}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(0)


def sse_events() -> list[bytes]:
    """The events of a streamed answer, the last two together."""
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": TEXT}, None)]
    deltas += [({"content": TEXT}, None)] * (TOKENS - 1) + [({}, "length")]
    events = []
    for delta, reason in deltas:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        events.append(f"data: {json.dumps({**common, 'choices': [choice]})}\n\n".encode())
    events[-1] += b"data: [DONE]\n\n"
    return events


async def serve_sse() -> None:
    """Serves the HTTP upstream: an ASGI application without a framework."""
    import uvicorn

    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}
    message = {"role": "assistant", "content": TEXT * TOKENS}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    whole, events = json.dumps({**answer, "choices": [choice], "usage": usage}).encode(), sse_events()
    json_head = [(b"content-type", b"application/json"), (b"content-length", str(len(whole)).encode())]
    event_head = [(b"content-type", b"text/event-stream")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (event := await receive()).get("more_body"):
            body += event["body"]
        body += event.get("body", b"")
        stream = b'"stream":true' in body or b'"stream": true' in body
        head = event_head if stream else json_head
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for part in events if stream else [whole]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(listener.getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.should_exit = True
    await serving


def main() -> None:
    """Serves until standard input ends."""
    import uvloop

    uvloop.run({"grpc": serve_grpc, "sse": serve_sse}[sys.argv[1]]())


if __name__ == "__main__":
    main()
