"""Imports OpenVINO and NNCF with their usage telemetry switched off, without a file in the user's home."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from throughline.contracts.errors import MissingDependencyError

_INSTALL = "install the cpu extra: pip install 'throughline[cpu]'"


def silence_telemetry() -> None:
    """Makes `openvino_telemetry` unimportable in this process; both libraries then send nothing.

    Their own opt-out is a file in the home folder, and importing the package already writes an id there.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("NNCF_CI", "1")


def openvino() -> Any:
    """Returns the `openvino` module.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    silence_telemetry()
    try:
        import openvino as module
    except ImportError as error:
        raise MissingDependencyError("CPU engines need openvino", seen=str(error), fix=_INSTALL) from None
    return module


def openvino_genai() -> Any:
    """Returns the `openvino_genai` module; see `openvino`."""
    openvino()
    try:
        import openvino_genai as module
    except ImportError as error:
        raise MissingDependencyError("CPU engines need openvino_genai", seen=str(error), fix=_INSTALL) from None
    return module


def nncf() -> Any:
    """Returns the `nncf` module (seconds to import, build time only); see `openvino`."""
    silence_telemetry()
    try:
        import nncf as module
    except ImportError as error:
        raise MissingDependencyError("quantised CPU engines need nncf", seen=str(error), fix=_INSTALL) from None
    module.set_log_level(40)
    return module


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keeps NNCF's progress bars off the terminal: it draws them on rich's shared console and has no switch."""
    from rich import get_console

    console = get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def cpu_supports(capability: str) -> bool:
    """Returns whether OpenVINO's CPU plugin lists `capability`, e.g. `BF16`, for this processor."""
    capabilities: list[str] = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return capability in capabilities


def processor() -> str:
    """Returns the processor's name and the types it computes in, e.g. `AMD EPYC (FP32 INT8)`."""
    core = openvino().Core()
    capabilities = [
        item for item in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") if item[:2] in {"FP", "BF", "IN"}
    ]
    return f"{core.get_property('CPU', 'FULL_DEVICE_NAME').strip()} ({' '.join(capabilities)})"
