"""TensorRT-LLM's folders without a fault: engine, model repositories, checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from throughline.documents import ModelConfigFile as ModelConfigFile

PARAMETERS = {
    "gpt_model_type": "inflight_fused_batching",
    "batch_scheduler_policy": "guaranteed_no_evict",
    "max_beam_width": "1",
    "enable_kv_cache_reuse": "true",
    "enable_chunked_context": "true",
    "gpu_weights_percent": "1.0",
    "kv_cache_free_gpu_mem_fraction": "0.9",
    "guided_decoding_backend": "xgrammar",
    "xgrammar_tokenizer_info_path": "/tokenizer.json",
    "lora_cache_max_adapter_size": "64",
    "gpu_device_ids": "0,1",
    "decoding_mode": "top_k_top_p",
}
ENGINE: dict[str, Any] = {
    "version": "1.2.1",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    },
    "build_config": {
        "max_input_len": 4096,
        "max_batch_size": 64,
        "max_num_tokens": 8192,
        "max_beam_width": 1,
        "kv_cache_type": "PAGED",
        "weight_streaming": False,
        "lora_config": {"lora_target_modules": ["attn_q"], "max_lora_rank": 32},
        "plugin_config": {
            "gpt_attention_plugin": "auto",
            "remove_input_padding": True,
            "use_paged_context_fmha": True,
            "use_fp8_context_fmha": True,
            "lora_plugin": "auto",
            "user_buffer": False,
            "reduce_fusion": False,
            "gemm_swiglu_plugin": "fp8",
        },
    },
}
LLM: dict[str, Any] = {
    "model": "/models/llama",
    "max_batch_size": 64,
    "max_num_tokens": 8192,
    "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9},
    "scheduler_config": {"capacity_scheduler_policy": "MAX_UTILIZATION"},
    "cuda_graph_config": {"max_batch_size": 64, "enable_padding": True},
    "speculative_config": {"decoding_type": "NGram", "max_draft_len": 4, "max_matching_ngram_size": 2},
    "guided_decoding_backend": "xgrammar",
    "lora_config": {"lora_target_modules": ["attn_q"], "max_lora_rank": 16},
    "triton_config": {"max_batch_size": 8, "decoupled": True},
}


def pbtxt(name: str, body: str = "", *, decoupled: bool = False, count: int = 1, batch: int = 64) -> str:
    """The text of a `config.pbtxt` of the python back end, or of an ensemble."""
    kind = 'platform: "ensemble"' if "ensemble_scheduling" in body else 'backend: "python"'
    group = "" if "ensemble_scheduling" in body else f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]\n"
    flag = f"model_transaction_policy {{\n  decoupled: {str(decoupled).lower()}\n}}\n"
    return f'name: "{name}"\n{kind}\nmax_batch_size: {batch}\n{flag}{group}{body}'


def tensors(kind: str, *names: str) -> str:
    return "".join(f'{kind} {{ name: "{name}" data_type: TYPE_INT32 dims: [ -1 ] }}\n' for name in names)


def parameters(values: dict[str, str]) -> str:
    return "".join(
        f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "{value}"\n  }}\n}}\n'
        for key, value in values.items()
    )


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [f'input_map {{ key: "{key}" value: "{value}" }}' for key, value in inputs.items()]
    maps += [f'output_map {{ key: "{key}" value: "{value}" }}' for key, value in outputs.items()]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}\n'


def write_engine(tmp_path: Path) -> Path:
    """An engine directory of two ranks."""
    folder = tmp_path / "engine"
    write(folder / "config.json", json.dumps(ENGINE, indent=2))
    for rank in range(2):
        (folder / f"rank{rank}.engine").write_bytes(b"plan")
    return folder


def write_repository(tmp_path: Path, engine: Path) -> Path:
    """A repository in the `inflight_batcher_llm` layout."""
    folder = tmp_path / "repository"
    write(
        folder / "preprocessing/config.pbtxt",
        pbtxt("preprocessing", tensors("input", "QUERY") + tensors("output", "INPUT_ID")),
    )
    write(
        folder / "postprocessing/config.pbtxt",
        pbtxt("postprocessing", tensors("input", "TOKENS_BATCH") + tensors("output", "OUTPUT")),
    )
    body = tensors("input", "input_ids", "request_output_len", "seed") + tensors("output", "output_ids")
    body += parameters(PARAMETERS | {"gpt_model_path": str(engine)})
    body += "dynamic_batching { default_queue_policy { max_queue_size: 100 } }\n"
    text = pbtxt("tensorrt_llm", body, decoupled=True).replace('backend: "python"', 'backend: "tensorrtllm"')
    write(folder / "tensorrt_llm/config.pbtxt", text)
    bls = tensors("input", "text_input", "seed") + tensors("output", "text_output")
    write(folder / "tensorrt_llm_bls/config.pbtxt", pbtxt("tensorrt_llm_bls", bls, decoupled=True, count=64))
    steps = step("preprocessing", {"QUERY": "text_input"}, {"INPUT_ID": "ids"})
    steps += step("tensorrt_llm", {"input_ids": "ids"}, {"output_ids": "out"})
    steps += step("postprocessing", {"TOKENS_BATCH": "out"}, {"OUTPUT": "text_output"})
    body = tensors("input", "text_input", "seed") + tensors("output", "text_output")
    write(
        folder / "ensemble/config.pbtxt",
        pbtxt("ensemble", f"{body}ensemble_scheduling {{\n{steps}}}\n", decoupled=False),
    )
    return folder


def write_llmapi(tmp_path: Path) -> Path:
    """A repository with the `llmapi` model."""
    folder = tmp_path / "llmapi"
    write(folder / "tensorrt_llm/config.pbtxt", pbtxt("tensorrt_llm", decoupled=True, batch=8))
    write(folder / "tensorrt_llm/1/model.yaml", yaml.safe_dump(LLM, sort_keys=False))
    return folder


def write_checkpoint(tmp_path: Path) -> Path:
    """A quantised checkpoint in two shards."""
    folder = tmp_path / "checkpoint"
    config = {"model_type": "llama", "vocab_size": 8, "quantization_config": {"quant_algo": "FP8"}}
    write(folder / "config.json", json.dumps(config, indent=1))
    write(folder / "hf_quant_config.json", json.dumps({"quantization": {"quant_algo": "FP8"}}, indent=1))
    embedding = {"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}
    save_file(embedding, folder / "model-1.safetensors")
    save_file({"lm_head.weight": np.zeros((8, 4), np.float32)}, folder / "model-2.safetensors")
    places = {"model.embed_tokens.weight": "model-1.safetensors", "lm_head.weight": "model-2.safetensors"}
    write(folder / "model.safetensors.index.json", json.dumps({"weight_map": places}, indent=1))
    vocabulary = {"model": {"vocab": {str(number): number for number in range(7)}}, "added_tokens": [{"id": 7}]}
    write(folder / "tokenizer.json", json.dumps(vocabulary))
    write(folder / "tokenizer_config.json", json.dumps({"chat_template": "{{ messages }}"}))
    return folder
