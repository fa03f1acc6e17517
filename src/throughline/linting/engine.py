"""Rules for a TensorRT-LLM engine directory: `config.json` beside `rank{N}.engine` (releases up to 1.2.x)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.linting import Finding, Rule
from throughline.documents import Document

NUM_TOKENS = Rule(
    "num-tokens", "error", "max_num_tokens holds a token of every sequence, and a prompt where it is not cut"
)
WORLD_SIZE = Rule("world-size", "error", "there is one rank engine for each GPU of the mapping")
USER_BUFFER = Rule("user-buffer", "error", "user_buffer needs reduce_fusion")
FP8_CONTEXT = Rule(
    "fp8-context-fmha", "warning", "use_fp8_context_fmha works with FP8 weights and an FP8 KV cache only"
)
ARCHITECTURE = Rule("architecture", "error", "the GPU has the arithmetic that the weights were quantised for")
FUSED_GEMM = Rule("fp8-gemm-plugins", "error", "gemm_swiglu and low_latency_gemm in FP8 are for Hopper")
VERSION = Rule("engine-version", "error", "the container's TensorRT-LLM is the one that built the engine")
LORA_BUILD = Rule("lora-plugin", "error", "max_lora_rank needs lora_plugin")
KV_DISABLED = Rule("kv-cache-disabled", "error", "an engine that generates has a KV cache")
RULES = (
    NUM_TOKENS,
    WORLD_SIZE,
    USER_BUFFER,
    FP8_CONTEXT,
    ARCHITECTURE,
    FUSED_GEMM,
    VERSION,
    LORA_BUILD,
    KV_DISABLED,
)
# Compute capability from which on a quantisation runs (TensorRT-LLM's support matrix by GPU).
_LEAST_CAPABILITY = {
    "FP8": 8.9,
    "W4A8_AWQ": 8.9,
    "W4A8_QSERVE": 8.9,
    "NVFP4": 10.0,
    "W4A8_NVFP4_FP8": 10.0,
    "MXFP4": 10.0,
}
_HOPPER_ONLY = ("gemm_swiglu_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin")
_OFF = {None, False, "", "disable", "none", "false", "None"}


@dataclass(frozen=True)
class Target:
    """What the user says of where it will run; None where nothing is said.

    Attributes:
        compute_capability: Of the GPU, e.g. 9.0.
        version: TensorRT-LLM's version in the container, e.g. `1.2.1`.
        concurrency: Requests in flight.
        weights: Read every number of a checkpoint.
    """

    compute_capability: float | None = None
    version: str | None = None
    concurrency: int | None = None
    weights: bool = False


@dataclass(frozen=True)
class EngineDirectory:
    """An engine directory; `document` is its `config.json`."""

    path: Path
    document: Document

    @classmethod
    def find(cls, path: Path) -> EngineDirectory | None:
        """Reads a directory, None if it holds no TensorRT-LLM engine.

        Raises:
            BrokenFile: If `config.json` is no mapping.
        """
        file = path / "config.json"
        if not file.is_file():
            return None
        document = Document.read(file)
        if "build_config" not in document.values or "pretrained_config" not in document.values:
            return None
        return cls(path, document)

    def build(self, *keys: str, default: Any = None) -> Any:
        """Returns a setting of `build_config`."""
        return self.document.get("build_config", *keys, default=default)

    def plugin(self, name: str, default: Any = None) -> Any:
        """Returns a setting of `build_config.plugin_config`."""
        return self.build("plugin_config", name, default=default)

    def on(self, name: str, default: bool = False) -> bool:
        """Returns whether a plugin is on."""
        return self.plugin(name, default) not in _OFF

    @property
    def quant_algo(self) -> str | None:
        """The weights' quantisation as TensorRT-LLM names it."""
        value = self.document.get("pretrained_config", "quantization", "quant_algo")
        return str(value) if value else None

    @property
    def world_size(self) -> int:
        """GPUs of one instance."""
        mapping = self.document.get("pretrained_config", "mapping", default={}) or {}
        product = int(mapping.get("tp_size", 1)) * int(mapping.get("pp_size", 1)) * int(mapping.get("cp_size", 1))
        return int(mapping.get("world_size", product))

    def finding(self, rule: Rule, keys: tuple[str, ...], seen: str, cure: str) -> Finding:
        """Returns a finding at a key of `config.json`."""
        return Finding(rule, self.document.path, self.document.line(*keys), ".".join(keys), seen, cure)


def check_engine(engine: EngineDirectory, target: Target) -> Iterator[Finding]:
    """Yields what contradicts in an engine, and between it and where it will run."""
    yield from _sizes(engine)
    yield from _plugins(engine)
    yield from _hopper_only(engine, target)
    yield from check_architecture(engine.quant_algo, target, engine.document, ("pretrained_config", "quantization"))
    ranks = len(list(engine.path.glob("rank*.engine")))
    if ranks != engine.world_size:
        yield engine.finding(
            WORLD_SIZE,
            ("pretrained_config", "mapping"),
            f"world_size {engine.world_size}, {ranks} rank engines",
            "copy all rank engines, or build again with the mapping of these GPUs",
        )
    version = engine.document.get("version")
    if target.version and version and not _same_version(str(version), target.version):
        yield engine.finding(
            VERSION,
            ("version",),
            f"engine {version}, container {target.version}",
            f"build the engine in the container of {target.version}",
        )


def check_architecture(
    quant_algo: str | None, target: Target, document: Document, keys: tuple[str, ...]
) -> Iterator[Finding]:
    """Yields a finding if the GPU cannot compute in a quantisation."""
    found = [least for name, least in _LEAST_CAPABILITY.items() if quant_algo and quant_algo.startswith(name)]
    least = max(found, default=0.0)
    if target.compute_capability is not None and target.compute_capability < least:
        yield Finding(
            ARCHITECTURE,
            document.path,
            document.line(*keys, "quant_algo"),
            ".".join((*keys, "quant_algo")),
            f"{quant_algo} on compute capability {target.compute_capability}",
            f"take a GPU of {least} or more, or another precision",
        )


def _sizes(engine: EngineDirectory) -> Iterator[Finding]:
    tokens, batch = engine.build("max_num_tokens", default=8192), engine.build("max_batch_size", default=2048)
    prompt = engine.build("max_input_len", default=0)
    if tokens < batch:
        yield engine.finding(
            NUM_TOKENS,
            ("build_config", "max_num_tokens"),
            f"max_num_tokens={tokens}, max_batch_size={batch}",
            f"build with max_num_tokens of {batch} or more",
        )
    elif tokens < prompt and not engine.on("use_paged_context_fmha", True):
        yield engine.finding(
            NUM_TOKENS,
            ("build_config", "max_num_tokens"),
            f"max_num_tokens={tokens}, max_input_len={prompt}, use_paged_context_fmha off",
            "build with use_paged_context_fmha and chunk prompts, or with a larger max_num_tokens",
        )
    if str(engine.build("kv_cache_type", default="PAGED")).upper().endswith("DISABLED"):
        yield engine.finding(
            KV_DISABLED,
            ("build_config", "kv_cache_type"),
            str(engine.build("kv_cache_type")),
            "build with kv_cache_type=paged",
        )


def _plugins(engine: EngineDirectory) -> Iterator[Finding]:
    plugins = ("build_config", "plugin_config")
    if engine.on("user_buffer") and not engine.on("reduce_fusion"):
        yield engine.finding(
            USER_BUFFER, (*plugins, "user_buffer"), "user_buffer without reduce_fusion", "build with both or neither"
        )
    kv = engine.document.get("pretrained_config", "quantization", "kv_cache_quant_algo")
    if (
        engine.plugin("use_fp8_context_fmha")
        and engine.quant_algo
        and engine.quant_algo.startswith("FP8")
        and kv != "FP8"
    ):
        yield engine.finding(
            FP8_CONTEXT,
            (*plugins, "use_fp8_context_fmha"),
            f"kv_cache_quant_algo={kv}",
            "quantise the KV cache to FP8 too, or turn it off",
        )
    rank = engine.build("lora_config", "max_lora_rank", default=0) or 0
    asked = engine.build("lora_config", "lora_dir", default=[]) or engine.build("lora_config", "lora_target_modules")
    if asked and rank and not engine.on("lora_plugin"):
        yield engine.finding(
            LORA_BUILD, (*plugins, "lora_plugin"), f"off, max_lora_rank={rank}", "build with --lora_plugin auto"
        )


def _hopper_only(engine: EngineDirectory, target: Target) -> Iterator[Finding]:
    if target.compute_capability is None or 9.0 <= target.compute_capability < 10.0:
        return
    for name in _HOPPER_ONLY:
        if str(engine.plugin(name)).lower() == "fp8":
            yield engine.finding(
                FUSED_GEMM,
                ("build_config", "plugin_config", name),
                f"fp8 on compute capability {target.compute_capability}",
                f"build with {name} disabled",
            )


def _same_version(one: str, other: str) -> bool:
    """Whether releases agree; `1.2.1.post1` counts as `1.2.1`, `1.2.1rc1` does not."""
    return re.sub(r"\.post\d+$", "", one) == re.sub(r"\.post\d+$", "", other)
