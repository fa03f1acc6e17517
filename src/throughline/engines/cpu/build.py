"""Builds a CPU engine directory: check, graph, quantise, save, golden prompts, card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from throughline import resources
from throughline.checkpoints import check_finite
from throughline.contracts.engine import BuildReport, CalibrationData, EngineInfo, EngineSpec
from throughline.contracts.progress import OnProgress
from throughline.contracts.storage import storage_errors
from throughline.engines.card import mib, render_card
from throughline.engines.cpu.embedding import load_embedding_runtime
from throughline.engines.cpu.embedding_graph import build_embedding_graph
from throughline.engines.cpu.files import Checkpoint, save
from throughline.engines.cpu.graph import build_graph
from throughline.engines.cpu.lint import ComputePlan, check_spec, kv_block_bytes, kv_blocks
from throughline.engines.cpu.load import load_runtime
from throughline.engines.cpu.phases import Phases
from throughline.engines.cpu.pipeline import machine_name, machine_plan
from throughline.engines.cpu.quantize import QUANTISED, calibration_info, calibration_records, compress
from throughline.engines.cpu.resources import SHORT_OF_MEMORY, needed
from throughline.engines.golden import GOLDEN_TOKENS, record, tokenize_prompts
from throughline.engines.golden_vectors import record_vectors
from throughline.engines.replacing import replacing


class CpuEngineBuilder:
    """`EngineBuilder` of the CPU back end.

    Args:
        name: Name that the engine is served under; the checkpoint's and the precision by default.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name

    def build(
        self,
        checkpoint_dir: Path,
        spec: EngineSpec,
        out_dir: Path,
        on_progress: OnProgress | None = None,
        *,
        calibration: CalibrationData | None = None,
    ) -> BuildReport:
        """See `EngineBuilder.build`."""
        phases = Phases(on_progress or (lambda phase, fraction: None), spec)
        with phases("check"):
            check_spec(spec)
            plan = machine_plan(spec)
            checkpoint = Checkpoint(checkpoint_dir, spec)
            need = needed(checkpoint.parameters, spec)
            resources.check(need, resources.available(out_dir), out_dir, what="build the engine", fix=SHORT_OF_MEMORY)
            check_finite(checkpoint.weights.entries, phases.reporter("check"))
            records = calibration_records(spec, calibration, checkpoint.config)
            info = checkpoint.info(self._name, spec).model_copy(
                update={"calibration": calibration_info(spec, calibration, records)}
            )
            if info.embedding is None:
                kv_blocks(info, spec, plan.kv_cache_dtype)
        with storage_errors(out_dir), replacing(out_dir) as work:
            with phases("graph"):
                model = _graph(checkpoint, bf16=spec.precision == "bf16", on_layer=phases.reporter("graph"))
            if spec.precision in QUANTISED:
                with phases("quantise"):
                    model = compress(model, spec, checkpoint.config, records, phases.reporter("quantise"))
            with phases("save"):
                info = save(model, checkpoint, info, work, need)
            with phases("golden"):
                (_record_golden if info.embedding is None else _record_vectors)(info, work)
            notes = _notes(spec, plan)
            files = {path.name: path.stat().st_size for path in work.iterdir() if path.is_file()}
            card = render_card(
                info,
                files,
                phases.seconds,
                machine=machine_name(spec),
                kv_cache=_kv_words(info, spec, plan) if info.embedding is None else "",
                notes=notes,
            )
            (work / "ENGINE_CARD.md").write_text(card, encoding="utf-8")
            info.write(work)
        return BuildReport(out_dir, info, dict(phases.seconds), notes)


def _graph(checkpoint: Checkpoint, *, bf16: bool, on_layer: Callable[[float], None]) -> Any:
    config, weights, embedding = checkpoint.config, checkpoint.weights, checkpoint.embedding
    if embedding is None:
        return build_graph(config, weights, bf16=bf16, on_layer=on_layer)
    return build_embedding_graph(config, weights, embedding, bf16=bf16, prefix=checkpoint.prefix, on_layer=on_layer)


def _record_golden(info: EngineInfo, folder: Path) -> None:
    spec = info.spec
    prompts = tokenize_prompts(folder / "tokenizer.json", spec.max_seq_len)
    runtime = load_runtime(folder, info, {})
    try:
        record(folder, runtime, prompts, min(GOLDEN_TOKENS, spec.max_seq_len - 1), machine_name(spec))
    finally:
        runtime.close()


def _record_vectors(info: EngineInfo, folder: Path) -> None:
    prompts = tokenize_prompts(folder / "tokenizer.json", info.spec.max_seq_len)
    runtime = load_embedding_runtime(folder, info, {})
    try:
        record_vectors(folder, runtime, prompts, machine_name(info.spec))
    finally:
        runtime.close()


def _kv_words(info: EngineInfo, spec: EngineSpec, plan: ComputePlan) -> str:
    blocks = kv_blocks(info, spec, plan.kv_cache_dtype)
    size = blocks * kv_block_bytes(info, plan.kv_cache_dtype)
    reuse = "shared prefixes kept" if spec.enable_block_reuse else "no reuse"
    return f"{plan.kv_cache_dtype}, {mib(size)}: {blocks} blocks of {spec.tokens_per_block} tokens, {reuse}"


def _notes(spec: EngineSpec, plan: ComputePlan) -> tuple[str, ...]:
    notes = []
    if spec.precision == "fp8":
        notes.append(
            "FP8 saves disk space only on a CPU: weights are widened at load, memory and speed are bfloat16's."
        )
    if spec.precision != "f32" and plan.dtype == "f32":
        notes.append(
            f"The building processor has no bfloat16 arithmetic: activations were computed in float32 "
            f"over {spec.precision} weights. A processor that has it will use it and may differ in late tokens."
        )
    return tuple(notes)
