"""Where a streamed token spends its time between the engine and a client, and what each process takes of the cores.

python benchmarks/serving_hops.py --engine artifacts/engine/<digest> --users 32 --rounds 3

The raw engine alone, the engine through Triton, and through Triton and the gateway take turns, each asked by users who
send one request after the other with random token ids, so that no cache helps. The engine says when a request came and
when each token was there (`return_perf_metrics`); clients note when messages come; all clocks are this machine's
monotonic one. The client is one asyncio process, so that its own lateness is in the figures of both layers alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from throughline.contracts.engine import SamplingParams
from throughline.contracts.gateway import GatewayLimits, GatewaySpec, ModelRoute
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
    while runtime.has_work():
        outputs = runtime.step()
        now = time.monotonic()
        for output in outputs:
            if output.token_ids:
                found[output.request_id].came.append(now)
                found[output.request_id].tokens.append(len(output.token_ids))
            if output.finish_reason is not None:
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

        async def user() -> None:
            while waiting:
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

        await asyncio.gather(*(user() for _ in range(job["users"])))
    return found


async def through_gateway(url: str, job: dict[str, Any]) -> list[Seen]:
    """Text completions of the same ids over server-sent events."""
    waiting = list(job["prompts"])
    found: list[Seen] = []
    limits = httpx.Limits(max_connections=job["users"], max_keepalive_connections=job["users"])
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def user() -> None:
            while waiting:
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

        await asyncio.gather(*(user() for _ in range(job["users"])))
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
    first = [item.came[0] - item.sent for item in seen]
    gaps = [b - a for item in seen for a, b in zip(item.came, item.came[1:], strict=False)]
    late = [came - made for item in seen for came, made in zip(item.came, item.made, strict=False)]
    wall = max(item.came[-1] for item in seen) - min(item.sent for item in seen)
    found = {
        "tokens_per_second": tokens * len(seen) / wall,
        "ttft_p50": quantile(first, 0.5),
        "ttft_p95": quantile(first, 0.95),
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
                job = {
                    "engine": str(engine),
                    "users": users,
                    "tokens": args.output_tokens,
                    "prompts": prompts(users * args.requests, args.prompt_tokens, vocab, seed),
                }
                if layer == "raw":
                    found = one_cell(layer, job, None, None)
                else:
                    with TritonServer(work / "repository", [MODEL], spec, run_dir=work / "run") as server:
                        route = ModelRoute(id=MODEL, upstream=server.grpc_url, triton_model=MODEL, engine_dir=engine)
                        limits = GatewayLimits(max_concurrent_tokens=2**31, max_concurrent_requests=1024)
                        with GatewayProcess(GatewaySpec(port=0, models=(route,), limits=limits)) as gateway:
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--users", type=int, nargs="+", default=[32])
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--requests", type=int, default=2, help="of each user")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=120)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serving_hops.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = measure(args, Path(work))
    ratios = {}
    for users in args.users:
        cell = {layer: [r for r in rows if (r["users"], r["layer"]) == (users, layer)] for layer in args.layers}
        for layer in args.layers[1:]:
            pairs = zip(cell[layer], cell[args.layers[0]], strict=True)
            values = [over["tokens_per_second"] / under["tokens_per_second"] for over, under in pairs]
            ratios[f"{users} users: {layer} / {args.layers[0]}"] = {
                "median": statistics.median(values),
                "least": min(values),
                "most": max(values),
            }
    for name, ratio in ratios.items():
        print(f"{name}, tokens/s: {ratio['median']:.3f} [{ratio['least']:.3f}, {ratio['most']:.3f}]")
    values = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), "ratios": ratios, "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
