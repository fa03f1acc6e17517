"""What the CPU back end can do with an `EngineSpec`, and the refusal by name of what it cannot."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.contracts.config import parse
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import EngineError, EngineLintError
from throughline.contracts.text import did_you_mean

PRECISIONS = ("f32", "bf16", "int8", "int4", "fp8")
KV_DTYPES = ("auto", "f32", "f16", "bf16", "u8", "u4")
TOKENS_PER_BLOCK = 32
RUNTIME_FIELDS = frozenset(
    {
        "dtype",
        "max_batch_size",
        "max_num_tokens",
        "max_seq_len",
        "kv_cache_dtype",
        "kv_cache_bytes",
        "enable_block_reuse",
        "enable_chunked_context",
        "num_threads",
        "speculative_config",
        "capacity_scheduler_policy",
    }
)
_OF_GPUS = {"tp_size": 1, "pp_size": 1, "gemm_plugin": "auto", "multiple_profiles": False, "max_lora_rank": 0}
_OF_GENERATION = (
    "calibration",
    "kv_cache_dtype",
    "kv_cache_bytes",
    "enable_block_reuse",
    "enable_chunked_context",
    "capacity_scheduler_policy",
    "speculative_config",
)
_KV_BITS = {"f32": 32, "f16": 16, "bf16": 16, "u8": 8, "u4": 4}
# Scale and zero point (float32 each) of every quantised key and value row of `head_dim` numbers.
_KV_ROW_OVERHEAD = 8


@dataclass(frozen=True)
class ComputePlan:
    """The types that a spec comes to on this machine: of activations and of the KV cache."""

    dtype: str
    kv_cache_dtype: str


def check_spec(spec: EngineSpec) -> None:
    """Refuses what OpenVINO GenAI on CPUs does not have.

    Raises:
        EngineError: Naming the field that cannot be honoured.
        EngineLintError: If two fields contradict each other.
    """
    _one_of(spec.precision, PRECISIONS, "precision")
    _one_of(spec.kv_cache_dtype, KV_DTYPES, "kv_cache_dtype")
    if spec.max_beam_width > 1:
        raise _refuse("beam search", "max_beam_width", spec.max_beam_width, "set max_beam_width=1")
    if spec.tokens_per_block != TOKENS_PER_BLOCK:
        raise _refuse(
            "another KV block size",
            "tokens_per_block",
            spec.tokens_per_block,
            f"set tokens_per_block={TOKENS_PER_BLOCK}",
        )
    for field, neutral in _OF_GPUS.items():
        value = getattr(spec, field)
        if value != neutral:
            raise _refuse("what is of GPUs alone", field, value, f"set {field}={neutral}, or take engine=gpu")
    _check_quantisation(spec)
    if spec.embedding is not None:
        _check_embedding(spec)
    speculation = spec.speculative_config
    if speculation is not None and speculation.decoding_type == "Draft_Target" and spec.enable_block_reuse:
        # OpenVINO GenAI 2026.4: a step fails once a sampled request meets blocks of an earlier one.
        raise EngineLintError(
            "a draft engine does not go with shared KV blocks",
            where="engine.enable_block_reuse",
            seen="true, speculative_config.decoding_type=Draft_Target",
            fix="set enable_block_reuse=false, or take decoding_type=NGram",
        )
    if not spec.enable_chunked_context and spec.max_num_tokens < spec.max_seq_len:
        raise EngineLintError(
            "without enable_chunked_context a whole prompt must fit one iteration",
            where="engine.max_num_tokens",
            seen=f"max_num_tokens={spec.max_num_tokens}, max_seq_len={spec.max_seq_len}",
            fix="enable it or set max_num_tokens to max_seq_len",
        )


def _check_embedding(spec: EngineSpec) -> None:
    """Refuses settings of engines that make tokens, which one that makes vectors would silently ignore."""
    for field in _OF_GENERATION:
        value, neutral = getattr(spec, field), EngineSpec.model_fields[field].default
        if value != neutral:
            raise EngineLintError(
                "embedding engines make no tokens and have no KV cache",
                where=f"engine.{field}",
                seen=value,
                fix=f"leave {field} at {neutral}, or set embedding=null",
            )
    if spec.max_num_tokens < spec.max_seq_len:
        raise EngineLintError(
            "a sequence to embed must fit one iteration",
            where="engine.max_num_tokens",
            seen=f"max_num_tokens={spec.max_num_tokens}, max_seq_len={spec.max_seq_len}",
            fix="set max_num_tokens to max_seq_len or more",
        )


def _check_quantisation(spec: EngineSpec) -> None:
    """Refuses INT4's settings in an engine of another precision, which would silently ignore them."""
    if spec.precision == "int4":
        if spec.calibration == "mixed_precision" and spec.int4_ratio == 1:
            raise EngineLintError(
                "calibration=mixed_precision chooses layers for INT8 and int4_ratio leaves none",
                where="engine.int4_ratio",
                seen=spec.int4_ratio,
                fix="lower it, e.g. to 0.8, or set calibration=none",
            )
        return
    for field, neutral in (("calibration", "none"), ("int4_ratio", 1.0)):
        value = getattr(spec, field)
        if value != neutral:
            raise EngineLintError(
                f"{field} is of INT4 alone",
                where=f"engine.{field}",
                seen=f"{field}={value}, precision={spec.precision}",
                fix=f"set precision=int4 or {field}={neutral}",
            )


def plan_compute(spec: EngineSpec, *, has_bf16: bool, has_f16: bool) -> ComputePlan:
    """Resolves `auto` types for a processor.

    The KV cache takes the activations' width: 16 bits, or f32 in an f32 engine. u8 halves it at some accuracy.

    Raises:
        EngineError: If the processor lacks the type that was asked for.
        EngineLintError: If the KV cache's type does not go with the activations'.
    """
    fastest = "bf16" if has_bf16 else "f32"
    dtype = spec.dtype if spec.dtype != "auto" else ("f32" if spec.precision == "f32" else fastest)
    if (dtype == "bf16" and not has_bf16) or (dtype == "f16" and not has_f16):
        raise _refuse(f"{dtype} arithmetic on this processor", "dtype", dtype, "set dtype=auto")
    kv = spec.kv_cache_dtype
    if kv == "auto":
        kv = "f32" if spec.precision == "f32" else ("bf16" if dtype == "bf16" else "f16")
    if kv == "bf16" and dtype != "bf16":
        raise EngineLintError(
            "a bf16 KV cache needs bf16 arithmetic",
            where="engine.kv_cache_dtype",
            seen=f"kv_cache_dtype=bf16, dtype={dtype}",
            fix="set kv_cache_dtype=f16 or auto",
        )
    return ComputePlan(dtype, kv)


def kv_block_bytes(info: EngineInfo, kv_cache_dtype: str) -> int:
    """Bytes of one KV block of 32 tokens over all layers: `2 · layers · kv_heads · 32 · row`."""
    bits = _KV_BITS[kv_cache_dtype]
    row = info.head_dim * bits // 8 + (_KV_ROW_OVERHEAD if bits <= 8 else 0)
    return 2 * info.num_hidden_layers * info.num_key_value_heads * TOKENS_PER_BLOCK * row


def kv_blocks(info: EngineInfo, spec: EngineSpec, kv_cache_dtype: str) -> int:
    """Blocks that `kv_cache_bytes` hold.

    Raises:
        EngineError: If they do not hold one sequence of `max_seq_len`.
    """
    size = kv_block_bytes(info, kv_cache_dtype)
    blocks = spec.kv_cache_bytes // size
    # One block of slack: the scheduler takes a new one before the old one is given back.
    needed = -(-spec.max_seq_len // TOKENS_PER_BLOCK) + 1
    if blocks < needed:
        raise EngineError(
            "KV cache does not hold one sequence of max_seq_len",
            where="engine.kv_cache_bytes",
            seen=f"{spec.kv_cache_bytes}, needed {needed * size} for max_seq_len={spec.max_seq_len}",
            fix="raise kv_cache_bytes or lower max_seq_len",
        )
    return blocks


def with_overrides(info: EngineInfo, overrides: dict[str, object]) -> EngineSpec:
    """Returns the built spec with run-time settings replaced; the result is checked.

    Raises:
        EngineError: If a setting is unknown, fixed at build time, or beyond what was built.
    """
    for name in overrides:
        if name in EngineSpec.model_fields and name not in RUNTIME_FIELDS:
            raise EngineError(
                "setting is fixed when the engine is built",
                where=f"engine.{name}",
                seen=overrides[name],
                fix="build another engine",
            )
        if name not in RUNTIME_FIELDS:
            raise EngineError("unknown engine setting", where=f"engine.{name}", fix=did_you_mean(name, RUNTIME_FIELDS))
    spec = parse(EngineSpec, info.spec.model_dump() | overrides, where="engine")
    if spec.max_seq_len > info.spec.max_seq_len:
        raise EngineError(
            "max_seq_len is beyond what the engine was built for",
            where="engine.max_seq_len",
            seen=f"{spec.max_seq_len}, built for {info.spec.max_seq_len}",
            fix="lower it or build again",
        )
    check_spec(spec)
    return spec


def _one_of(value: str, known: tuple[str, ...], field: str) -> None:
    if value not in known:
        raise _refuse(f"{field}={value}", field, value, f"use one of {', '.join(known)}, or another back end")


def _refuse(what: str, field: str, seen: object, fix: str) -> EngineError:
    return EngineError(f"CPU back end does not have {what}", where=f"engine.{field}", seen=seen, fix=fix)
