"""What a repository has to know of the engine that it serves: from a build's settings, or from what was built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import DeployError
from throughline.documents import BrokenFile, Document

_OFF = {None, False, "", "disable", "none", "false", "None"}


@dataclass(frozen=True)
class ServedEngine:
    """An engine of TensorRT-LLM.

    Attributes:
        name: What it is called.
        max_batch_size: Sequences in one iteration; Triton cannot raise it.
        max_beam_width: Beams of one request.
        world_size: GPUs of one instance, `tp_size * pp_size`.
        paged_context_fmha: Whether `use_paged_context_fmha` is built in, which KV reuse and chunked context need.
        enable_kv_cache_reuse: Whether it was asked for when the engine was built.
        enable_chunked_context: The same of chunked context.
        max_lora_rank: Largest rank of an adapter; 0 without `lora_plugin`.
    """

    name: str
    max_batch_size: int
    max_beam_width: int = 1
    world_size: int = 1
    paged_context_fmha: bool = True
    enable_kv_cache_reuse: bool = True
    enable_chunked_context: bool = True
    max_lora_rank: int = 0

    @classmethod
    def of_spec(cls, name: str, spec: EngineSpec) -> Self:
        """Returns what an engine of these settings is."""
        return cls(
            name=name,
            max_batch_size=spec.max_batch_size,
            max_beam_width=spec.max_beam_width,
            world_size=spec.tp_size * spec.pp_size,
            paged_context_fmha=spec.enable_block_reuse or spec.enable_chunked_context,
            enable_kv_cache_reuse=spec.enable_block_reuse,
            enable_chunked_context=spec.enable_chunked_context,
            max_lora_rank=spec.max_lora_rank,
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the `config.json` of an engine directory.

        Raises:
            DeployError: If the folder holds no engine of TensorRT-LLM, or not all of its ranks.
        """
        try:
            document = Document.read(folder / "config.json")
        except (OSError, BrokenFile) as error:
            raise _no_engine(folder, str(error)) from None
        if document.get("build_config") is None or document.get("pretrained_config") is None:
            raise _no_engine(folder, "config.json without build_config and pretrained_config")
        mapping = document.get("pretrained_config", "mapping", default={}) or {}
        world = int(mapping.get("tp_size", 1)) * int(mapping.get("pp_size", 1))
        ranks = len(list(folder.glob("rank*.engine")))
        if ranks != world:
            raise DeployError(
                "the engine lacks ranks" if ranks < world else "the folder has ranks of another engine",
                where=str(folder),
                seen=f"{ranks} rank engines, world size {world}",
                fix="copy the whole folder that build.sh wrote",
            )
        paged = document.get("build_config", "plugin_config", "use_paged_context_fmha", default=True) not in _OFF
        lora = document.get("build_config", "plugin_config", "lora_plugin") not in _OFF
        return cls(
            name=folder.name,
            max_batch_size=int(document.get("build_config", "max_batch_size", default=2048)),
            max_beam_width=int(document.get("build_config", "max_beam_width", default=1)),
            world_size=world,
            paged_context_fmha=paged,
            enable_kv_cache_reuse=paged,
            enable_chunked_context=paged,
            max_lora_rank=int(document.get("build_config", "lora_config", "max_lora_rank", default=64)) if lora else 0,
        )


def _no_engine(folder: Path, seen: str) -> DeployError:
    return DeployError(
        "no engine of TensorRT-LLM here",
        where=str(folder),
        seen=seen,
        fix="give the folder that build.sh wrote, or the build job: python -m recipes.build engine=gpu",
    )
