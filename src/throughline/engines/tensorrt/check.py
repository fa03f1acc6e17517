"""What TensorRT-LLM's two flows can do with an `EngineSpec`, and the refusal by name of what they cannot."""

from __future__ import annotations

from collections.abc import Mapping

from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError, EngineLintError
from throughline.contracts.quantization import Quantised

# `--qformat` of `examples/quantization/quantize.py` (TensorRT-LLM 1.2.x) and the `quant_algo` that it writes.
QFORMATS = {
    "bf16": ("full_prec", None),
    "fp8": ("fp8", "FP8"),
    "int8": ("int8_wo", "W8A16"),
    "int4": ("int4_wo", "W4A16"),
    "int8_sq": ("int8_sq", "W8A8_SQ_PER_CHANNEL"),
    "int4_awq": ("int4_awq", "W4A16_AWQ"),
    "w4a8_awq": ("w4a8_awq", "W4A8_AWQ"),
    "nvfp4": ("nvfp4", "NVFP4"),
}
# ModelOpt's presets of these names, for the unified checkpoint that the PyTorch flow reads.
MODELOPT = {
    "fp8": "fp8",
    "int4_awq": "int4_awq",
    "w4a8_awq": "w4a8_awq_beta",
    "nvfp4": "nvfp4",
}
CALIBRATED = frozenset({"fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"})
_AWQ = ("int4_awq", "w4a8_awq")
_AWQ_BLOCK = 128
_KV = {"tensorrt": ("auto", "bf16", "fp8"), "pytorch": ("auto", "bf16", "fp8", "nvfp4")}
_OF_CPUS = {
    "dtype": ("auto", "bf16"),
    "calibration": ("none",),
    "int4_ratio": (1.0,),
    "num_threads": (0,),
    "symmetric": (False,),
}


def precisions(backend: str) -> tuple[str, ...]:
    """Returns the precisions that `tensorrt` or `pytorch` has."""
    return tuple(QFORMATS) if backend == "tensorrt" else ("bf16", *MODELOPT)


def check_spec(spec: EngineSpec) -> None:
    """Refuses what the back end does not have.

    Raises:
        EngineError: Naming the field that cannot be honoured.
        EngineLintError: If two fields contradict each other.
    """
    known = precisions(spec.backend)
    if spec.precision not in known:
        raise EngineError(
            f"the {spec.backend} back end does not have this precision",
            where="engine.precision",
            seen=spec.precision,
            fix=f"take one of {', '.join(known)}",
        )
    if spec.embedding is not None:
        raise EngineError(
            f"embedding engines of the {spec.backend} back end are not built here",
            where="engine.embedding",
            seen=spec.embedding.pooling,
            fix="take engine=embedding, which runs on processors",
        )
    if spec.kv_cache_dtype not in _KV[spec.backend]:
        raise EngineError(
            f"the {spec.backend} back end does not have this KV cache",
            where="engine.kv_cache_dtype",
            seen=spec.kv_cache_dtype,
            fix=f"take one of {', '.join(_KV[spec.backend])}",
        )
    for field, neutral in _OF_CPUS.items():
        if getattr(spec, field) not in neutral:
            raise EngineError(
                f"{field} is of the CPU back end",
                where=f"engine.{field}",
                seen=getattr(spec, field),
                fix=f"set {field}={neutral[0]}, or take engine=cpu",
            )
    if spec.backend == "pytorch":
        _refuse_engine_settings(spec)
    elif spec.speculative_config is not None:
        raise EngineError(
            "TensorRT engines are built here without speculative decoding",
            where="engine.speculative_config",
            seen=spec.speculative_config.decoding_type,
            fix="take engine=pytorch",
        )
    _check_sizes(spec)
    if spec.gemm_plugin in ("fp8", "nvfp4") and spec.gemm_plugin != spec.precision:
        raise EngineLintError(
            f"gemm_plugin={spec.gemm_plugin} needs weights of that type",
            where="engine.gemm_plugin",
            seen=f"precision={spec.precision}",
            fix="set gemm_plugin=auto",
        )


def _refuse_engine_settings(spec: EngineSpec) -> None:
    for field, neutral in (("gemm_plugin", "auto"), ("multiple_profiles", False)):
        if getattr(spec, field) != neutral:
            raise EngineError(
                f"{field} is of TensorRT engines",
                where=f"engine.{field}",
                seen=getattr(spec, field),
                fix=f"set {field}={neutral}: the PyTorch flow tunes by itself",
            )


def _check_sizes(spec: EngineSpec) -> None:
    if spec.max_num_tokens < spec.max_batch_size:
        raise EngineLintError(
            "an iteration holds a token of every sequence",
            where="engine.max_num_tokens",
            seen=f"max_num_tokens={spec.max_num_tokens}, max_batch_size={spec.max_batch_size}",
            fix=f"set max_num_tokens to {spec.max_batch_size} or more",
        )
    if not spec.enable_chunked_context and spec.max_num_tokens < spec.max_seq_len:
        raise EngineLintError(
            "without enable_chunked_context a whole prompt must fit one iteration",
            where="engine.max_num_tokens",
            seen=f"max_num_tokens={spec.max_num_tokens}, max_seq_len={spec.max_seq_len}",
            fix="enable it or set max_num_tokens to max_seq_len",
        )
    if spec.precision in _AWQ and spec.group_size != _AWQ_BLOCK:
        raise EngineLintError(
            f"{spec.precision} has kernels for blocks of {_AWQ_BLOCK} alone",
            where="engine.group_size",
            seen=spec.group_size,
            fix=f"set group_size={_AWQ_BLOCK}",
        )


def check_shape(spec: EngineSpec, *, heads: int, inputs: Mapping[str, int]) -> None:
    """Refuses what the model's sizes do not allow.

    Args:
        spec: A checked spec.
        heads: Query heads of the model.
        inputs: Input sizes of its linear layers by name.

    Raises:
        EngineError: Naming the size that is not divisible.
    """
    if heads % spec.tp_size:
        raise EngineError(
            "tensor parallelism does not divide the heads",
            where="engine.tp_size",
            seen=f"{spec.tp_size}, {heads} heads",
            fix=f"take one of {', '.join(str(size) for size in range(1, 9) if heads % size == 0)}",
        )
    wrong = {name: size for name, size in inputs.items() if size % _AWQ_BLOCK}
    if spec.precision in _AWQ and wrong:
        raise EngineError(
            f"{spec.precision} needs input sizes in blocks of {_AWQ_BLOCK}",
            where="engine.precision",
            seen=", ".join(f"{name}={size}" for name, size in wrong.items()),
            fix="take fp8 or int8",
        )


def served_precision(algorithm: str) -> str | None:
    """Returns the precision of a unified checkpoint by its `quant_algo`; None if the PyTorch flow does not run it."""
    return next((name for name in MODELOPT if QFORMATS[name][1] == algorithm), None)


def as_quantised(spec: EngineSpec, found: Quantised) -> EngineSpec:
    """Returns the spec for a checkpoint that is quantised already, its KV cache as it was calibrated.

    Raises:
        EngineError: If the PyTorch flow does not run the format, or the spec asks for another one.
    """
    precision = served_precision(found.algorithm)
    if precision is None:
        raise EngineError(
            "the PyTorch flow does not run checkpoints of this format",
            where="checkpoint",
            seen=found.algorithm,
            fix=f"quantise to one of {', '.join(MODELOPT)}",
        )
    if spec.precision != precision:
        raise EngineError(
            "the checkpoint is quantised otherwise",
            where="engine.precision",
            seen=f"{spec.precision} asked for, the checkpoint is {found.algorithm}",
            fix=f"set quant={precision}",
        )
    own = {"FP8": "fp8", "NVFP4": "nvfp4"}.get(found.kv_cache_algorithm or "", "bf16")
    if spec.kv_cache_dtype not in ("auto", own):
        raise EngineError(
            "the checkpoint's KV cache is of another type",
            where="engine.kv_cache_dtype",
            seen=f"{spec.kv_cache_dtype} asked for, the checkpoint has scales for {found.kv_cache_algorithm or 'none'}",
            fix=f"set kv_cache_dtype={own}, or quantise with quantize.kv_cache_qformat",
        )
    return spec.model_copy(update={"kv_cache_dtype": own})
