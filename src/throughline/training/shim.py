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
    """Returns the type of weights in training: `bfloat16` on CUDA, `float32` on a CPU.

    AutoModel keeps no float32 copy of bfloat16 weights outside FSDP2's mixed precision, so small updates are rounded
    away: the lab's LoRA reached a validation loss of 0.176 after 300 steps in float32 and 0.174 after 400 in bfloat16,
    each at the end or in the middle of its own schedule. bfloat16 gained no speed at this size (3,500 tokens/s both),
    and without AVX512-BF16 or AMX its products were measured 90 times slower.
    """
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"
