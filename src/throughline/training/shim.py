"""The smallest changes that let NeMo AutoModel 0.7.0 run where there is no CUDA.

Upstream assumes CUDA in three places (`torch.cuda.reset_peak_memory_stats`, `torch.cuda.current_device`,
`torch.device("cuda", …)` while the model is built). Where CUDA is present nothing is touched.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

_MODULES = ("nemo_automodel._transformers.auto_model", "nemo_automodel._transformers.model_init")


class _TorchOnCpu:
    """Stands in for the name `torch` in a module: `device("cuda", …)` is the CPU, the rest is torch."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    def device(self, *arguments: Any, **keywords: Any) -> Any:
        if arguments and str(arguments[0]).startswith("cuda"):
            return self._torch.device("cpu")
        return self._torch.device(*arguments, **keywords)


@contextlib.contextmanager
def cpu_shim() -> Iterator[bool]:
    """Applies the shim for the length of the block; yields whether it was needed.

    TorchDynamo is switched off with it, because AutoModel compiles small kernels through a C++ compiler
    that a laptop may not have.
    """
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    import torch

    if torch.cuda.is_available():
        yield False
        return
    modules = [importlib.import_module(name) for name in _MODULES]
    proxy = _TorchOnCpu(torch)
    saved = [(module, module.torch) for module in modules]
    reset, current = torch.cuda.reset_peak_memory_stats, torch.cuda.current_device
    cuda: Any = torch.cuda
    try:
        cuda.reset_peak_memory_stats = lambda *arguments, **keywords: None
        cuda.current_device = lambda: torch.device("cpu")
        for module in modules:
            setattr(module, "torch", proxy)  # noqa: B010  the module's name is what is replaced
        yield True
    finally:
        cuda.reset_peak_memory_stats, cuda.current_device = reset, current
        for module, original in saved:
            setattr(module, "torch", original)  # noqa: B010


def default_dtype() -> str:
    """Returns `bfloat16` where the hardware multiplies it natively, else `float32`.

    On a CPU without AVX512-BF16 or AMX, torch's bfloat16 products were measured 90 times slower than
    float32 (1.2 against 115 GFLOP/s on 2 AVX2 cores).
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    flags = _cpu_flags()
    return "bfloat16" if {"avx512_bf16", "amx_bf16", "bf16"} & flags else "float32"


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as handle:  # noqa: PTH123  procfs
            for line in handle:
                if line.startswith(("flags", "Features")):
                    return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()
