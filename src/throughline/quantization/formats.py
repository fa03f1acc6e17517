"""ModelOpt's configurations by the names of a `QuantSpec`."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from throughline.contracts.errors import EngineError
from throughline.contracts.quantization import QuantSpec

_CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int8": "INT8_WEIGHT_ONLY_CFG",
    "int4": "INT4_BLOCKWISE_WEIGHT_ONLY_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "mxfp8": "MXFP8_DEFAULT_CFG",
}
_KV_CONFIGS = {"fp8": "FP8_KV_CFG", "nvfp4": "NVFP4_KV_CFG"}
# Their arithmetic is written for GPUs alone (ModelOpt 0.47): quantising works on a CPU, a forward pass does not.
_NO_CPU_FORWARD = frozenset({"nvfp4", "mxfp8"})
# Formats in blocks of 128 along a layer's inputs.
BLOCKS_OF_128 = frozenset({"int4", "int4_awq", "w4a8_awq"})


def configuration(spec: QuantSpec) -> dict[str, Any]:
    """Returns what `mtq.quantize` takes.

    Raises:
        EngineError: If ModelOpt refuses the recipe.
    """
    import copy

    import modelopt.torch.quantization as mtq

    if spec.recipe is not None:
        config = _recipe(spec)
    else:
        config = copy.deepcopy(getattr(mtq, _CONFIGS[spec.qformat]))
        if spec.kv_cache_qformat != "none":
            # Exported by itself a KV configuration fails, merged into one of weights it does not (ModelOpt 0.47).
            config["quant_cfg"] += copy.deepcopy(getattr(mtq, _KV_CONFIGS[spec.kv_cache_qformat])["quant_cfg"])
    for pattern in spec.exclude_modules:
        config["quant_cfg"].append({"quantizer_name": f"{pattern.rstrip('*')}*", "enable": False})
    return config


def _recipe(spec: QuantSpec) -> dict[str, Any]:
    from modelopt.recipe import load_recipe

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            recipe = load_recipe(str(spec.recipe))
        quantize = recipe.quantize
    except Exception as error:
        raise EngineError(
            "ModelOpt does not take this recipe",
            where="quantize.recipe",
            seen=f"{spec.recipe}: {error}",
            fix="give a PTQ recipe of ModelOpt's, e.g. general/ptq/fp8_default-kv_fp8",
        ) from None
    values: dict[str, Any] = (
        quantize.model_dump(exclude_unset=True) if hasattr(quantize, "model_dump") else dict(quantize)
    )
    return values


def has_cpu_forward(spec: QuantSpec) -> bool:
    """Returns whether a quantised model can be run without a GPU, as far as the format's name says."""
    return spec.recipe is not None or (spec.qformat not in _NO_CPU_FORWARD and spec.kv_cache_qformat != "nvfp4")
