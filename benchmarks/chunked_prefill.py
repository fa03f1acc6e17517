"""What the token budget of a step (`engine.max_num_tokens`) costs running streams and new requests.

python benchmarks/chunked_prefill.py --engine artifacts/engine/<digest> --budgets 64 128 256 512 1024

The raw engine, with 32 users who send one request after the other. A step prefills as much of the waiting prompts as
fits beside the running sequences, and those wait for it: a small budget bounds the time between two tokens, a large one
reads the weights less often for the same prompts. Budgets take turns; block reuse is off, so that no prompt is cached.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.progress import Progress

from throughline.contracts.engine import SamplingParams

ROOT = Path(__file__).resolve().parents[1]


def serve(job: dict[str, Any]) -> dict[str, float]:
    """Runs all requests of one cell in this process and returns its figures in seconds."""
    from throughline import engines

    runtime = engines.load(Path(job["engine"]), max_num_tokens=job["budget"], enable_block_reuse=False)
    draw = random.Random(job["seed"])
    vocab = runtime.info.vocab_size
    left = job["users"] * job["requests"]
    sent: dict[str, float] = {}
    came: dict[str, list[float]] = {}

    def submit() -> None:
        nonlocal left
        if left:
            left -= 1
            name = str(left)
            # The first ids of a vocabulary may be control tokens.
            prompt = [draw.randrange(100, vocab) for _ in range(job["prompt_tokens"])]
            sent[name], came[name] = time.monotonic(), []
            runtime.submit(name, prompt, SamplingParams(max_tokens=job["output_tokens"], ignore_eos=True))

    begun = time.monotonic()
    for _ in range(job["users"]):
        submit()
    steps: list[float] = []
    while runtime.has_work():
        before = time.monotonic()
        outputs = runtime.step()
        now = time.monotonic()
        steps.append(now - before)
        for output in outputs:
            came[output.request_id] += [now] * len(output.token_ids)
            if output.finish_reason is not None:
                submit()
    wall = time.monotonic() - begun
    runtime.close()
    gaps = [b - a for times in came.values() for a, b in itertools.pairwise(times)]
    first = [came[name][0] - sent[name] for name in sent]
    return {
        "tokens_per_second": sum(map(len, came.values())) / wall,
        "itl_p50": quantile(gaps, 0.5),
        "itl_p90": quantile(gaps, 0.9),
        "itl_p99": quantile(gaps, 0.99),
        "step_max": max(steps),
        "ttft_p50": quantile(first, 0.5),
        "ttft_p95": quantile(first, 0.95),
    }


def quantile(values: list[float], share: float) -> float:
    """The value at a share of the sorted values, nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Measures, prints a table and writes JSON; as a child, runs one cell."""
    if sys.argv[1:] == ["--child"]:
        print(json.dumps(serve(json.load(sys.stdin))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--budgets", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="of each user")
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "chunked_prefill.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        task = progress.add_task("cells", total=args.repeats * len(args.budgets))
        for round_ in range(args.repeats):
            for budget in args.budgets if round_ % 2 == 0 else list(reversed(args.budgets)):
                job = {"engine": str(args.engine.resolve()), "budget": budget, "seed": round_, "users": args.users}
                job |= {"requests": args.requests, "prompt_tokens": args.prompt_tokens}
                job |= {"output_tokens": args.output_tokens}
                done = subprocess.run(
                    [sys.executable, __file__, "--child"],
                    input=json.dumps(job),
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                rows.append({"round": round_, "budget": budget, **json.loads(done.stdout.splitlines()[-1])})
                progress.advance(task)
    names = [name for name in rows[0] if name not in ("round", "budget")]
    print("budget  " + "  ".join(f"{name:>24}" for name in names))
    for budget in args.budgets:
        cells = []
        for name in names:
            values = sorted(row[name] for row in rows if row["budget"] == budget)
            cells.append(f"{statistics.median(values):8.3f} [{values[0]:.3f}, {values[-1]:.3f}]")
        print(f"{budget:>6}  " + "  ".join(f"{cell:>24}" for cell in cells))
    values = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), "rows": rows}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
