"""Our gateway against the LiteLLM proxy, each in front of an upstream that answers at once (instant_upstreams.py).

python benchmarks/gateway_peers.py --engine artifacts/engine/<digest> --litellm-python LITELLM/bin/python --repeats 5

Ours asks Triton's gRPC, LiteLLM asks OpenAI's HTTP: each has the upstream that it is made for, and what the upstreams
themselves take is measured beside them. Chats of one line and eight tokens, whole and streamed. One process of either
proxy, alone on core 0; upstreams and load generator share core 1. Requests a second and core are requests over the
proxy's own CPU time, user and system, while `--connections` ask without a pause. Added latency is the p50 through the
proxy less the p50 of asking its upstream directly, at `--rate` requests a second one after the other: the whole answer,
or the first event of a stream. Nobody is asked for a key. Proxies take turns, and so does who begins.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from http_load import Client, quantile
from instant_upstreams import MODEL, TOKENS
from results_file import command_line, spread, write

ROOT = Path(__file__).resolve().parents[1]
PROXY_CORE, OTHER_CORE = 0, 1
START_SECONDS = 120.0
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Where is the valve of pump P-101A?"}]}
Job = dict[str, Any]


def body(*, stream: bool) -> bytes:
    """A chat as a client sends it."""
    return json.dumps({**CHAT, "max_tokens": TOKENS, "temperature": 0, "stream": stream}).encode()


async def burst(job: Job) -> dict[str, Any]:
    """`connections` users who ask without a pause; seconds of all requests."""
    client = Client(job["url"])
    payload = client.payload("/v1/chat/completions", body(stream=job["stream"]))
    await client.open(job["connections"])
    left = job["requests"]

    async def user() -> None:
        nonlocal left
        while left:
            left -= 1
            check(await client.ask(payload), job["stream"])

    begun = time.monotonic()
    await asyncio.gather(*(user() for _ in range(job["connections"])))
    seconds = time.monotonic() - begun
    client.close()
    return {"seconds": seconds}


def check(answer: Any, stream: bool) -> None:
    """Raises `RuntimeError` for an answer that is none: a fast error would win."""
    if answer.status != 200 or not answer.whole or (stream and answer.events < TOKENS):
        raise RuntimeError(f"no answer: {answer}")


async def paced(job: Job) -> dict[str, Any]:
    """Seconds of each of `requests` over HTTP, `rate` a second."""
    client = Client(job["url"])
    payload = client.payload("/v1/chat/completions", body(stream=job["stream"]))
    seconds = []
    for _ in range(job["requests"]):
        answer = await client.ask(payload)
        check(answer, job["stream"])
        seconds.append((answer.first if job["stream"] else answer.last) - answer.sent)
        await asyncio.sleep(max(0.0, 1 / job["rate"] - seconds[-1]))
    client.close()
    return {"seconds": seconds}


async def paced_grpc(job: Job) -> dict[str, Any]:
    """The same straight to Triton's protocol, as our gateway asks: a call a request on one channel."""
    import grpc
    from tritonclient.grpc import service_pb2_grpc

    from throughline.contracts.engine import SamplingParams
    from throughline.gateway.upstream import infer_request

    params = SamplingParams(max_tokens=TOKENS, temperature=0.0)
    request = infer_request(MODEL, "direct", list(range(20)), params, stream=job["stream"])
    seconds = []
    async with grpc.aio.insecure_channel(job["url"], options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(job["requests"]):
            sent = time.monotonic()
            call = stub.ModelStreamInfer()
            await call.write(request)
            await call.done_writing()
            await call.read()
            seconds.append(time.monotonic() - sent)
            while await call.read() is not grpc.aio.EOF:
                pass
            await asyncio.sleep(max(0.0, 1 / job["rate"] - (time.monotonic() - sent)))
    return {"seconds": seconds}


def load(kind: str, job: Job) -> dict[str, Any]:
    """Runs a load generator as a child on its core."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", kind],
        input=json.dumps(job),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Children started within run on this core alone, with all threads that they start."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


@contextlib.contextmanager
def upstream(kind: str) -> Iterator[tuple[int, int]]:
    """Port and process id of an upstream."""
    command = [sys.executable, str(Path(__file__).with_name("instant_upstreams.py")), kind]
    with on_core(OTHER_CORE):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("no pipes")
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()


@contextlib.contextmanager
def ours(engine: Path, port: int) -> Iterator[tuple[str, int]]:
    """URL and process id of our gateway with its ordinary settings."""
    from throughline.contracts.gateway import GatewaySpec, ModelRoute
    from throughline.gateway import GatewayProcess

    route = ModelRoute(id=MODEL, upstream=f"127.0.0.1:{port}", triton_model=MODEL, engine_dir=engine)
    with on_core(PROXY_CORE):
        gateway = GatewayProcess(GatewaySpec(port=0, models=(route,)))
        gateway.start()
    try:
        yield gateway.url, gateway.pid
    finally:
        gateway.stop()


@contextlib.contextmanager
def litellm(python: Path, port: int, work: Path) -> Iterator[tuple[str, int]]:
    """URL and process id of LiteLLM's proxy: one worker, no database, no callbacks, errors alone in its log."""
    config = work / "litellm.json"
    params = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{port}/v1", "api_key": "none"}
    settings = {"num_retries": 0, "telemetry": False}
    models = [{"model_name": MODEL, "litellm_params": params}]
    config.write_text(json.dumps({"model_list": models, "litellm_settings": settings}), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = free.getsockname()[1]
    env = os.environ | {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "NO_PROXY": "127.0.0.1",
    }
    env.pop("PYTHONPATH", None)
    command = [str(python), "-m", "litellm.proxy.proxy_cli", "--config", str(config), "--num_workers", "1"]
    log = work / "litellm.log"
    with on_core(PROXY_CORE), log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(own)], env=env, stdout=out, stderr=out, cwd=work
        )
    try:
        wait_for(own, process, log)
        yield f"http://127.0.0.1:{own}", process.pid
    finally:
        process.terminate()
        process.wait(30)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it listens; raises `RuntimeError` with its log if it ends first or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the proxy does not listen: {log.read_text('utf-8', 'replace')[-2000:]}")


def cell(proxy: dict[str, Any], args: argparse.Namespace, *, stream: bool) -> dict[str, float]:
    """One proxy, whole or streamed: what a request takes of its core, and what it adds to one."""
    job = {"url": proxy["url"], "stream": stream, "connections": args.connections, "requests": args.requests}
    before = {name: cpu_seconds(proxy[name]) for name in ("pid", "upstream_pid")}
    wall = load("burst", job)["seconds"]
    spent = {name: cpu_seconds(proxy[name]) - value for name, value in before.items()}
    slow = {"stream": stream, "rate": args.rate, "requests": args.paced}
    through = load("paced", slow | {"url": proxy["url"]})["seconds"]
    direct = load(proxy["direct"], slow | {"url": proxy["upstream_url"]})["seconds"]
    return {
        "requests_per_core_second": args.requests / spent["pid"],
        "cpu_seconds_per_request": spent["pid"] / args.requests,
        "upstream_cpu_seconds_per_request": spent["upstream_pid"] / args.requests,
        "requests_per_second": args.requests / wall,
        "core_busy": spent["pid"] / wall,
        "latency_p50": quantile(through, 0.5),
        "latency_p99": quantile(through, 0.99),
        "direct_p50": quantile(direct, 0.5),
        "added_p50": quantile(through, 0.5) - quantile(direct, 0.5),
    }


def measure(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """All cells, in turns."""
    rows = []
    with contextlib.ExitStack() as stack:
        grpc_port, grpc_pid = stack.enter_context(upstream("grpc"))
        sse_port, sse_pid = stack.enter_context(upstream("sse"))
        our_url, our_pid = stack.enter_context(ours(args.engine.resolve(), grpc_port))
        their_url, their_pid = stack.enter_context(litellm(args.litellm_python, sse_port, work))
        direct = {"upstream_url": f"127.0.0.1:{grpc_port}", "upstream_pid": grpc_pid, "direct": "paced_grpc"}
        proxies = {"throughline": {"url": our_url, "pid": our_pid, **direct}}
        direct = {"upstream_url": f"http://127.0.0.1:{sse_port}", "upstream_pid": sse_pid, "direct": "paced"}
        proxies["litellm"] = {"url": their_url, "pid": their_pid, **direct}
        for proxy in proxies.values():
            for stream in (False, True):
                load("burst", {"url": proxy["url"], "stream": stream, "connections": 8, "requests": 100})
        for repeat in range(args.repeats):
            for stream in (False, True):
                for name in proxies if repeat % 2 == 0 else reversed(proxies):
                    row = {"repeat": repeat, "proxy": name, "stream": stream}
                    row |= cell(proxies[name], args, stream=stream)
                    rows.append(row)
                    shown = {key: round(value, 5) for key, value in row.items() if isinstance(value, float)}
                    print(f"repeat {repeat + 1}  {name:12} {'stream' if stream else 'whole':7} {shown}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By kind of answer: figures of both, and the ratio of requests a second and core, round by round."""
    found: dict[str, Any] = {}
    keys = ("requests_per_core_second", "requests_per_second", "latency_p50", "direct_p50", "added_p50")
    for stream in (False, True):
        cells = {
            name: [row for row in rows if (row["proxy"], row["stream"]) == (name, stream)]
            for name in ("throughline", "litellm")
        }
        each = {name: {key: spread([row[key] for row in part]) for key in keys} for name, part in cells.items()}
        pairs = zip(cells["throughline"], cells["litellm"], strict=True)
        ratio = spread([a["requests_per_core_second"] / b["requests_per_core_second"] for a, b in pairs])
        found["stream" if stream else "whole"] = {"ratio": ratio, **each}
    return found


def main() -> None:
    """Measures and writes JSON; as a child, makes the load."""
    if sys.argv[1:2] == ["--child"]:
        os.sched_setaffinity(0, {OTHER_CORE})
        kinds = {"burst": burst, "paced": paced, "paced_grpc": paced_grpc}
        json.dump(asyncio.run(kinds[sys.argv[2]](json.load(sys.stdin))), sys.stdout)
        return
    parser = command_line(__doc__, "gateway_peers")
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine: its tokenizer and template")
    parser.add_argument("--litellm-python", type=Path, required=True, help="interpreter with litellm[proxy]")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--requests", type=int, default=250, help="of a burst")
    parser.add_argument("--rate", type=float, default=25.0, help="requests a second of the paced load")
    parser.add_argument("--paced", type=int, default=50, help="requests of the paced load")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    version = [str(args.litellm_python), "-c", "from importlib.metadata import version; print(version('litellm'))"]
    seen = subprocess.run(version, check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as work:
        rows = measure(args, Path(work))
    facts = {"command": " ".join(["python", *sys.argv]), "litellm": seen, "cores": os.cpu_count()}
    values = facts | {"summary": summary(rows), "rows": rows}
    print(json.dumps(values["summary"], indent=1))
    write(args.out, values)


if __name__ == "__main__":
    main()
