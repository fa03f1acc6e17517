"""The face of every back end: `build`, `load` and `verify`, dispatched on the spec's `backend`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from throughline.contracts.embedding import EmbeddingRuntime, VectorReport
from throughline.contracts.engine import (
    BuildReport,
    CalibrationData,
    EngineBuilder,
    EngineInfo,
    EngineRuntime,
    EngineSpec,
    VerifyReport,
)
from throughline.contracts.errors import EngineError
from throughline.contracts.progress import OnProgress


class LoadedEmbedding(EmbeddingRuntime, Protocol):
    """An embedding runtime that knows which engine it runs, and with which settings after overrides."""

    info: EngineInfo
    spec: EngineSpec


class LoadedEngine(EngineRuntime, Protocol):
    """A runtime that knows which engine it runs, and with which settings after overrides."""

    info: EngineInfo
    spec: EngineSpec


def build(
    checkpoint_dir: Path,
    spec: EngineSpec,
    out_dir: Path,
    on_progress: OnProgress | None = None,
    *,
    name: str | None = None,
    calibration: CalibrationData | None = None,
) -> BuildReport:
    """Builds an engine directory from a Hugging Face checkpoint folder.

    Args:
        checkpoint_dir: Folder with `config.json`, safetensors weights and `tokenizer.json`.
        spec: What to build.
        out_dir: Where to; takes its files when all are written, so an engine in it stays whole until then.
        on_progress: Hears `(phase, fraction of the whole build)`, by expected cost.
        name: Name that the engine is served under; the checkpoint's and the precision by default.
        calibration: Records of the training split, if `spec.calibration` asks for any.

    Raises:
        EngineError: If the spec or the checkpoint is beyond the back end, `calibration` is missing or does not
            fit the model, or memory or disk is short.
        CheckpointError: If the checkpoint is missing or damaged, or its tokenizer is another model's.
        StorageError: If the disk fills while the engine is written.
    """
    return builder(spec.backend, name).build(
        Path(checkpoint_dir), spec, Path(out_dir), on_progress, calibration=calibration
    )


def load(engine_dir: Path, **overrides: object) -> LoadedEngine:
    """Loads an engine; `overrides` replace run-time settings of its spec, e.g. `num_threads=1`.

    Raises:
        EngineError: If the directory holds no engine that makes tokens, or an override is not a run-time setting.
    """
    info = EngineInfo.read(Path(engine_dir))
    _require_cpu(info.spec.backend)
    from throughline.engines.cpu.load import load_runtime

    return load_runtime(Path(engine_dir), info, overrides)


def load_embedding(engine_dir: Path, **overrides: object) -> LoadedEmbedding:
    """Loads an embedding engine; see `load`.

    Raises:
        EngineError: If the directory holds none or an override is not a run-time setting.
    """
    info = EngineInfo.read(Path(engine_dir))
    _require_cpu(info.spec.backend)
    from throughline.engines.cpu.embedding import load_embedding_runtime

    return load_embedding_runtime(Path(engine_dir), info, overrides)


def weight_pass_bytes(info: EngineInfo, spec: EngineSpec) -> int:
    """Returns the bytes of weights that a step of an engine reads from this machine's memory.

    Raises:
        EngineError: If the engine's back end does not run here.
    """
    _require_cpu(spec.backend)
    from throughline.engines.cpu.pipeline import weight_pass_bytes as of_cpu

    return of_cpu(info, spec)


def verify(engine_dir: Path, **overrides: object) -> VerifyReport | VectorReport:
    """Loads an engine and replays the golden prompts that its build recorded.

    Returns:
        How many tokens were the same, or of an embedding engine how near the vectors are.

    Raises:
        EngineError: As `load`, or if the golden prompts are missing.
    """
    if EngineInfo.read(Path(engine_dir)).embedding is not None:
        embedding = load_embedding(engine_dir, **overrides)
        from throughline.engines.cpu.pipeline import machine_name
        from throughline.engines.golden_vectors import replay_vectors

        return replay_vectors(Path(engine_dir), embedding, machine_name(embedding.spec))
    runtime = load(engine_dir, **overrides)
    from throughline.engines.cpu.pipeline import machine_name
    from throughline.engines.golden import replay

    return replay(Path(engine_dir), runtime, machine_name(runtime.spec))


def builder(backend: str, name: str | None = None) -> EngineBuilder:
    """Returns the builder of a back end.

    Raises:
        EngineError: If there is none.
    """
    _require_cpu(backend)
    from throughline.engines.cpu.build import CpuEngineBuilder

    return CpuEngineBuilder(name)


def _require_cpu(backend: str) -> None:
    if backend != "cpu":
        raise EngineError(
            "engines of this back end are not built and not run here",
            where="engine.backend",
            seen=backend,
            fix="write its build as a job with `python -m recipes.build`, or take the engine for processors: "
            "engine=cpu, in the lifecycle \"stages.build=['engine=cpu']\"",
        )
