"""The commands of both flows, for TensorRT-LLM 1.2.x in NVIDIA's containers, and the `model.yaml` of `LLM()`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from throughline.contracts.engine import EngineSpec
from throughline.engines.tensorrt.check import CALIBRATED, MODELOPT, QFORMATS

TENSORRT_LLM_VERSION = "1.2.1"
# The last series of Triton's containers with engines in it (26.04 to 26.07 ship 1.2.1).
CONTAINER = "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
# Shell variables of `build.sh`.
CHECKPOINT, WORK, OUTPUT, CALIBRATION = "$CHECKPOINT", "$WORK", "$OUTPUT", "$JOB/calibration"
MODELOPT_FOLDER = "$MODELOPT"
CALIBRATION_FILE = "train.jsonl"
MODELOPT_VERSION = "0.47.0"
_EXAMPLES = "/app/tensorrt_llm/examples"


@dataclass(frozen=True)
class Step:
    """One command: its name in messages, and its words; `$NAME` is a variable of the script."""

    name: str
    words: tuple[str, ...]


def steps(spec: EngineSpec) -> tuple[Step, ...]:
    """Returns the commands of a checked spec, in order."""
    if spec.backend == "tensorrt":
        return (_quantize(spec), _build(spec))
    return (_export(spec),) if spec.precision in CALIBRATED else ()


def _quantize(spec: EngineSpec) -> Step:
    words = ["python3", f"{_EXAMPLES}/quantization/quantize.py", "--model_dir", CHECKPOINT, "--dtype", "bfloat16"]
    words += ["--qformat", QFORMATS[spec.precision][0], "--output_dir", f"{WORK}/checkpoint"]
    words += ["--tp_size", str(spec.tp_size), "--pp_size", str(spec.pp_size)]
    if kv_algorithm(spec):
        words += ["--kv_cache_dtype", "fp8"]
    if spec.precision in ("int4_awq", "w4a8_awq"):
        words += ["--awq_block_size", str(spec.group_size)]
    if spec.precision in CALIBRATED:
        words += ["--calib_dataset", CALIBRATION, "--calib_size", str(spec.calib_size)]
        words += ["--calib_max_seq_length", str(spec.calib_max_seq_length)]
    return Step("quantise", tuple(words))


def _build(spec: EngineSpec) -> Step:
    flags: dict[str, str] = {
        "checkpoint_dir": f"{WORK}/checkpoint",
        "output_dir": OUTPUT,
        "max_batch_size": str(spec.max_batch_size),
        "max_num_tokens": str(spec.max_num_tokens),
        "max_input_len": str(spec.max_seq_len),
        "max_seq_len": str(spec.max_seq_len),
        "max_beam_width": str(spec.max_beam_width),
        "kv_cache_type": "paged",
        "tokens_per_block": str(spec.tokens_per_block),
        "remove_input_padding": "enable",
        "use_paged_context_fmha": _switch(spec.enable_block_reuse or spec.enable_chunked_context),
        "use_fp8_context_fmha": _switch(spec.precision == "fp8" and kv_algorithm(spec) == "FP8"),
        "gemm_plugin": spec.gemm_plugin,
        "multiple_profiles": _switch(spec.multiple_profiles),
        "workers": str(spec.tp_size * spec.pp_size),
    }
    if spec.max_lora_rank:
        flags |= {"lora_plugin": "auto", "max_lora_rank": str(spec.max_lora_rank)}
    words = ["trtllm-build"]
    for name, value in flags.items():
        words += [f"--{name}", value]
    return Step("build", tuple(words))


def _export(spec: EngineSpec) -> Step:
    """ModelOpt's own script, from a checkout of NVIDIA/Model-Optimizer: a unified Hugging Face checkpoint."""
    words = ["python3", f"{MODELOPT_FOLDER}/examples/hf_ptq/hf_ptq.py", "--pyt_ckpt_path", CHECKPOINT]
    words += ["--export_path", OUTPUT]
    words += ["--qformat", MODELOPT[spec.precision], "--export_fmt", "hf"]
    words += ["--kv_cache_qformat", "fp8" if kv_algorithm(spec) == "FP8" else "none"]
    words += ["--dataset", f"{CALIBRATION}/{CALIBRATION_FILE}", "--calib_size", str(spec.calib_size)]
    words += ["--calib_seq", str(spec.calib_max_seq_length)]
    return Step("quantise", tuple(words))


def kv_algorithm(spec: EngineSpec) -> str | None:
    """Returns the KV cache's `quant_algo`: `auto` is FP8 beside FP8, W4A8 and NVFP4 weights."""
    if spec.kv_cache_dtype == "auto":
        return "FP8" if spec.precision in ("fp8", "w4a8_awq", "nvfp4") else None
    return {"fp8": "FP8", "nvfp4": "NVFP4"}.get(spec.kv_cache_dtype)


def model_yaml(spec: EngineSpec, model: str) -> dict[str, Any]:
    """Returns the arguments of `LLM()` and Triton's own, each setting in one place.

    Args:
        spec: Of the `pytorch` back end.
        model: Folder of the checkpoint on the serving machine.
    """
    values: dict[str, Any] = {
        "model": model,
        "backend": "pytorch",
        "tensor_parallel_size": spec.tp_size,
        "pipeline_parallel_size": spec.pp_size,
        "max_batch_size": spec.max_batch_size,
        "max_num_tokens": spec.max_num_tokens,
        "max_seq_len": spec.max_seq_len,
        "max_beam_width": spec.max_beam_width,
        "enable_chunked_prefill": spec.enable_chunked_context,
        "kv_cache_config": {
            "enable_block_reuse": spec.enable_block_reuse,
            "tokens_per_block": spec.tokens_per_block,
            "max_gpu_total_bytes": spec.kv_cache_bytes,
            "dtype": {"FP8": "fp8", "NVFP4": "nvfp4", None: "auto"}[kv_algorithm(spec)],
        },
        "cuda_graph_config": {"max_batch_size": spec.max_batch_size, "enable_padding": True},
        "triton_config": {"max_batch_size": 0, "decoupled": True},
    }
    speculation = spec.speculative_config
    if speculation is not None:
        values["speculative_config"] = {
            "decoding_type": speculation.decoding_type,
            "max_draft_len": speculation.max_draft_len,
        }
        if speculation.speculative_model_dir is None:
            values["speculative_config"]["max_matching_ngram_size"] = speculation.max_matching_ngram_size
        else:
            values["speculative_config"]["speculative_model_dir"] = str(speculation.speculative_model_dir)
    if spec.max_lora_rank:
        values["lora_config"] = {
            "lora_target_modules": [
                "attn_q",
                "attn_k",
                "attn_v",
                "attn_dense",
                "mlp_h_to_4h",
                "mlp_gate",
                "mlp_4h_to_h",
            ],
            "max_lora_rank": spec.max_lora_rank,
        }
        values["peft_cache_config"] = {"max_adapter_size": spec.max_lora_rank}
    return values


def _switch(on: bool) -> str:
    return "enable" if on else "disable"
