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
    """Applies the shim for the length of the block where there is no CUDA; yields whether it was needed.

    TorchDynamo is switched off with it, because AutoModel compiles small kernels through a C++ compiler
    that a laptop may not have.
    """
    import torch

    if torch.cuda.is_available():
        yield False
        return
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
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
    """Returns the type of frozen weights and of arithmetic in training: `bfloat16` where the machine computes in it.

    Adapters stay float32 either way, so that no small update is rounded away. On two cores with AVX512-BF16 torch's
    matrix products ran at 413 GFLOP/s in bfloat16 and 186 in float32; with AVX2 alone at 1.2 and 115 (docs/log.md).
    """
    import torch

    # torch offers no public question for it.
    has = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if torch.cuda.is_available() or has else "float32"
