"""What the machine did during a run: processors by process, memory, clock, the package's energy, its bandwidth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from throughline.benchmarking.system import usage
from throughline.contracts.measurement import MachineReadings

_INTERVAL_SECONDS = 0.25
_RAPL = Path("/sys/class/powercap")
_MIB = 2**20
# Larger than any cache of a socket's core, so that memory answers.
_CHUNK_BYTES = 64 * _MIB
Pids = Callable[[], Sequence[int]]


@dataclass(frozen=True)
class Sample:
    """Counters at one moment.

    Attributes:
        at: On the clock of `time.perf_counter`.
        cpu_seconds: Used so far by each group of processes.
        busy_seconds: Used so far by everything on the machine.
        gauges: Of the server, as its page has them; empty where nobody asks.
        clock_hertz: Mean clock of the processors; None where it cannot be read.
        energy_joules: Counter of the package; None where the kernel does not let it be read.
    """

    at: float
    cpu_seconds: Mapping[str, float]
    busy_seconds: float
    gauges: Mapping[str, float] = field(default_factory=dict)
    clock_hertz: float | None = None
    energy_joules: float | None = None


class Sampler:
    """Samples from a thread for the length of the block.

    Args:
        groups: Process ids by name; each process counts in one group, without its children.
        gauges: Returns the server's gauges; None where there are none.
        interval_seconds: Between two samples.
    """

    def __init__(
        self,
        groups: Mapping[str, Pids],
        gauges: Callable[[], Mapping[str, float]] | None = None,
        *,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._groups, self._gauges, self._interval = groups, gauges, interval_seconds
        self._package = Package.find()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine-sampler", daemon=True)
        self.samples: list[Sample] = []
        self.memory_bytes = 0

    def __enter__(self) -> Self:
        self._take()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if error is None:
            self._take()
            servers = [pid for name, pids in self._groups.items() if name != "generator" for pid in pids()]
            self.memory_bytes = usage(servers, children=False).memory_bytes

    def readings(self, begin: float, end: float, **more: Any) -> MachineReadings:
        """Returns what happened between two times of `time.perf_counter`; `more` are further fields."""
        first, last = _nearest(self.samples, begin), _nearest(self.samples, end)
        seconds = max(last.at - first.at, 1e-9)
        busy = {name: (last.cpu_seconds[name] - first.cpu_seconds[name]) / seconds for name in self._groups}
        everything = (last.busy_seconds - first.busy_seconds) / seconds
        clocks = [item.clock_hertz for item in self._between(begin, end) if item.clock_hertz]
        energy = None
        if first.energy_joules is not None and last.energy_joules is not None and self._package is not None:
            energy = self._package.spent(first.energy_joules, last.energy_joules)
        return MachineReadings(
            cores=len(psutil.Process().cpu_affinity() or []) or psutil.cpu_count() or 1,
            busy_cores={name: max(0.0, value) for name, value in busy.items()}
            | {"other": max(0.0, everything - sum(busy.values()))},
            memory_bytes=self.memory_bytes or None,
            clock_hertz=sum(clocks) / len(clocks) if clocks else None,
            energy_joules=energy,
            **more,
        )

    def gauge(self, name: str, begin: float, end: float) -> list[float]:
        """Returns a gauge's values between two times."""
        return [item.gauges[name] for item in self._between(begin, end) if name in item.gauges]

    def _between(self, begin: float, end: float) -> list[Sample]:
        return [item for item in self.samples if begin <= item.at <= end]

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()

    def _take(self) -> None:
        times = psutil.cpu_times()
        gauges: Mapping[str, float] = {}
        if self._gauges is not None:
            try:
                gauges = self._gauges()
            except OSError:
                # A server that is dying has no page; the requests say so.
                gauges = {}
        self.samples.append(
            Sample(
                time.perf_counter(),
                {name: usage(pids(), children=False, memory=False).cpu_seconds for name, pids in self._groups.items()},
                times.user + times.system + times.nice,
                gauges,
                clock_hertz(),
                self._package.joules() if self._package is not None else None,
            )
        )


@dataclass(frozen=True)
class Package:
    """The energy counters of the processors' packages (RAPL), in joules; each starts over at its range.

    Attributes:
        folders: One of `/sys/class/powercap/intel-rapl:*` for each package.
        range_joules: What all counters together can hold.
    """

    folders: tuple[Path, ...]
    range_joules: float

    @classmethod
    def find(cls, root: Path = _RAPL) -> Self | None:
        """Returns the packages, or None where there are none or only root may read them."""
        folders = tuple(sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1))
        try:
            for folder in folders:
                (folder / "energy_uj").read_text()
            total = sum(float((folder / "max_energy_range_uj").read_text()) for folder in folders)
        except OSError:
            return None
        return cls(folders, total / 1e6) if folders else None

    def joules(self) -> float:
        """Returns the counters' sum."""
        return sum(float((folder / "energy_uj").read_text()) for folder in self.folders) / 1e6

    def spent(self, before: float, after: float) -> float:
        """Returns what was used between two readings, of which one counter may have started over."""
        used = after - before
        return used if used >= 0 else used + self.range_joules / len(self.folders)


def clock_hertz() -> float | None:
    """Returns the processors' mean clock as the kernel tells it; None where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return sum(found) / len(found) * 1e6 if found else None


def read_bandwidth(cores: int, *, repeats: int = 3) -> float:
    """Returns bytes a second that so many threads read from memory, the best of a few tries."""
    import numpy as np

    chunks = [np.ones(_CHUNK_BYTES // 8) for _ in range(cores)]
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(repeats):
            began = time.perf_counter()
            list(pool.map(np.sum, chunks))
            best = max(best, cores * _CHUNK_BYTES / (time.perf_counter() - began))
    return best


def _nearest(samples: Sequence[Sample], at: float) -> Sample:
    return min(samples, key=lambda sample: abs(sample.at - at))
