"""Samples NVIDIA GPUs through NVML (nvidia-ml-py) in a process of its own, so that nobody else's work delays it.

python -m throughline.benchmarking.nvml

A line of standard input `{"every": seconds}` starts it, `null` ends it and is answered with the samples. On an H100 its
means are nvidia-smi's within 1 % (benchmarks/gpu_service.py); NVLink's counters have never been read from one that has
links, nor has a machine of several GPUs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from throughline.benchmarking.child import Answers, Child
from throughline.contracts.measurement import GpuReadings

INTERVAL_SECONDS = 0.1
_ANSWER_SECONDS = 30.0
_DEVICE = Path("/dev/nvidiactl")
# As NVML spells them (`nvmlClocksEventReason…`), in the words of nvidia-smi.
REASONS = {
    "applications_clocks_setting": 0x002,
    "sw_power_cap": 0x004,
    "hw_slowdown": 0x008,
    "sync_boost": 0x010,
    "sw_thermal_slowdown": 0x020,
    "hw_thermal_slowdown": 0x040,
    "hw_power_brake_slowdown": 0x080,
    "display_clock_setting": 0x100,
}
# Of one GPU at one moment, in SI units; counters from the driver's start. What a GPU does not say is None.
Sample = dict[str, Any]


class GpuSampler:
    """Samples for the length of the block, where there is a GPU; else there are no samples.

    Args:
        here: Whether what is measured runs on this machine; the GPUs of another are not seen.
        interval_seconds: Between two samples.
    """

    def __init__(self, *, here: bool = True, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._interval = interval_seconds
        self._child = Child("throughline.benchmarking.nvml") if here and _DEVICE.exists() else None
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        if self._child is not None:
            self._child.__enter__()
            self._child.ask({"every": self._interval}, timeout_seconds=_ANSWER_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._child is None:
            return
        try:
            if error is None:
                self.samples = self._child.ask(None, timeout_seconds=_ANSWER_SECONDS)
        finally:
            self._child.__exit__(kind, error, traceback)


class Devices:
    """All GPUs through NVML.

    Args:
        library: The module `pynvml`, or what stands for it.

    Raises:
        library.NVMLError: If there is no driver.
    """

    def __init__(self, library: Any) -> None:
        self._nvml = library
        library.nvmlInit()
        self._handles = [library.nvmlDeviceGetHandleByIndex(i) for i in range(library.nvmlDeviceGetCount())]
        self._names = [_text(library.nvmlDeviceGetName(handle)) for handle in self._handles]
        self._highest = [
            self._maybe(library.nvmlDeviceGetMaxClockInfo, handle, library.NVML_CLOCK_SM) for handle in self._handles
        ]

    def sample(self) -> Iterator[Sample]:
        """Yields one sample a GPU."""
        nvml = self._nvml
        for index, handle in enumerate(self._handles):
            at = time.perf_counter()
            busy = self._maybe(nvml.nvmlDeviceGetUtilizationRates, handle)
            milliwatts = self._maybe(nvml.nvmlDeviceGetPowerUsage, handle)
            millijoules = self._maybe(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            megahertz = self._maybe(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
            yield {
                "at": at,
                "gpu": index,
                "name": self._names[index],
                "utilisation": None if busy is None else busy.gpu / 100,
                "memory_bytes": self._used(handle),
                "power_watts": None if milliwatts is None else milliwatts / 1000,
                "energy_joules": None if millijoules is None else millijoules / 1000,
                "sm_clock_hertz": None if megahertz is None else megahertz * 1e6,
                "sm_clock_max_hertz": None if self._highest[index] is None else self._highest[index] * 1e6,
                "reasons": self._maybe(nvml.nvmlDeviceGetCurrentClocksEventReasons, handle),
                "pcie_bytes_per_second": self._pcie(handle),
                "nvlink_bytes": self._nvlink(handle),
                "processes": {
                    str(process.pid): int(process.usedGpuMemory or 0)
                    for process in self._maybe(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
                },
            }

    def _used(self, handle: Any) -> int:
        nvml = self._nvml
        # The first version counts what the driver keeps for itself too, which nvidia-smi does not.
        found = self._maybe(nvml.nvmlDeviceGetMemoryInfo, handle, nvml.nvmlMemory_v2)
        return int((found or nvml.nvmlDeviceGetMemoryInfo(handle)).used)

    def _pcie(self, handle: Any) -> float | None:
        nvml = self._nvml
        both = [
            self._maybe(nvml.nvmlDeviceGetPcieThroughput, handle, way)
            for way in (nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES)
        ]
        # In kilobytes a second, over the last 20 ms.
        return None if None in both else 1000.0 * sum(both)

    def _nvlink(self, handle: Any) -> float | None:
        nvml = self._nvml
        fields = [nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX]
        values = self._maybe(nvml.nvmlDeviceGetFieldValues, handle, fields)
        if values is None or any(value.nvmlReturn != nvml.NVML_SUCCESS for value in values):
            return None
        return 1024.0 * sum(int(value.value.ullVal) for value in values)

    def _maybe(self, ask: Callable[..., Any], *arguments: Any) -> Any:
        """What NVML says, or None of a GPU that does not know."""
        try:
            return ask(*arguments)
        except self._nvml.NVMLError:
            return None


def gpu_readings(samples: Sequence[Sample], begin: float, end: float) -> tuple[GpuReadings, ...]:
    """Returns what each GPU did between two times of `time.perf_counter`."""
    by_gpu: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if begin <= sample["at"] <= end:
            by_gpu[sample["gpu"]].append(sample)
    return tuple(_readings(found, end - begin) for _, found in sorted(by_gpu.items()))


def _readings(samples: Sequence[Sample], seconds: float) -> GpuReadings:
    first, last = samples[0], samples[-1]
    span = last["at"] - first["at"]
    power = _mean(samples, "power_watts")
    energy = power * seconds
    if first["energy_joules"] is not None and span > 0:
        # The counter is exact; the samples do not reach to the window's ends.
        energy = (last["energy_joules"] - first["energy_joules"]) * seconds / span
    pcie = None if first["pcie_bytes_per_second"] is None else _mean(samples, "pcie_bytes_per_second")
    told = [sample["reasons"] for sample in samples if sample["reasons"] is not None]
    nvlink = None
    if first["nvlink_bytes"] is not None and span > 0:
        nvlink = (last["nvlink_bytes"] - first["nvlink_bytes"]) / span
    processes: dict[str, int] = defaultdict(int)
    for sample in samples:
        for pid, held in sample["processes"].items():
            processes[pid] = max(processes[pid], held)
    return GpuReadings(
        name=first["name"],
        utilisation=_mean(samples, "utilisation"),
        memory_bytes=max(sample["memory_bytes"] for sample in samples),
        power_watts=power,
        energy_joules=energy,
        sm_clock_hertz=_mean(samples, "sm_clock_hertz"),
        sm_clock_max_hertz=first["sm_clock_max_hertz"],
        throttled={name: sum(bool(each & bit) for each in told) / len(told) for name, bit in REASONS.items()}
        if told
        else {},
        pcie_bytes_per_second=pcie,
        nvlink_bytes_per_second=nvlink,
        process_bytes=dict(processes),
    )


def _mean(samples: Sequence[Mapping[str, Any]], name: str) -> float:
    known = [float(sample[name]) for sample in samples if sample[name] is not None]
    return sum(known) / len(known) if known else 0.0


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Recorder:
    """Samples from a thread between two messages.

    Args:
        library: See `Devices`.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._samples: list[Sample] = []

    def answer(self, message: Mapping[str, float] | None) -> Any:
        """Starts on `{"every": seconds}`, and on `None` ends and returns the samples."""
        if message is not None:
            try:
                devices = Devices(self._library)
            except self._library.NVMLError as error:
                print(f"no GPU is sampled: {error}", file=sys.stderr)
                return 0
            self._thread = threading.Thread(target=self._run, args=(devices, message["every"]), daemon=True)
            self._thread.start()
            return 1
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self._samples

    def _run(self, devices: Devices, every: float) -> None:
        while True:
            self._samples.extend(devices.sample())
            if self._stop.wait(every):
                return


def main() -> None:
    """Serves one recording."""
    answers = Answers()
    import pynvml

    answers.serve(Recorder(pynvml).answer)


if __name__ == "__main__":
    main()
