"""Findings from a profile: a GPU that waits for the host, for copies, for other GPUs, or for its memory.

No capture of a real GPU has been read yet: limits are from NVIDIA's documents where they are named, else assumptions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from throughline.contracts.diagnosis import Evidence, Finding, Lever
from throughline.diagnosis.doctor import ranked
from throughline.diagnosis.nsight import Capture, Kernel
from throughline.diagnosis.readings import ms, pct

# Busy less than this, a GPU waits for whoever gives it work.
GPU_BUSY = 0.70
# A launch costs the host some 5 µs; kernels no longer than that leave the GPU waiting for the next one.
SHORT_KERNEL_SECONDS = 5e-6
COPY_SHARE = 0.10
COMMUNICATION_SHARE = 0.20
# Nsight Compute calls a kernel memory-bound above 60 % of the peak (its rule SOLBottleneck).
DRAM_PERCENT = 60.0
_ASSUMED = "an assumption: no capture of ours has been compared yet"
_COMMUNICATION = re.compile(r"nccl|all_?reduce|all_?gather|reduce_?scatter|two_?shot|one_?shot", re.IGNORECASE)


def diagnose_capture(capture: Capture) -> list[Finding]:
    """Returns what a capture of Nsight Systems says, the costliest first."""
    found = (_host(capture), _copies(capture), _communication(capture))
    return ranked([finding for finding in found if finding is not None])


def diagnose_kernels(kernels: Sequence[Kernel]) -> list[Finding]:
    """Returns what Nsight Compute's sections say of each kernel."""
    return ranked([finding for finding in map(_bandwidth, kernels) if finding is not None])


def _host(capture: Capture) -> Finding | None:
    kernels = sum(entry.seconds for entry in capture.kernels)
    busy = kernels + sum(entry.seconds for entry in capture.copies)
    if not capture.seconds or not kernels or busy / capture.seconds >= GPU_BUSY:
        return None
    share = busy / capture.seconds
    count = sum(entry.count for entry in capture.kernels)
    mean = kernels / max(1, count)
    levers = [Lever(why="CUDA graphs (`cuda_graph_config`) and the overlap scheduler: one launch for a whole step")]
    if mean > SHORT_KERNEL_SECONDS:
        levers.insert(0, Lever(overrides=("workload.concurrency=64",), why="more requests at a time: the GPU has room"))
    return Finding(
        name="host-bound",
        kind="bottleneck",
        summary="The GPU waits for the host between kernels.",
        severity=1 - share,
        cost="GPU time",
        arithmetic=f"1 − kernels and copies {ms(busy)} / capture {ms(capture.seconds)} = {pct(1 - share)}",
        evidence=(
            Evidence(name="GPU busy", value=share, unit="share", limit=GPU_BUSY, source=_ASSUMED),
            Evidence(
                name="mean kernel",
                value=mean,
                unit="s",
                limit=SHORT_KERNEL_SECONDS,
                source="what a launch costs the host; shorter kernels wait for it",
            ),
        ),
        levers=tuple(levers),
        contradicted_by="kernels of several streams overlap, so that their times sum to more than the capture",
    )


def _copies(capture: Capture) -> Finding | None:
    copies = sum(
        entry.seconds for entry in capture.copies if "memcpy" in entry.name and "Device-to-Device" not in entry.name
    )
    whole = copies + sum(entry.seconds for entry in capture.kernels)
    share = copies / whole if whole else 0.0
    if share < COPY_SHARE:
        return None
    return Finding(
        name="copy-bound",
        kind="waste",
        summary="The GPU copies between its memory and the host's.",
        severity=share,
        cost="GPU time",
        arithmetic=f"copies {ms(copies)} of kernels and copies {ms(whole)} = {pct(share)}",
        evidence=(
            Evidence(name="copies to and from the host", value=share, unit="share", limit=COPY_SHARE, source=_ASSUMED),
        ),
        levers=(
            Lever(overrides=("serve.gpu.kv_cache_host_memory_bytes=0",), why="no KV blocks in the host's memory"),
            Lever(why="logits and logprobs only for requests that ask for them: each step copies them"),
        ),
        contradicted_by="copies run beside kernels on a stream of their own (see the timeline)",
    )


def _communication(capture: Capture) -> Finding | None:
    kernels = sum(entry.seconds for entry in capture.kernels)
    between = sum(entry.seconds for entry in capture.kernels if _COMMUNICATION.search(entry.name))
    share = between / kernels if kernels else 0.0
    if share < COMMUNICATION_SHARE:
        return None
    return Finding(
        name="communication-bound",
        kind="bottleneck",
        summary="The GPUs of a tensor-parallel engine wait for one another.",
        severity=share,
        cost="GPU time",
        arithmetic=f"collectives {ms(between)} of kernels {ms(kernels)} = {pct(share)}",
        evidence=(Evidence(name="collectives", value=share, unit="share", limit=COMMUNICATION_SHARE, source=_ASSUMED),),
        levers=(
            Lever(overrides=("engine.tp_size=1",), why="if the model fits one GPU: replicas in place of shares"),
            Lever(why="GPUs with NVLink between them (`nvidia-smi topo -m`)"),
        ),
        contradicted_by="collectives wait for a slower rank, so that their time is that rank's work",
    )


def _bandwidth(kernel: Kernel) -> Finding | None:
    dram = kernel.metrics.get("DRAM Throughput")
    compute = kernel.metrics.get("Compute (SM) Throughput")
    if dram is None or compute is None or dram < DRAM_PERCENT or dram <= compute:
        return None
    return Finding(
        name="kernel-bandwidth-bound",
        kind="bottleneck",
        summary=f"{kernel.name} waits for the GPU's memory.",
        severity=min(1.0, dram / 100) / 2,
        cost="GPU time",
        arithmetic=f"{dram:.0f} % of the bandwidth / 2: half the bytes would take half the time",
        evidence=(
            Evidence(
                name="DRAM throughput",
                value=dram / 100,
                unit="share",
                limit=DRAM_PERCENT / 100,
                source="from 60 % of the peak on Nsight Compute calls a kernel bound",
            ),
            Evidence(name="SM throughput", value=compute / 100, unit="share"),
        ),
        levers=(Lever(overrides=("quant=fp8",), why="half the bytes of weights and KV cache; check the gate's score"),),
        contradicted_by="fewer bytes leave the kernel's duration as it was",
    )
