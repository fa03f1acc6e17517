"""NVML's answers played from a list, in the names and units of `pynvml`; what is not in it is not supported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml

_CONSTANTS = (
    "nvmlMemory_v2",
    "NVMLError",
    "NVML_SUCCESS",
    "NVML_CLOCK_SM",
    "NVML_PCIE_UTIL_TX_BYTES",
    "NVML_PCIE_UTIL_RX_BYTES",
    "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX",
    "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX",
)


def replayed_nvml(frames: list[dict[str, Any]] | None) -> Any:
    """Stands for `pynvml` with one GPU; each look at its utilisation takes the next frame. None is no driver."""
    playing = iter(frames or ())
    now: dict[str, Any] = {}

    def start() -> None:
        if frames is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def value(name: str) -> Any:
        if name not in now:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return now[name]

    def utilisation(handle: int) -> Any:
        frame = next(playing)
        now.clear()
        now.update(frame)
        return SimpleNamespace(gpu=value("gpu_percent"), memory=0)

    def field(number: int) -> Any:
        return SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=number))

    return SimpleNamespace(
        **{name: getattr(pynvml, name) for name in _CONSTANTS},
        nvmlInit=start,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "NVIDIA H100 80GB HBM3",
        nvmlDeviceGetUtilizationRates=utilisation,
        nvmlDeviceGetMemoryInfo=lambda handle, version=None: SimpleNamespace(used=value("used_bytes")),
        nvmlDeviceGetPowerUsage=lambda handle: value("milliwatts"),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: value("millijoules"),
        nvmlDeviceGetMaxClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetClockInfo=lambda handle, kind: value("megahertz")[kind],
        nvmlDeviceGetCurrentClocksEventReasons=lambda handle: value("reasons"),
        nvmlDeviceGetPcieThroughput=lambda handle, way: value("pcie_kilobytes")[way],
        nvmlDeviceGetFieldValues=lambda handle, fields: [field(number) for number in value("nvlink_kibibytes")],
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [
            SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in value("processes")
        ],
    )
