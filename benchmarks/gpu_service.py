"""What `recipes.bench`, NVML, the doctor and Nsight Compute say of a service on a GPU, beside what nvidia-smi says.

    python benchmarks/gpu_service.py [--seconds 40] [--out benchmarks/results/gpu_service.json]

The service is `transformers serve`, OpenAI's stream over HTTP and one request after the other, of a decoder with random
weights (`--layers` of Llama 3.2 3B's shape) and a tokenizer that is given: what a token costs does not hang on weights.
It is loaded by one user, by `--users`, and by as many beside matrix products of another process, which take the power:
the doctor compares the last two. `nvidia-smi` is asked every 100 ms as well and is the judge of our NVML readings. Raw
answers of NVML go to `--record` for the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.bench_run import MEASUREMENTS
from throughline.contracts.measurement import Measurement
from throughline.contracts.price import PriceSpec, joules

ROOT = Path(__file__).resolve().parents[1]
PORT = 8123
SMI = ("utilization.gpu", "power.draw.instant", "clocks.sm", "memory.used")
# Of Llama 3.2 3B but for the vocabulary, which is the tokenizer's.
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
BURN = """
import torch
a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
while True:
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
"""
# A decoding step's matrix products by themselves: 16 sequences, each weight read once.
STEP = """
import torch
x = torch.randn(16, 3072, device="cuda", dtype=torch.bfloat16)
w = torch.randn(3072, 16384, device="cuda", dtype=torch.bfloat16)
big = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
for _ in range(4):
    x @ w
    big @ big
torch.cuda.synchronize()
"""


def checkpoint(folder: Path, tokenizer: Path, layers: int) -> int:
    """Writes the decoder; returns its parameters."""
    import torch
    import transformers

    config = json.loads((tokenizer / "config.json").read_text())
    ids = {name: config[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    made = transformers.AutoConfig.for_model(**{**SHAPE, **ids, "num_hidden_layers": layers})
    factory: Any = transformers.AutoModelForCausalLM
    with torch.device("cuda"):
        model = factory.from_config(made, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return int(model.num_parameters())


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the length of the block, in a group of its own."""
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_service(process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    """Waits until a first answer comes, which starts its batching.

    Raises:
        SystemExit: If it ends, or none comes.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=2).read()
            return
        time.sleep(0.5)
    raise SystemExit(f"the service did not come up:\n{log.read_text()[-3000:]}")


class Smi:
    """What nvidia-smi says, ten times a second, for the length of the block."""

    def __enter__(self) -> Smi:
        command = ["nvidia-smi", f"--query-gpu={','.join(SMI)}", "--format=csv,noheader,nounits", "-lms", "100"]
        self._began = time.time()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        text, _ = self._process.communicate()
        rows = [[float(cell) for cell in row] for row in csv.reader(text.splitlines()) if len(row) == len(SMI)]
        self.seconds = time.time() - self._began
        self.rows = rows

    def means(self, begin: float, end: float) -> dict[str, float]:
        """Means between two Unix times, the samples taken as evenly spaced."""
        first, last = (
            round((at - self._began) / self.seconds * len(self.rows)) for at in (begin, min(end, time.time()))
        )
        rows = self.rows[max(0, first) : max(first + 1, last)]
        return {name: sum(row[place] for row in rows) / len(rows) for place, name in enumerate(SMI)}


def bench(model: Path, home: Path, log: Path, users: int, seconds: float, input_tokens: int) -> dict[str, Any]:
    """Loads the service by `recipes.bench`; returns the measurement, and nvidia-smi's means of its window."""
    settings = [
        "workload=chat",
        "price=example",
        f"endpoint.url=http://127.0.0.1:{PORT}",
        f"endpoint.model={model}",
        f"endpoint.tokenizer={model}",
        "endpoint.max_seq_len=4096",
        "endpoint.body={ignore_eos: null}",
        f"workload.arrivals.users={users}",
        f"workload.input_tokens={input_tokens}",
        f"workload.longest_input_tokens={4 * input_tokens}",
        "workload.output_tokens=64",
        "workload.longest_output_tokens=256",
        f"seconds={seconds:g}",
        f"paths.home={home}",
    ]
    with Smi() as smi:
        run([sys.executable, "-m", "recipes.bench", *settings], log)
    folder = max((home / "benchmark").iterdir(), key=lambda path: path.stat().st_mtime)
    [found] = json.loads((folder / MEASUREMENTS).read_text())
    measured = Measurement.model_validate(found)
    whole = smi.means(measured.started_at, measured.started_at + measured.seconds)
    return {"folder": str(folder), "measurement": found, "nvidia-smi": whole}


def run(command: Sequence[str], log: Path) -> str:
    """Runs one of our commands, prints what it says, and returns it.

    Raises:
        SystemExit: If it fails.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with log.open("a") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=ROOT)
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ended with {done.returncode}:\n{log.read_text()[-3000:]}")
    return done.stdout


def shown(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """A row of what was measured, with what nvidia-smi says of the same window."""
    item = Measurement.model_validate(found["measurement"])
    [gpu] = item.machine.gpus
    spent = joules(item.machine)
    price = PriceSpec(gpu_hour={gpu.name: 4.0})
    row = {
        "load": name,
        "tokens_per_second": item.tokens_per_second.value,
        "ttft_p50": item.ttft["p50"].value,
        "tpot_p50": item.tpot["p50"].value,
        "requests": item.requests,
        "errors": item.errors,
        "valid": item.load.valid,
        "failed_proofs": [test.model_dump(mode="json") for test in item.load.tests if not test.passed],
        "busy_cores": item.machine.busy_cores,
        "joules_per_1000_tokens": 1000 * spent / (item.tokens_per_second.value * item.seconds) if spent else None,
        "cost_per_million_tokens_at_4_an_hour": price.per_million_tokens(item),
        "gpu": gpu.model_dump(mode="json"),
        "nvidia-smi": found["nvidia-smi"],
    }
    print(json.dumps(row, indent=1), flush=True)
    return row


def record(path: Path, seconds: float) -> dict[str, Any]:
    """Writes NVML's raw answers, ten a second, as `tests/unit/benchmarking/nvml_replay.py` plays them."""
    import pynvml as nvml

    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    frames: list[dict[str, Any]] = []
    refused: dict[str, str] = {}

    def asked(name: str, ask: Any) -> dict[str, Any]:
        try:
            return {name: ask()}
        except nvml.NVMLError as error:
            refused[name] = str(error)
            return {}

    def links() -> list[int]:
        fields = [nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX]
        values = nvml.nvmlDeviceGetFieldValues(handle, fields)
        for value in values:
            if value.nvmlReturn != nvml.NVML_SUCCESS:
                raise nvml.NVMLError(value.nvmlReturn)
        return [int(value.value.ullVal) for value in values]

    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        frame: dict[str, Any] = {"at": time.perf_counter() - began}
        frame |= asked("gpu_percent", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        frame |= asked("used_bytes", lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used))
        frame |= asked("milliwatts", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        frame |= asked("millijoules", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
        frame |= asked("megahertz", lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
        frame |= asked("reasons", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        frame |= asked("pcie_kilobytes", lambda: [nvml.nvmlDeviceGetPcieThroughput(handle, way) for way in (0, 1)])
        frame |= asked("nvlink_kibibytes", links)
        frame |= asked(
            "processes",
            lambda: [
                [each.pid, int(each.usedGpuMemory or 0)] for each in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            ],
        )
        frames.append(frame)
        time.sleep(max(0.0, 0.1 * len(frames) - (time.perf_counter() - began)))
    name = nvml.nvmlDeviceGetName(handle)
    most = nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)
    found = {"name": name, "max_megahertz": most, "refused": refused, "frames": frames}
    path.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    return {"frames": len(frames), "refused": refused, "seconds": time.perf_counter() - began}


def capture(folder: Path, home: Path, log: Path) -> list[str]:
    """Runs Nsight Compute by `recipes.profile` on single products; returns what it says."""
    step = folder / "step.py"
    step.write_text(STEP)
    command = [sys.executable, "-m", "recipes.profile", "tool=ncu", "run=true", "lock_clocks=false"]
    command += [f"program='{sys.executable} {step}'", "kernel='gemm|nvjet|cutlass'", "launches=6"]
    return run([*command, f"out={folder / 'step'}", f"paths.home={home}"], log).splitlines()


def main() -> int:
    """Measures and writes what was found after each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer and a config.json")
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu_service.json")
    parser.add_argument("--record", type=Path, help="file for NVML's raw answers")
    parser.add_argument("--ncu", type=Path, help="file for Nsight Compute's export")
    arguments = parser.parse_args()
    values: dict[str, Any] = {"command": "python benchmarks/gpu_service.py " + " ".join(sys.argv[1:])}

    def keep(name: str, part: Any) -> None:
        values[name] = part
        arguments.out.write_text(json.dumps(values, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        home, log, model = folder / "home", folder / "log", folder / "model"
        burn = [sys.executable, "-c", BURN]
        if arguments.record:
            with started(burn, log):
                # From idle over the first products to the power limit.
                keep("record", record(arguments.record, 12.0))
        if arguments.ncu:
            keep("ncu", capture(folder, home, log))
            arguments.ncu.write_text((folder / "step.ncu.csv").read_text())
        keep("parameters", checkpoint(model, arguments.tokenizer, arguments.layers))
        service = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model)]
        service += ["--port", str(PORT), "--attn-implementation", "sdpa"]
        with started(service, log) as process:
            wait_for_service(process, log, 120)
            options = (model, home, log)
            load = (arguments.seconds, arguments.input_tokens)
            keep("alone", shown("1 user", bench(*options, 1, *load)))
            many = bench(*options, arguments.users, *load)
            keep("many", shown(f"{arguments.users} users", many))
            with started(burn, log):
                beside = bench(*options, arguments.users, *load)
                keep("beside", shown(f"{arguments.users} users beside matrix products", beside))
            diagnose = [sys.executable, "-m", "recipes.diagnose", f"paths.home={home}"]
            healthy, slow = (f"benchmark={found['folder']}" for found in (many, beside))
            keep("diagnosis", run([*diagnose, healthy], log).splitlines())
            keep("diagnosis_beside", run([*diagnose, slow, f"baseline={many['folder']}"], log).splitlines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
