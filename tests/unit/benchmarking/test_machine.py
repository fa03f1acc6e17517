"""The machine's readings: processes, RAPL's counters from a copy of its folder, bandwidth, and what it all costs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from throughline.benchmarking.machine import Package, Sampler, read_bandwidth
from throughline.contracts.benchmark import Estimate
from throughline.contracts.measurement import GpuReadings, LoadProof, MachineReadings, Measurement
from throughline.contracts.price import PriceSpec, joules


def packages(root: Path, *microjoules: int) -> None:
    for index, value in enumerate(microjoules):
        folder = root / f"intel-rapl:{index}"
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("262143328850\n")
        # A part of the package, whose energy is in it already.
        (root / f"intel-rapl:{index}:0").mkdir(exist_ok=True)


def test_energy_is_of_all_packages_and_none_of_their_parts(tmp_path: Path) -> None:
    packages(tmp_path, 5_000_000, 7_000_000)
    found = Package.find(tmp_path)
    assert found is not None
    before = found.joules()
    packages(tmp_path, 6_000_000, 9_500_000)
    assert found.spent(before, found.joules()) == pytest.approx(3.5)


def test_a_counter_that_starts_over_is_no_gain(tmp_path: Path) -> None:
    packages(tmp_path, 262_143_000_000)
    found = Package.find(tmp_path)
    assert found is not None
    before = found.joules()
    packages(tmp_path, 1_000_000)
    assert found.spent(before, found.joules()) == pytest.approx(1.32885)


def test_a_machine_without_counters_has_no_energy(tmp_path: Path) -> None:
    assert Package.find(tmp_path) is None


def test_a_busy_process_is_seen() -> None:
    pages = iter(range(1000))
    with Sampler(
        {"engine": lambda: [os.getpid()], "generator": list}, lambda: {"steps": next(pages)}, interval_seconds=0.05
    ) as sampler:
        began = time.perf_counter()
        while (ended := time.perf_counter()) < began + 0.6:
            sum(range(1000))
    found = sampler.readings(began, ended)
    # As much of a core as a machine with other work on it gives.
    assert 0.05 < found.busy_cores["engine"] < 2.5
    assert found.busy_cores["generator"] == 0
    assert found.memory_bytes
    steps = sampler.gauge("steps", began, ended)
    assert len(steps) > 2
    assert steps == sorted(steps)


def test_memory_is_read_at_some_speed() -> None:
    assert 1e8 < read_bandwidth(1, repeats=1) < 1e13


def measured(machine: MachineReadings) -> Measurement:
    rate = Estimate(100.0, 90.0, 110.0, 10)
    values: dict[str, Any] = {name: {} for name in ("ttft", "itl", "tpot", "e2e")}
    return Measurement(
        target="raw",
        load=LoadProof(tests=()),
        started_at=0.0,
        warm_up_seconds=0.0,
        seconds=60.0,
        requests=10,
        requests_per_second=rate,
        tokens_per_second=rate,
        input_tokens=1,
        output_tokens=1,
        machine=machine,
        **values,
    )


def gpu(name: str) -> GpuReadings:
    return GpuReadings(
        name=name, utilisation=1, memory_bytes=1, power_watts=600, energy_joules=36_000, sm_clock_hertz=1e9
    )


def test_what_tokens_cost() -> None:
    """100 tokens a second are 360,000 an hour."""
    price = PriceSpec(gpu_hour={"A": 3.6}, cpu_hour=0.9, energy_kwh=0.5)
    assert price.per_million_tokens(measured(MachineReadings(cores=4))) == pytest.approx(10.0)
    two = MachineReadings(cores=4, gpus=(gpu("A"), gpu("A")))
    # 7.2 an hour, and 72 kJ (a fiftieth of a kilowatt-hour) for 6,000 tokens.
    assert joules(two) == 72_000
    assert price.per_million_tokens(measured(two)) == pytest.approx(20.0 + 0.02 * 0.5 / 6000 * 1e6)
    assert price.per_million_tokens(measured(MachineReadings(cores=4, gpus=(gpu("B"),)))) is None
    assert joules(MachineReadings(cores=4)) is None
