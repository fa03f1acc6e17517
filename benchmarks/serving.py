"""Where a streamed token spends its time between the engine and a client, and what each process takes of the cores.

python benchmarks/serving.py --engine artifacts/engine/<digest> --users 1 8 32 128 --rounds 5

The raw engine alone, the engine through Triton, and through Triton and the gateway take turns, each asked by users who
send one request after the other with random token ids, so that no cache helps. The engine says when a request came and
when each token was there (`return_perf_metrics`); clients note when messages come; all clocks are this machine's
monotonic one. The client is one asyncio process, so that its own lateness is in the figures of both layers alike.

A cell of 0 users is paced: one request every `--pace` seconds, whether the last one has ended or not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from results_file import command_line, spread, write

from throughline.contracts.engine import SamplingParams
from throughline.contracts.gateway import GatewayLimits, GatewaySpec, GatewayTimeouts, ModelRoute
from throughline.contracts.serving import ServeSpec
from throughline.gateway import GatewayProcess
from throughline.gateway.upstream import infer_request
from throughline.triton import repository
from throughline.triton.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
MODEL = "hops"
LAYERS = ("raw", "triton", "gateway")


@dataclass
class Seen:
    """One request: seconds of the monotonic clock.

    Attributes:
        sent: Before it was sent.
        came: When each message came.
        tokens: Tokens of each message.
        made: When the newest token of each message was there, as the engine says.
        arrived: When the request was at the engine, as it says.
        first: When its first token was there, as it says.
    """

    sent: float
    came: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    made: list[float] = field(default_factory=list)
    arrived: float = 0.0
    first: float = 0.0


def prompts(count: int, length: int, vocab: int, seed: int) -> list[list[int]]:
    """Random ids; the first 100 of a vocabulary may be control tokens."""
    draw = random.Random(seed)
    return [[draw.randrange(100, vocab) for _ in range(length)] for _ in range(count)]


def raw(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The engine alone in this process, with `users` requests in it as long as there are any."""
    from throughline import engines

    runtime = engines.load(Path(job["engine"]))
    waiting = list(enumerate(job["prompts"]))
    found: dict[str, Seen] = {}

    def submit() -> None:
        if waiting:
            number, ids = waiting.pop(0)
            found[str(number)] = Seen(time.monotonic())
            runtime.submit(str(number), ids, SamplingParams(max_tokens=job["tokens"], ignore_eos=True))

    for _ in range(job["users"]):
        submit()
    begun = time.monotonic()
    while runtime.has_work() or waiting:
        if not job["users"]:
            late = time.monotonic() - begun - len(found) * job["pace"]
            if waiting and late >= 0:
                submit()
            elif not runtime.has_work():
                time.sleep(-late)
                continue
        outputs = runtime.step()
        now = time.monotonic()
        for output in outputs:
            if output.token_ids:
                found[output.request_id].came.append(now)
                found[output.request_id].tokens.append(len(output.token_ids))
            if output.finish_reason is not None and job["users"]:
                submit()
    runtime.close()
    return [vars(seen) for seen in found.values()]


async def through_triton(url: str, job: dict[str, Any]) -> list[Seen]:
    """As our gateway asks: one call of ModelStreamInfer a request."""
    from grpc import aio
    from tritonclient.grpc import service_pb2_grpc

    waiting = list(job["prompts"])
    found: list[Seen] = []
    params = SamplingParams(max_tokens=job["tokens"], ignore_eos=True)
    async with aio.insecure_channel(url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def one() -> None:
            request = infer_request(MODEL, "", waiting.pop(0), params, stream=True)
            seen = Seen(time.monotonic())
            found.append(seen)
            call = stub.ModelStreamInfer()
            await call.write(request)
            await call.done_writing()
            async for message in call:
                now = time.monotonic()
                if message.error_message:
                    raise RuntimeError(message.error_message)
                outputs = message.infer_response.outputs
                raws = message.infer_response.raw_output_contents
                values = {output.name: raw for output, raw in zip(outputs, raws, strict=True)}
                if not values:
                    continue
                seen.came.append(now)
                seen.tokens.append(len(values["output_ids"]) // 4)
                seen.made.append(int.from_bytes(values["last_token_time_ns"], "little") / 1e9)
                seen.arrived = int.from_bytes(values["arrival_time_ns"], "little") / 1e9
                seen.first = int.from_bytes(values["first_token_time_ns"], "little") / 1e9

        await everyone(job, one)
    return found


async def everyone(job: dict[str, Any], one: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Asks all prompts: by users who wait for their answers, or one every `pace` seconds."""
    count = len(job["prompts"])
    left = iter(range(count))

    async def user() -> None:
        for _ in left:
            await one()

    if job["users"]:
        await asyncio.gather(*(user() for _ in range(job["users"])))
        return
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, begun + number * job["pace"] - time.monotonic()))
            group.create_task(one())


async def through_gateway(url: str, job: dict[str, Any]) -> list[Seen]:
    """Text completions of the same ids over server-sent events."""
    waiting = list(job["prompts"])
    found: list[Seen] = []
    most = max(job["users"], 64)
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def one() -> None:
            body = {"model": MODEL, "prompt": waiting.pop(0), "max_tokens": job["tokens"], "temperature": 0}
            body |= {"stream": True, "ignore_eos": True}
            seen = Seen(time.monotonic())
            found.append(seen)
            async with client.stream("POST", "/v1/completions", json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    if line.startswith('data: {"id"') and '"text":' in line:
                        seen.came.append(time.monotonic())
                        seen.tokens.append(1)

        await everyone(job, one)
    return found


def cpu_seconds(pids: dict[str, list[int]]) -> dict[str, float]:
    """User and system time so far, by name."""
    found = {}
    for name, group in pids.items():
        times = [psutil.Process(pid).cpu_times() for pid in group]
        found[name] = sum(item.user + item.system for item in times)
    return found


def histogram_means(text: str) -> dict[str, tuple[float, float]]:
    """Sum and count of the gateway's histograms of first tokens, by name."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        base = name.partition("{")[0]
        for ending, place in (("_sum", 0), ("_count", 1)):
            if base.endswith(f"time_to_first_token_seconds{ending}") and not base.startswith("gen_ai"):
                found.setdefault(base.removesuffix(ending), [0.0, 0.0])[place] = float(value)
    return {name: (total, count) for name, (total, count) in found.items()}


def quantile(values: list[float], share: float) -> float:
    """The value at a share of the sorted values, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def summary(seen: list[Seen], tokens: int) -> dict[str, float]:
    """Figures of one cell, seconds; `late` is from a token's being there to its message's coming."""
    unanswered = sum(not item.came for item in seen)
    if unanswered:
        raise SystemExit(f"{unanswered} of {len(seen)} requests got no token: nothing to compare")
    first = [item.came[0] - item.sent for item in seen]
    gaps = [b - a for item in seen for a, b in itertools.pairwise(item.came)]
    late = [came - made for item in seen for came, made in zip(item.came, item.made, strict=False)]
    wall = max(item.came[-1] for item in seen) - min(item.sent for item in seen)
    found = {
        "tokens_per_second": tokens * len(seen) / wall,
        "ttft_p50": quantile(first, 0.5),
        "ttft_p95": quantile(first, 0.95),
        "ttft_p99": quantile(first, 0.99),
        "itl_p50": quantile(gaps, 0.5),
        "itl_p90": quantile(gaps, 0.9),
        "messages_a_token": sum(len(item.came) for item in seen) / (tokens * len(seen)),
    }
    if late:
        found |= {f"late_p{round(share * 100)}": quantile(late, share) for share in (0.5, 0.9, 0.99)}
        found["to_engine_p50"] = quantile([item.arrived - item.sent for item in seen], 0.5)
        found["to_engine_p95"] = quantile([item.arrived - item.sent for item in seen], 0.95)
        found["in_engine_p50"] = quantile([item.first - item.arrived for item in seen], 0.5)
        found["in_engine_p95"] = quantile([item.first - item.arrived for item in seen], 0.95)
    return found


def one_cell(
    layer: str, job: dict[str, Any], server: TritonServer | None, gateway: GatewayProcess | None
) -> dict[str, Any]:
    """Runs a layer once."""
    if layer == "raw":
        done = subprocess.run(
            [sys.executable, __file__, "--child"], input=json.dumps(job), check=True, capture_output=True, text=True
        )
        return summary([Seen(**item) for item in json.loads(done.stdout.splitlines()[-1])], job["tokens"])
    if server is None or gateway is None:
        raise RuntimeError("no server")
    stubs = server.stub_pids(MODEL)
    engines = [child.pid for stub in stubs for child in psutil.Process(stub).children()]
    pids = {"triton": [server.pid], "stub": stubs, "engine": engines}
    pids |= {"gateway": [gateway.pid], "client": [os.getpid()]}
    before, page = cpu_seconds(pids), histogram_means(httpx.get(f"{gateway.url}/metrics").text)
    if layer == "triton":
        seen = asyncio.run(through_triton(server.grpc_url, job))
    else:
        seen = asyncio.run(through_gateway(gateway.url, job))
    after = cpu_seconds(pids)
    found: dict[str, Any] = summary(seen, job["tokens"])
    total = job["tokens"] * len(seen)
    found["cpu_us_a_token"] = {name: (after[name] - before[name]) / total * 1e6 for name in pids}
    if layer == "gateway":
        now = histogram_means(httpx.get(f"{gateway.url}/metrics").text)
        found["gateway_means"] = {
            name: (now[name][0] - page.get(name, (0, 0))[0]) / max(1, now[name][1] - page.get(name, (0, 0))[1])
            for name in now
        }
        found["client_ttft_mean"] = statistics.fmean(item.came[0] - item.sent for item in seen)
    return found


def measure(args: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """All cells, in turns."""
    from throughline.contracts.engine import EngineInfo

    engine = args.engine.resolve()
    vocab = EngineInfo.read(engine).vocab_size
    spec = ServeSpec()
    repository.render(work / "repository", MODEL, engine, spec)
    rows: list[dict[str, Any]] = []
    for round_ in range(args.rounds):
        for users in args.users:
            for layer in args.layers if round_ % 2 == 0 else list(reversed(args.layers)):
                seed = round_ * 1000 + users
                count = max(args.least, users * args.requests) if users else args.paced
                prompt, output = (args.prompt_tokens, args.output_tokens) if users else args.paced_tokens
                job = {
                    "engine": str(engine),
                    "users": users,
                    "pace": args.pace,
                    "tokens": output,
                    "prompts": prompts(count, prompt, vocab, seed),
                }
                if layer == "raw":
                    found = one_cell(layer, job, None, None)
                else:
                    with TritonServer(work / "repository", [MODEL], spec, run_dir=work / "run") as server:
                        route = ModelRoute(id=MODEL, upstream=server.grpc_url, triton_model=MODEL, engine_dir=engine)
                        limits = GatewayLimits(max_concurrent_tokens=2**31, max_concurrent_requests=1024)
                        # 128 users wait for their first token longer than the gateway lets anybody wait.
                        timeouts = GatewayTimeouts(first_token_seconds=600, inter_token_seconds=600, total_seconds=1200)
                        asked = GatewaySpec(port=0, models=(route,), limits=limits, timeouts=timeouts)
                        with GatewayProcess(asked) as gateway:
                            found = one_cell(layer, job, server, gateway)
                rows.append({"round": round_, "users": users, "layer": layer, **found})
                shown = {k: round(v, 4) for k, v in found.items() if isinstance(v, float)}
                print(f"round {round_ + 1}  {users:>3} users  {layer:8} {shown}", flush=True)
                for name in ("cpu_us_a_token", "gateway_means", "client_ttft_mean"):
                    if name in found:
                        print(f"    {name}: {found[name]}", flush=True)
    return rows


def main() -> None:
    """Measures and writes JSON; as a child, runs the raw engine."""
    if sys.argv[1:] == ["--child"]:
        print(json.dumps(raw(json.load(sys.stdin))))
        return
    parser = command_line(__doc__, "serving")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--users", type=int, nargs="+", default=[0, 1, 8, 32, 128])
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--requests", type=int, default=2, help="of each user")
    parser.add_argument("--least", type=int, default=16, help="requests of a cell")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=120)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--paced", type=int, default=60, help="requests of a paced cell")
    parser.add_argument("--paced-tokens", type=int, nargs=2, default=[16, 8], help="of its prompts and answers")
    parser.add_argument("--pace", type=float, default=0.5, help="seconds between two of its requests")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = measure(args, Path(work))
    compared = compare(rows, args.users, args.layers)
    for line in compared:
        print(
            f"{line['users'] or 'paced':>5} users  {line['layer']:8}"
            + "".join(
                f"  {name} {value['median']:.4g} [{value['least']:.4g}, {value['most']:.4g}]"
                for name, value in line.items()
                if isinstance(value, dict)
            )
        )
    values = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), "compared": compared, "rows": rows}
    write(args.out, values)


def compare(rows: list[dict[str, Any]], users: list[int], layers: list[str]) -> list[dict[str, Any]]:
    """Each layer against the first one of the same round: ratios of rates and gaps, differences of first tokens."""
    found = []
    for count, layer in itertools.product(users, layers[1:]):
        cell = {name: [r for r in rows if (r["users"], r["layer"]) == (count, name)] for name in (layers[0], layer)}
        pairs = list(zip(cell[layer], cell[layers[0]], strict=True))
        line: dict[str, Any] = {"users": count, "layer": layer}
        for name in ("tokens_per_second", "itl_p90"):
            line[f"{name}_ratio"] = spread([over[name] / under[name] for over, under in pairs])
        for name in ("ttft_p50", "ttft_p99"):
            line[f"{name}_added_ms"] = spread([1000 * (over[name] - under[name]) for over, under in pairs])
        found.append(line)
    return found


if __name__ == "__main__":
    main()
