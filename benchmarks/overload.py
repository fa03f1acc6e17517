"""What the gateway does at three times its capacity: goodput, how fast it refuses, first tokens of what it admits.

python benchmarks/overload.py --engine artifacts/engine/<digest> --slo-seconds 2 --repeats 2

A closed loop with more and more users finds the peak of goodput, which counts requests that ended with their first
token within the SLO. The gateway's `limits.max_concurrent_requests` is then the fewest users with 95 % of it, as
docs/serving.md says to choose it, and requests arrive by a Poisson process at `--factor` times the most requests a
second that ended, whatever becomes of them. The closed loop at the limit is repeated after it, since machines drift;
nothing of the first `--warm-seconds` of a loop counts as goodput. Nobody tries again. Prompts are random token ids, so
that no cache helps. Engine, Triton and gateway share the machine's cores with the load generator, a process of its
own, which goes first where it may (root), since it stands for other machines. Times to refusal: at the client from
before sending to the whole answer, and in the gateway from its log.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from http_load import Answer, Client, quantile
from results_file import command_line, spread, write

ROOT = Path(__file__).resolve().parents[1]
MODEL = "overload"
# Of the peak: beyond it more requests at a time only make every first token later.
KNEE = 0.95
PRIORITY = -5
SUMMARY = (
    *("of_peak", "of_closed_after", "admitted_in_slo", "admitted_ttft_p99"),
    *("refusal_p99", "refusal_in_gateway_p99"),
)
Job = dict[str, Any]


def payloads(client: Client, job: Job, count: int) -> list[bytes]:
    """Streamed completions of random ids; the first 100 of a vocabulary may be control tokens."""
    draw = random.Random(job["seed"])
    found = []
    for _ in range(count):
        length = draw.randint(job["prompt_tokens"] // 2, job["prompt_tokens"] * 3 // 2)
        body = {
            "model": MODEL,
            "prompt": [draw.randrange(100, job["vocab"]) for _ in range(length)],
            "max_tokens": draw.randint(job["output_tokens"] // 2, job["output_tokens"] * 3 // 2),
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
        }
        found.append(client.payload("/v1/completions", json.dumps(body).encode()))
    return found


async def closed_loop(client: Client, job: Job) -> list[Answer]:
    """`users` who each ask again as soon as their answer has ended."""
    end = time.monotonic() + job["seconds"]
    ready = iter(payloads(client, job, job["users"] * 400))
    answers: list[Answer] = []

    async def user() -> None:
        while time.monotonic() < end:
            answers.append(await client.ask(next(ready)))

    await asyncio.gather(*(user() for _ in range(job["users"])))
    return answers


async def open_loop(client: Client, job: Job) -> list[Answer]:
    """Poisson arrivals at `rate` a second, on time whatever becomes of earlier ones."""
    draw = random.Random(job["seed"] + 1)
    ready = payloads(client, job, round(job["rate"] * job["seconds"] * 1.5) + 100)
    answers: list[Answer] = []
    tasks = []

    async def one(payload: bytes) -> None:
        answers.append(await client.ask(payload))

    at = begun = time.monotonic()
    for payload in ready:
        at += draw.expovariate(job["rate"])
        if at > begun + job["seconds"]:
            break
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        tasks.append(asyncio.create_task(one(payload)))
    await asyncio.gather(*tasks)
    return answers


async def generate(job: Job) -> dict[str, Any]:
    """The load generator's process."""
    import gc

    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    client = Client(job["url"])
    await client.open(job.get("users", 32))
    gc.freeze()
    begun = time.monotonic()
    answers = await (open_loop if "rate" in job else closed_loop)(client, job)
    client.close()
    times = psutil.Process().cpu_times()
    return {
        "begun": begun,
        "cpu_seconds": times.user + times.system,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "answers": [item.values() for item in answers],
    }


def run(job: Job) -> dict[str, Any]:
    """Runs the generator as a child and returns what it saw."""
    done = subprocess.run(
        [sys.executable, __file__, "--child"], input=json.dumps(job), check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    found["answers"] = [Answer(**item) for item in found["answers"]]
    return found


def goodput(answers: list[Answer], begin: float, end: float, slo: float) -> tuple[float, float]:
    """Requests a second that ended within the window, and those of them whose first token was in time."""
    ended = [item for item in answers if item.status == 200 and item.whole and begin <= item.last < end]
    good = [item for item in ended if item.first - item.sent <= slo]
    return len(ended) / (end - begin), len(good) / (end - begin)


def closed_row(job: Job, warm: float, slo: float) -> dict[str, Any]:
    """One step of the ladder; the first `warm` seconds do not count."""
    found = run(job)
    answers = found["answers"]
    begin, end = found["begun"] + warm, found["begun"] + job["seconds"]
    ended, good = goodput(answers, begin, end, slo)
    first = [item.first - item.sent for item in answers if item.status == 200 and item.sent >= begin]
    failed = sum(item.status != 200 for item in answers)
    return {
        "users": job["users"],
        "requests_per_second": ended,
        "goodput_per_second": good,
        "ttft_p50": quantile(first, 0.5),
        "ttft_p99": quantile(first, 0.99),
        "failed": failed,
    }


def refused_in_gateway(log: Path) -> list[float]:
    """Seconds that each refusal took there, from the gateway's JSON log."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines() if '"status"' in line]
    return [line["seconds"] for line in lines if line["status"] in (429, 503)]


def open_row(job: Job, warm: float, slo: float, log: Path) -> dict[str, Any]:
    """One overload; goodput leaves out as much of its beginning as the closed loop's, the other figures nothing."""
    found = run(job)
    answers = found["answers"]
    _, good = goodput(answers, found["begun"] + warm, found["begun"] + job["seconds"], slo)
    refused = [item.last - item.sent for item in answers if item.status in (429, 503)]
    first = [item.first - item.sent for item in answers if item.status == 200]
    inside = refused_in_gateway(log)
    return {
        "arrived": len(answers),
        "arrived_per_second": len(answers) / job["seconds"],
        "admitted": len(first),
        "refused": len(refused),
        "other": sum(item.status not in (200, 429, 503) or (item.status == 200 and not item.whole) for item in answers),
        "goodput_per_second": good,
        "admitted_ttft_p50": quantile(first, 0.5),
        "admitted_ttft_p99": quantile(first, 0.99),
        "admitted_ttft_most": max(first, default=float("nan")),
        "admitted_in_slo": sum(value <= slo for value in first) / max(1, len(first)),
        "refusal_p50": quantile(refused, 0.5),
        "refusal_p99": quantile(refused, 0.99),
        "refusal_most": max(refused, default=float("nan")),
        "refusal_in_gateway_p50": quantile(inside, 0.5),
        "refusal_in_gateway_p99": quantile(inside, 0.99),
        "generator_cpu_seconds": found["cpu_seconds"],
        "generator_nice": found["nice"],
    }


def measure(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The ladder, then the overloads, each repeat with servers of its own."""
    from throughline.contracts.engine import EngineInfo
    from throughline.contracts.gateway import GatewayLimits, GatewaySpec, ModelRoute
    from throughline.contracts.serving import ServeSpec
    from throughline.gateway import GatewayProcess
    from throughline.triton import repository
    from throughline.triton.server import TritonServer

    engine = args.engine.resolve()
    common = {
        "vocab": EngineInfo.read(engine).vocab_size,
        "prompt_tokens": args.prompt_tokens,
        "output_tokens": args.output_tokens,
    }
    spec = ServeSpec()
    repository.render(work / "repository", MODEL, engine, spec)
    repeats = []
    for repeat in range(args.repeats):
        with TritonServer(work / "repository", [MODEL], spec, run_dir=work / "run") as server:
            route = ModelRoute(id=MODEL, upstream=server.grpc_url, triton_model=MODEL, engine_dir=engine)

            def gateway(limits: GatewayLimits, log: Path, route: ModelRoute = route) -> GatewayProcess:
                settings = GatewaySpec(port=0, models=(route,), limits=limits, log_format="json")
                return GatewayProcess(settings, log_path=log)

            ladder = []
            with gateway(GatewayLimits(), work / "closed.log") as open_gateway:
                for users in args.users:
                    job = common | {"url": open_gateway.url, "users": users, "seed": repeat * 1000 + users}
                    row = closed_row(job | {"seconds": args.closed_seconds}, args.warm_seconds, args.slo_seconds)
                    ladder.append(row)
                    show(f"repeat {repeat + 1}, closed loop", row)
            peak = max(row["goodput_per_second"] for row in ladder)
            chosen = next(row for row in ladder if row["goodput_per_second"] >= KNEE * peak)
            limits = GatewayLimits(max_concurrent_requests=chosen["users"])
            log = work / f"open-{repeat}.log"
            with gateway(limits, log) as limited:
                capacity = max(row["requests_per_second"] for row in ladder)
                rate = args.factor * capacity
                job = common | {"url": limited.url, "rate": rate, "seed": repeat * 1000 + 999}
                row = open_row(job | {"seconds": args.seconds}, args.warm_seconds, args.slo_seconds, log)
                job = common | {"url": limited.url, "users": chosen["users"], "seed": repeat * 1000 + 998}
                again = closed_row(job | {"seconds": args.closed_seconds}, args.warm_seconds, args.slo_seconds)
            show(f"repeat {repeat + 1}, closed loop after it", again)
            row["of_closed_after"] = row["goodput_per_second"] / again["goodput_per_second"]
            row["of_peak"] = row["goodput_per_second"] / peak
            show(f"repeat {repeat + 1}, {args.factor:g} x {capacity:.2f}/s, limit {chosen['users']}", row)
            repeats.append({"ladder": ladder, "limit": chosen["users"], "overload": row, "after": again})
    return {"repeats": repeats}


def show(title: str, row: dict[str, Any]) -> None:
    """One line a measurement."""
    print(title, {key: round(value, 4) for key, value in row.items()}, flush=True)


def main() -> None:
    """Measures and writes JSON; as a child, makes the load."""
    if sys.argv[1:] == ["--child"]:
        json.dump(asyncio.run(generate(json.load(sys.stdin))), sys.stdout)
        return
    parser = command_line(__doc__, "overload")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--users", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--closed-seconds", type=float, default=35.0, help="of each step of the ladder")
    parser.add_argument("--warm-seconds", type=float, default=5.0, help="of them that do not count")
    parser.add_argument("--factor", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--slo-seconds", type=float, default=2.0, help="to the first token")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="in the mean; from half to one and a half of it")
    parser.add_argument("--output-tokens", type=int, default=16, help="likewise")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="keeps the repeats that the file has already")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = measure(args, Path(work))
    if args.add and args.out.is_file():
        found["repeats"] = json.loads(args.out.read_text("utf-8"))["repeats"] + found["repeats"]
    rows = [item["overload"] for item in found["repeats"]]
    summary = {
        key: spread(values)
        for key in (
            "of_peak",
            "of_closed_after",
            "refusal_p99",
            "refusal_in_gateway_p99",
            "admitted_ttft_p99",
            "admitted_in_slo",
        )
        if (values := [row[key] for row in rows])
    }
    facts = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), "slo_seconds": args.slo_seconds}
    print(json.dumps(summary, indent=1))
    write(args.out, facts | {"summary": summary} | found)


if __name__ == "__main__":
    main()
