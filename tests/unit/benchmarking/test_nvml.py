"""GPU readings from NVML's answers, played from lists: one made up, one of an H100 that went from rest to its limit."""

from __future__ import annotations

import json
from pathlib import Path

import pynvml
import pytest

from tests.unit.benchmarking.nvml_replay import replayed_nvml
from throughline.benchmarking.nvml import Devices, Recorder, gpu_readings

SW_POWER_CAP = pynvml.nvmlClocksEventReasonSwPowerCap
FRAMES = [
    {
        "gpu_percent": 40 + 20 * index,
        "used_bytes": 20_000_000_000 + index,
        "milliwatts": 300_000 + 100_000 * index,
        "millijoules": 1_000_000 + 40_000 * index,
        "megahertz": {pynvml.NVML_CLOCK_SM: 1980 - 15 * index},
        "reasons": SW_POWER_CAP if index else pynvml.nvmlClocksEventReasonGpuIdle,
        "pcie_kilobytes": {0: 1000, 1: 3000},
        "nvlink_kibibytes": (100 * index, 100 * index),
        "processes": [(4242, 19_000_000_000 + index)],
    }
    for index in range(3)
]


def samples(frames: list[dict[str, object]]) -> list[dict[str, object]]:
    """One a tenth of a second."""
    devices = Devices(replayed_nvml(frames))
    return [{**sample, "at": 10 + index / 10} for index in range(len(frames)) for sample in devices.sample()]


def test_units_and_means() -> None:
    [found] = gpu_readings(samples(FRAMES), 10.0, 10.2)
    assert found.name == "NVIDIA H100 80GB HBM3"
    assert found.utilisation == pytest.approx(0.6)
    assert found.memory_bytes == 20_000_000_002
    assert found.power_watts == pytest.approx(400)
    # 80 J by the counter in 0.2 s.
    assert found.energy_joules == pytest.approx(80)
    assert found.sm_clock_hertz == pytest.approx(1965e6)
    assert found.sm_clock_max_hertz == 1980e6
    assert found.throttled["sw_power_cap"] == pytest.approx(2 / 3)
    assert found.throttled["hw_slowdown"] == 0
    assert "gpu_idle" not in found.throttled
    assert found.pcie_bytes_per_second == pytest.approx(4e6)
    assert found.nvlink_bytes_per_second == pytest.approx(400 * 1024 / 0.2)
    assert found.process_bytes == {"4242": 19_000_000_002}


def test_only_the_window_counts() -> None:
    [found] = gpu_readings(samples(FRAMES), 10.05, 10.3)
    assert found.utilisation == pytest.approx(0.7)
    assert gpu_readings(samples(FRAMES), 20.0, 21.0) == ()


def test_what_a_gpu_does_not_say_is_left_out() -> None:
    """As of a consumer's board: no energy counter, no NVLink, no PCIe throughput."""
    frames = [{"gpu_percent": 50, "used_bytes": 1, "milliwatts": 100_000, "megahertz": {1: 1000}} for _ in range(2)]
    [found] = gpu_readings(samples(frames), 10.0, 10.5)
    assert found.energy_joules == pytest.approx(50)
    assert (found.nvlink_bytes_per_second, found.pcie_bytes_per_second) == (None, None)
    assert (found.throttled, found.process_bytes) == ({}, {})


def test_a_recording_ends_with_its_samples() -> None:
    recorder = Recorder(replayed_nvml(FRAMES))
    assert recorder.answer({"every": 60.0}) == 1
    found = recorder.answer(None)
    assert [sample["utilisation"] for sample in found] == [0.4]


def test_without_a_driver_there_are_no_samples(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder(replayed_nvml(None))
    assert recorder.answer({"every": 0.1}) == 0
    assert recorder.answer(None) == []
    assert "no GPU is sampled: NVML Shared Library Not Found" in capsys.readouterr().err


def test_an_h100_from_rest_to_its_power_limit() -> None:
    """Recorded by `benchmarks/gpu_service.py --record`: matrix products begin, and take all the power there is."""
    found = json.loads((Path(__file__).parent / "nvml_h100.json").read_text())
    assert found["refused"] == {"nvlink_kibibytes": "Not Supported"}
    frames = [
        {**frame, "megahertz": {pynvml.NVML_CLOCK_SM: frame["megahertz"]}, "pcie_kilobytes": dict(enumerate(pcie))}
        for frame in found["frames"]
        for pcie in [frame["pcie_kilobytes"]]
    ]
    devices = Devices(replayed_nvml(frames))
    played = [{**sample, "at": frame["at"]} for frame in frames for sample in devices.sample()]
    end = frames[-1]["at"]
    [rest], [work] = gpu_readings(played, 0.0, 3.0), gpu_readings(played, end - 2.0, end)
    assert (rest.utilisation, rest.process_bytes, rest.sm_clock_hertz) == (0.0, {}, 345e6)
    assert rest.throttled["sw_power_cap"] == 0.0
    assert rest.power_watts == pytest.approx(72, abs=2)
    # The energy counter, and the mean of the samples of power: two of the board's own sensors.
    assert work.energy_joules / 2.0 == pytest.approx(work.power_watts, rel=0.02)
    assert work.power_watts == pytest.approx(700, rel=0.03)
    assert work.utilisation > 0.95
    assert work.throttled["sw_power_cap"] == 1.0
    assert work.sm_clock_hertz < 0.8 * (work.sm_clock_max_hertz or 0)
    assert list(work.process_bytes.values()) == [1050673152]
    assert work.nvlink_bytes_per_second is None
