"""Commands that capture a profile: Nsight Systems and Nsight Compute on a GPU, py-spy and perf on processors.

ncu has run on an H100; nsys has not been run on a GPU by us, its options are those of NVIDIA's user guide.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from throughline.contracts.errors import MissingDependencyError
from throughline.diagnosis.nsight import COPIES, KERNELS, RANGES

Tool = Literal["nsys", "ncu", "py-spy", "perf"]
# Where each comes from; none is among our dependencies.
SOURCES: dict[Tool, str] = {
    "nsys": "NVIDIA's package `nsight-systems-cli`, or any CUDA toolkit; it is in NVIDIA's Triton containers",
    "ncu": "NVIDIA's package `nsight-compute`, or any CUDA toolkit; it wants access to performance counters "
    "(NVreg_RestrictProfilingToAdminUsers=0, or root)",
    "py-spy": "`pip install py-spy`; another process than its child needs ptrace (root, or kernel.yama.ptrace_scope=0)",
    "perf": "the distribution's `linux-tools` or `linux-perf`; it wants kernel.perf_event_paranoid ≤ 1, or root",
}
# Launches that are skipped: what loads and warms the engine.
_SKIPPED_LAUNCHES = 2000


def commands(
    tool: Tool,
    program: Sequence[str],
    out: Path,
    *,
    seconds: float,
    delay_seconds: float = 0.0,
    kernel: str = "",
    launches: int = 20,
    pid: int | None = None,
    python: Sequence[str] = (),
    lock_clocks: bool = True,
) -> list[list[str]]:
    """Returns what to run, in order: the capture, and what turns it into text that we read.

    Args:
        tool: Which profiler.
        program: What to profile, as a command line; empty with `pid`.
        out: Path of the files to write, without ending.
        seconds: Length of the capture.
        delay_seconds: Before it, for loading and warming (`nsys` alone).
        kernel: Regular expression of the kernels (`ncu` alone); empty for all.
        launches: Launches of them (`ncu` alone).
        pid: A running process (`py-spy` and `perf` alone).
        python: Interpreter that py-spy runs a program with.
        lock_clocks: Whether the GPU's clocks are held at their base meanwhile, so that captures can be compared
            (`ncu` alone); not on a machine whose clocks are others' too.
    """
    if tool == "nsys":
        return [_nsys(program, out, seconds, delay_seconds), _nsys_stats(out)]
    if tool == "ncu":
        return [_ncu(program, out, kernel, launches, lock_clocks), _ncu_details(out)]
    if tool == "py-spy":
        return [_py_spy([*python, *program], out, seconds, pid)]
    return [_perf(program, out, seconds, pid), ["perf", "report", "--stdio", "-i", f"{out}.perf.data"]]


def _nsys(program: Sequence[str], out: Path, seconds: float, delay_seconds: float) -> list[str]:
    return [
        "nsys",
        "profile",
        "--trace=cuda,nvtx,osrt",
        # Kernels inside graphs one by one; as one block they could not be told apart.
        "--cuda-graph-trace=node",
        "--sample=none",
        "--cpuctxsw=none",
        f"--delay={delay_seconds:g}",
        f"--duration={seconds:g}",
        "--kill=none",
        "--force-overwrite=true",
        f"--output={out}",
        *program,
    ]


def _nsys_stats(out: Path) -> list[str]:
    reports = [part for name in (KERNELS, COPIES, RANGES) for part in ("--report", name)]
    options = ["--format", "csv", "--force-export=true", "--output", str(out)]
    return ["nsys", "stats", *reports, *options, f"{out}.nsys-rep"]


def _ncu(program: Sequence[str], out: Path, kernel: str, launches: int, lock_clocks: bool) -> list[str]:
    filters = ["--kernel-name", f"regex:{kernel}"] if kernel else []
    return [
        "ncu",
        "--target-processes=all",
        *filters,
        f"--launch-skip={_SKIPPED_LAUNCHES if not kernel else 0}",
        f"--launch-count={launches}",
        "--section=SpeedOfLight",
        "--section=MemoryWorkloadAnalysis",
        "--section=Occupancy",
        # Each kernel is replayed several times.
        f"--clock-control={'base' if lock_clocks else 'none'}",
        "--force-overwrite",
        f"--export={out}",
        *program,
    ]


def _ncu_details(out: Path) -> list[str]:
    return ["ncu", "--import", f"{out}.ncu-rep", "--csv", "--page", "details", "--log-file", f"{out}.ncu.csv"]


def _py_spy(program: Sequence[str], out: Path, seconds: float, pid: int | None) -> list[str]:
    subject = ["--pid", str(pid)] if pid is not None else ["--", *program]
    options = ["--format", "raw", "--rate", "100", "--duration", f"{seconds:.0f}", "--subprocesses"]
    # A sampler that stops the process would change what it measures.
    return ["py-spy", "record", *options, "--nonblocking", "--output", f"{out}.py-spy.txt", *subject]


def _perf(program: Sequence[str], out: Path, seconds: float, pid: int | None) -> list[str]:
    subject = ["--pid", str(pid), "--", "sleep", f"{seconds:g}"] if pid is not None else ["--", *program]
    return ["perf", "record", "--freq=99", "-g", "--output", f"{out}.perf.data", *subject]


def require(tool: Tool) -> str:
    """Returns where a tool is installed.

    Raises:
        MissingDependencyError: If it is not.
    """
    found = shutil.which(tool)
    if found is None:
        raise MissingDependencyError(f"{tool} is not installed", where="PATH", fix=f"get it: {SOURCES[tool]}")
    return found
