"""What the load generator adds of its own: its rate's error, its time to a first token, its share of a core.

    python benchmarks/load_generator.py [--rate 60] [--seconds 5] [--repeats 5]
    python benchmarks/load_generator.py --aiperf .stock-clients/aiperf/bin/aiperf --tokenizer artifacts/engine/<digest>

An upstream in a process of its own answers at once (`instant_upstreams.py`), so that what is seen is the client's. In
each round take turns, at one rate: Locust as `recipes.bench` drives it, a client of one blocking socket and nothing
else, and, where it is given, NVIDIA's AIPerf. AIPerf's processor time without its start is that of a long run less
that of a short one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from instant_upstreams import MODEL

from throughline.artifacts.environment import processor_name
from throughline.benchmarking.arrivals import due_times
from throughline.benchmarking.system import usage
from throughline.benchmarking.targets import LocustTarget
from throughline.contracts.benchmark import BenchRequest, Load
from throughline.contracts.workload import ArrivalSpec

HERE = Path(__file__).resolve().parent
PROMPT = "What is a load generator?"
_SHORT = 5


def start_upstream(stack: ExitStack) -> str:
    """Starts the upstream and returns its URL."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, str(HERE / "instant_upstreams.py"), "sse"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    )
    if process.stdout is None or process.stdin is None:
        raise SystemExit("the upstream has no pipes")
    stack.callback(process.stdin.close)
    return f"http://127.0.0.1:{int(process.stdout.readline())}"


def ours(target: LocustTarget, spec: ArrivalSpec, seconds: float, seed: int) -> dict[str, float]:
    """One run of our own generator."""
    due = due_times(spec, seconds, seed)
    if due is None:
        raise SystemExit("a closed loop has no rate")
    messages = [{"role": "user", "content": PROMPT}]
    sessions = [[BenchRequest("instant", messages, [], (), 8)] for _ in due]
    pids = target.processes.generators
    before = usage(pids, children=False, memory=False).cpu_seconds
    records = target.drive(Load(sessions, due=due.tolist(), timeout_seconds=10)).records
    spent = usage(pids, children=False, memory=False).cpu_seconds - before
    failed = [record.error for record in records if not record.ok]
    if failed:
        raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")
    starts = sorted(record.start for record in records)
    rate = (len(starts) - 1) / (starts[-1] - starts[0])
    asked = (len(due) - 1) / float(due[-1] - due[0])
    return {
        "rate_error": abs(rate / asked - 1),
        "late_p99_seconds": quantile([record.start - record.begin for record in records], 0.99),
        "ttft_p50_seconds": statistics.median(record.first_token - record.start for record in records),
        "ttft_from_due_p50_seconds": statistics.median(record.time_to_first_token for record in records),
        "cpu_seconds_per_1000": spent / len(records) * 1000,
    }


def raw_socket(url: str, rate: float, seconds: float) -> dict[str, float]:
    """One run of a client that writes ready bytes and waits for the first event, one request at a time."""
    parts = urlsplit(url)
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    payload = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (parts.netloc.encode(), len(body), body)
    )
    first = []
    before = time.process_time()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        for number in range(round(rate * seconds)):
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
            sent = time.perf_counter()
            connection.sendall(payload)
            seen = b""
            while b'"content"' not in seen:
                seen += connection.recv(2**16)
            first.append(time.perf_counter() - sent)
            while not seen.endswith(b"0\r\n\r\n"):
                seen += connection.recv(2**16)
    spent = time.process_time() - before
    return {"ttft_p50_seconds": statistics.median(first), "cpu_seconds_per_1000": spent / len(first) * 1000}


def aiperf(command: Path, url: str, tokenizer: Path, rate: float, count: int) -> tuple[float, dict[str, Any]]:
    """Runs AIPerf and returns the processor seconds of all its processes, and its report."""
    with tempfile.TemporaryDirectory() as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [
                *(str(command), "profile", "--model", MODEL, "--url", url, "--endpoint-type", "chat", "--streaming"),
                *("--tokenizer", str(tokenizer), "--ui", "none", "--artifact-dir", out, "--random-seed", "5"),
                *("--request-rate", str(rate), "--arrival-pattern", "constant", "--request-count", str(count)),
                *("--isl", "20", "--osl", "8"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=client_environment(command, out),
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        [report] = Path(out).rglob("profile_export_aiperf.json")
        values: dict[str, Any] = json.loads(report.read_text("utf-8"))
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, values


def client_environment(command: Path, home: str) -> dict[str, str]:
    """AIPerf's own packages and none of ours, and no hub."""
    found = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return found | {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": home,
        "HF_ENDPOINT": "http://127.0.0.1:9",
    }


def aiperf_round(command: Path, url: str, tokenizer: Path, rate: float, seconds: float) -> dict[str, float]:
    """One long and one short run of AIPerf."""
    count = round(rate * seconds)
    short, _ = aiperf(command, url, tokenizer, rate, count // _SHORT)
    spent, report = aiperf(command, url, tokenizer, rate, count)
    return {
        "rate_error": abs(report["request_throughput"]["avg"] / rate - 1),
        "ttft_p50_seconds": report["time_to_first_token"]["p50"] / 1000,
        "cpu_seconds": spent,
        "cpu_seconds_per_1000": (spent - short) / (count - count // _SHORT) * 1000,
    }


def quantile(values: list[float], share: float) -> float:
    """The value at a share of the sorted values, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(rounds: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds with their range, and what is asked of the generator."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        found[name] = {
            key: [statistics.median(values), min(values), max(values)]
            for key in rounds[0][name]
            for values in [[each[name][key] for each in rounds]]
        }
    added = [1e3 * (each["ours"]["ttft_p50_seconds"] - each["raw_socket"]["ttft_p50_seconds"]) for each in rounds]
    found["added_ttft_p50_ms"] = [statistics.median(added), min(added), max(added)]
    if "aiperf" in rounds[0]:
        ratios = [each["aiperf"]["cpu_seconds_per_1000"] / each["ours"]["cpu_seconds_per_1000"] for each in rounds]
        found["aiperf_cpu_over_ours"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return found


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--process", choices=["constant", "poisson"], default="poisson")
    parser.add_argument("--aiperf", type=Path, help="the command of AIPerf's environment")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer's folder for AIPerf")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "load_generator.json")
    arguments = parser.parse_args()
    if arguments.aiperf and not arguments.tokenizer:
        parser.error("--aiperf counts tokens: give it a --tokenizer")
    spec = ArrivalSpec(process=arguments.process, requests_per_second=arguments.rate)
    rounds: list[dict[str, dict[str, float]]] = []
    with ExitStack() as stack:
        url = start_upstream(stack)
        target = stack.enter_context(LocustTarget(url, MODEL, ignore_eos=False, timeout_seconds=10))
        # The first run pays for imports and connections.
        ours(target, spec, 1.0, 99)
        for number in range(arguments.repeats):
            found = {
                "ours": ours(target, spec, arguments.seconds, number),
                "raw_socket": raw_socket(url, arguments.rate, arguments.seconds),
            }
            if arguments.aiperf:
                found["aiperf"] = aiperf_round(
                    arguments.aiperf, url, arguments.tokenizer, arguments.rate, arguments.seconds
                )
            rounds.append(found)
            print(f"round {number + 1}: {json.dumps(found)}", flush=True)
    result = {
        "command": " ".join(["python", *sys.argv]),
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "rate": arguments.rate,
        "seconds": arguments.seconds,
        "process": arguments.process,
        "median_least_most": summary(rounds),
        "rounds": rounds,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["median_least_most"], indent=1))


if __name__ == "__main__":
    main()
