"""Loads a CPU engine directory into a runtime."""

from __future__ import annotations

from pathlib import Path

from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.guided import DETOKENIZER_FILE
from throughline.engines.cpu.lint import kv_blocks, with_overrides
from throughline.engines.cpu.pipeline import machine_plan, pipeline_factory
from throughline.engines.cpu.runtime import CpuEngineRuntime
from throughline.vocabulary import Vocabulary


def load_runtime(engine_dir: Path, info: EngineInfo, overrides: dict[str, object]) -> CpuEngineRuntime:
    """Loads the engine that `info` describes.

    Raises:
        EngineError: If it makes no tokens, an override is refused, a file is missing, or OpenVINO cannot load it.
    """
    if info.embedding is not None:
        raise EngineError(
            "this engine makes vectors, no tokens",
            where=str(engine_dir),
            seen="embedding in engine.json",
            fix="give an engine that generates, or serve this one for /v1/embeddings",
        )
    spec = with_overrides(info, overrides)
    check_graph_files(engine_dir)
    vocabulary = Vocabulary.from_tokenizer(engine_dir / "tokenizer.json", info.control_token_ids)
    plan = machine_plan(spec)
    blocks = kv_blocks(info, spec, plan.kv_cache_dtype)
    factory = pipeline_factory(engine_dir, info, spec, plan, blocks)
    can_guide = (engine_dir / DETOKENIZER_FILE).is_file()
    try:
        return CpuEngineRuntime(info, spec, vocabulary, factory, kv_blocks=blocks, can_guide=can_guide)
    except RuntimeError as error:
        raise not_loadable(engine_dir, error) from error


def check_graph_files(engine_dir: Path) -> None:
    """Raises `EngineError` if the graph or its weights are missing."""
    missing = [name for name in ("openvino_model.xml", "openvino_model.bin") if not (engine_dir / name).is_file()]
    if missing:
        raise EngineError("engine is incomplete", where=str(engine_dir), seen=f"no {missing[0]}", fix="build it again")


def not_loadable(engine_dir: Path, error: RuntimeError) -> EngineError:
    """What OpenVINO says of an engine that it cannot load."""
    return EngineError(
        "OpenVINO cannot load the engine",
        where=str(engine_dir),
        seen=str(error).strip()[:300],
        fix="build it again",
    )
