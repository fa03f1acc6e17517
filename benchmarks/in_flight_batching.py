"""Shows that batching is in flight: a late short request ends while a long one still runs, on Triton.

    python benchmarks/in_flight_batching.py [--engine DIGEST] [--repeats 5]

Each round starts one long request, waits for its first token, then sends a short one. With static batching the
short one would wait for the long one's end; its latency is given as a share of that wait.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_file import command_line

from recipes import references, service
from throughline.artifacts import ArtifactStore
from throughline.contracts.serving import ServeSpec
from throughline.triton.client import TritonClient

LONG_TOKENS, SHORT_TOKENS = 512, 8
PROMPT = "The scheduler reports that node 7 lost its GPU."


def one_round(url: str, model: str) -> dict[str, float]:
    """Runs one long and one late short request; returns seconds since the long one was sent."""
    seen: dict[str, float] = {}
    started = threading.Event()
    begin = time.perf_counter()

    def long_request() -> None:
        with TritonClient(url) as client:
            options = {"text_input": PROMPT, "max_tokens": LONG_TOKENS, "stream": True, "ignore_eos": True}
            for _ in client.stream(model, options):
                if not started.is_set():
                    seen["long_first"] = time.perf_counter() - begin
                    started.set()
        seen["long_end"] = time.perf_counter() - begin

    thread = threading.Thread(target=long_request)
    thread.start()
    started.wait()
    seen["short_sent"] = time.perf_counter() - begin
    with TritonClient(url) as client:
        client.generate(model, {"text_input": PROMPT, "max_tokens": SHORT_TOKENS, "ignore_eos": True})
    seen["short_end"] = time.perf_counter() - begin
    thread.join()
    return seen


def main() -> int:
    """Runs the comparison and prints one JSON object; returns 1 if the short request ever waited."""
    parser = command_line(__doc__)
    parser.add_argument("--engine", default="promoted", help="digest of an engine artifact, or `promoted`")
    parser.add_argument("--profile", default="laptop", help="the profile that promoted it")
    parser.add_argument("--home", default="artifacts", help="the artifact store")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    store = ArtifactStore(arguments.home)
    engine = references.engine(store, arguments.engine, arguments.profile, key="--engine")
    folder = store.home / "run" / "in-flight"
    folder.mkdir(parents=True, exist_ok=True)
    with service.triton(store, {"bench": engine}, ServeSpec(), folder / "model_repository", folder) as server:
        one_round(server.grpc_url, "bench")
        rounds = [one_round(server.grpc_url, "bench") for _ in range(arguments.repeats)]
    shares = sorted((r["short_end"] - r["short_sent"]) / (r["long_end"] - r["short_sent"]) for r in rounds)
    overtaken = sum(r["short_end"] < r["long_end"] for r in rounds)
    result = {
        "engine": engine.manifest.name,
        "long_tokens": LONG_TOKENS,
        "short_tokens": SHORT_TOKENS,
        "short_ended_first": f"{overtaken} of {len(rounds)}",
        "short_latency_over_static_wait": {"median": shares[len(shares) // 2], "least": shares[0], "most": shares[-1]},
        "rounds": rounds,
    }
    print(json.dumps(result, indent=1))
    return 0 if overtaken == len(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
