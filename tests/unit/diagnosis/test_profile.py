"""Exports of the profilers: read by column, and turned into findings; what is none is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.profile import Config, script, tables
from throughline.contracts.errors import ConfigError, DataError
from throughline.diagnosis.capture import commands
from throughline.diagnosis.nsight import Capture, Entry, parse_kernels, parse_stats, read_capture
from throughline.diagnosis.profile_rules import diagnose_capture, diagnose_kernels
from throughline.diagnosis.stacks import hotspots

HEAD = "Time (%),Total Time (ns),{count},Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),{name}\n"
KERNELS = (
    "Generating SQLite file a.sqlite from a.nsys-rep\nProcessing [a.sqlite] with [cuda_gpu_kern_sum.py]...\n\n"
    + HEAD.format(count="Instances", name="Name")
    + '75.0,3000000000,3000,1000000.0,1.0,1,1,0.0,"void gemm<(int)1, float>(float *, int)"\n'
    + "25.0,1000000000,2000,500000.0,1.0,1,1,0.0,ncclDevKernel_AllReduce_Sum_bf16\n"
)
COPIES = (
    HEAD.format(count="Count", name="Operation") + "99.0,2000000000,20,1.0,1.0,1,1,0.0,[CUDA memcpy Host-to-Device]\n"
    "1.0,20000000,9,1.0,1.0,1,1,0.0,[CUDA memcpy Device-to-Device]\n"
)
RANGES = (
    "Time (%),Total Time (ns),Instances,Avg (ns),Med (ns),Min (ns),Max (ns),StdDev (ns),Style,Range\n"
    "100.0,8000000000,400,20000000.0,1.0,1,1,0.0,PushPop,throughline:engine.step\n"
)
COMPUTE = (
    '==PROF== Disconnected\n"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"\n'
    '"0","gemv","GPU Speed Of Light Throughput","DRAM Throughput","%","91.5"\n'
    '"0","gemv","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","20"\n'
    '"0","gemv","GPU Speed Of Light Throughput","Duration","us","120"\n'
    '"1","gemv","GPU Speed Of Light Throughput","Duration","usecond","80"\n'
    '"2","gemm","GPU Speed Of Light Throughput","DRAM Throughput","%","30"\n'
    '"2","gemm","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","88"\n'
)


def files(folder: Path, **texts: str) -> list[Path]:
    paths = []
    for name, text in texts.items():
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text(text)
    return paths


def test_reports_are_told_by_their_columns(tmp_path: Path) -> None:
    found = read_capture(files(tmp_path, a=KERNELS, b=COPIES, c=RANGES), seconds=10)
    assert found.kernels[0] == Entry("void gemm<(int)1, float>(float *, int)", 3.0, 3000)
    assert [entry.count for entry in found.copies] == [20, 9]
    assert found.ranges == (Entry("throughline:engine.step", 8.0, 400),)


def test_several_reports_stand_in_one_text() -> None:
    assert [kind for kind, _ in parse_stats(f"{KERNELS}\n{COPIES}\n{RANGES}", "x")] == [
        "cuda_gpu_kern_sum",
        "cuda_gpu_mem_time_sum",
        "nvtx_sum",
    ]


def test_json_and_other_units_say_the_same() -> None:
    rows = [{"Time (%)": 100.0, "Total Time (us)": 1500, "Instances": 3, "Name": "k"}]
    assert parse_stats(json.dumps(rows), "x") == [("cuda_gpu_kern_sum", [Entry("k", 0.0015, 3)])]


@pytest.mark.parametrize("text", ["", "hello", "Time (%),Name\n1,2\n", "[1, 2]", '{"a": 1}', "[{"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        parse_stats(text, "x")


def test_the_apis_times_are_not_taken_for_kernels() -> None:
    with pytest.raises(DataError):
        parse_stats("Time (%),Total Time (ns),Num Calls,Avg (ns),Name\n9,9,9,9,cudaLaunchKernel\n", "x")


def test_a_gpu_that_waits_copies_and_talks_is_told(tmp_path: Path) -> None:
    capture = read_capture(files(tmp_path, a=KERNELS, b=COPIES), seconds=10)
    named = {finding.name: finding for finding in diagnose_capture(capture)}
    assert set(named) == {"host-bound", "copy-bound", "communication-bound"}
    # 4 s of kernels and 2.02 s of copies in 10 s; 2 of 6 s to and from the host; 1 of 4 s in NCCL.
    assert named["host-bound"].severity == pytest.approx(1 - 0.602)
    assert named["copy-bound"].severity == pytest.approx(2 / 6)
    assert named["communication-bound"].severity == pytest.approx(0.25)


def test_a_busy_gpu_has_no_finding() -> None:
    assert diagnose_capture(Capture(kernels=(Entry("gemm", 9.5, 9500),), seconds=10)) == []


def test_nsight_compute_names_the_kernel_that_waits_for_memory() -> None:
    kernels = parse_kernels(COMPUTE, "x")
    assert kernels[0].seconds == pytest.approx(1e-4)
    (finding,) = diagnose_kernels(kernels)
    assert "gemv" in finding.summary


def test_stacks_count_a_recursive_function_once() -> None:
    spots = hotspots("main (a.py:1);f (a.py:2);f (a.py:2) 30\nmain (a.py:1) 10\n", "x")
    assert [(spot.name, spot.own, spot.total) for spot in spots] == [("f (a.py)", 0.75, 0.75), ("main (a.py)", 0.25, 1)]
    with pytest.raises(DataError):
        hotspots("nothing\n", "x")


def test_the_recipe_reads_what_the_tools_wrote(tmp_path: Path) -> None:
    paths = files(tmp_path, a=KERNELS, b=COPIES, c=RANGES, d=COMPUTE)
    stack = tmp_path / "stacks.txt"
    stack.write_text("main (a.py:1) 10\n")
    shown, findings = tables(Config(profile="laptop", seconds=10), [*paths, stack])
    assert {table.title for table in shown} == {"Kernels", "Copies", "Ranges", "Where the process was"}
    assert "kernel-bandwidth-bound" in {finding.name for finding in findings}


@pytest.mark.parametrize("tool", ["nsys", "ncu", "py-spy", "perf"])
def test_a_capture_ends_with_the_program(tool: str, tmp_path: Path) -> None:
    first, *_ = commands(tool, ["serve", "--now"], tmp_path / "x", seconds=5)  # type: ignore[arg-type]
    assert first[0] == tool
    assert first[-2:] == ["serve", "--now"]


@pytest.mark.parametrize("settings", [{}, {"program": "x", "pid": 3}, {"tool": "nsys", "pid": 3}])
def test_a_capture_needs_one_thing_that_its_tool_can_profile(settings: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        script(Config.model_validate({"profile": "laptop"} | settings), tmp_path / "x")


def test_ranges_cost_nothing_without_nvtx() -> None:
    """In a process of its own, in which the package cannot be imported."""
    code = (
        "import sys; sys.modules['nvtx'] = None\n"
        "from throughline.ranges import range_of\n"
        "with range_of('a'):\n"
        "    assert range_of('b') is range_of('c')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nsight_compute_of_an_h100_is_read() -> None:
    """As `recipes.profile tool=ncu` exported it: 16 rows by a weight matrix, and a square product, in BF16."""
    path = Path(__file__).parent / "recorded" / "ncu_h100.csv"
    step, square = parse_kernels(path.read_text(), str(path))
    # 2 bytes of 3072 * 16384 weights are 100.7 MB: 2.7 TB/s of the 3.35 that an H100 SXM's data sheet says.
    assert step.seconds is not None
    assert 3072 * 16384 * 2 / step.seconds / 3.35e12 == pytest.approx(step.metrics["DRAM Throughput"] / 100, abs=0.03)
    # 2 * 8192^3 operations against the data sheet's 989 TFLOP/s, at whatever clock it ran.
    assert square.seconds is not None
    assert 2 * 8192**3 / square.seconds / 989e12 == pytest.approx(0.79, abs=0.05)
    assert square.metrics["Compute (SM) Throughput"] > 90 > 10 > step.metrics["Compute (SM) Throughput"]
    assert [each.name for each in diagnose_kernels([step])] == ["kernel-bandwidth-bound"]
