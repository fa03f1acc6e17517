"""Compares the `config.json` of a built TensorRT-LLM engine with what was asked for, field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError
from throughline.engines.tensorrt.check import QFORMATS
from throughline.engines.tensorrt.commands import TENSORRT_LLM_VERSION, kv_algorithm

_OFF = {None, False, "", "disable"}


@dataclass(frozen=True)
class Difference:
    """A field of the engine that is not what was asked for."""

    field: str
    asked: object
    built: object


def read_back(engine_dir: Path, spec: EngineSpec) -> tuple[Difference, ...]:
    """Returns what differs; empty if the engine is what the spec says.

    Raises:
        EngineError: If the folder holds no TensorRT-LLM engine.
    """
    path = Path(engine_dir) / "config.json"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        build, pretrained = values["build_config"], values["pretrained_config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            "no TensorRT-LLM engine here", where=str(path), seen=str(error), fix="give the folder that build.sh wrote"
        ) from None
    plugins: Mapping[str, Any] = build.get("plugin_config") or {}
    quantization: Mapping[str, Any] = pretrained.get("quantization") or {}
    mapping: Mapping[str, Any] = pretrained.get("mapping") or {}
    paged = spec.enable_block_reuse or spec.enable_chunked_context
    pairs: dict[str, tuple[object, object]] = {
        "version": (TENSORRT_LLM_VERSION, values.get("version")),
        "max_batch_size": (spec.max_batch_size, build.get("max_batch_size")),
        "max_num_tokens": (spec.max_num_tokens, build.get("max_num_tokens")),
        "max_seq_len": (spec.max_seq_len, build.get("max_seq_len")),
        "max_beam_width": (spec.max_beam_width, build.get("max_beam_width")),
        "kv_cache_type": ("PAGED", str(build.get("kv_cache_type")).upper().rpartition(".")[2]),
        "tp_size": (spec.tp_size, mapping.get("tp_size", 1)),
        "pp_size": (spec.pp_size, mapping.get("pp_size", 1)),
        "quant_algo": (QFORMATS[spec.precision][1], quantization.get("quant_algo")),
        "kv_cache_quant_algo": (kv_algorithm(spec), quantization.get("kv_cache_quant_algo")),
        "tokens_per_block": (spec.tokens_per_block, plugins.get("tokens_per_block", 32)),
        "use_paged_context_fmha": (paged, plugins.get("use_paged_context_fmha", True) not in _OFF),
        "multiple_profiles": (spec.multiple_profiles, plugins.get("multiple_profiles", False) not in _OFF),
        "gemm_plugin": (spec.gemm_plugin != "disable", plugins.get("gemm_plugin") not in _OFF),
        "remove_input_padding": (True, plugins.get("remove_input_padding", True) not in _OFF),
        "lora_plugin": (spec.max_lora_rank > 0, plugins.get("lora_plugin") not in _OFF),
    }
    found = [Difference(name, asked, built) for name, (asked, built) in pairs.items() if asked != built]
    ranks, world = len(list(Path(engine_dir).glob("rank*.engine"))), spec.tp_size * spec.pp_size
    if ranks != world:
        found.append(Difference("rank engines", world, ranks))
    return tuple(found)
