"""Builds a CPU engine directory: check, graph, quantise, save, golden prompts, card."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from throughline import resources
from throughline.checkpoints import check_finite, check_shapes, check_tokenizer, read_json, weight_files
from throughline.contracts.checkpoint import licence_files
from throughline.contracts.engine import BuildReport, CalibrationData, EngineInfo, EngineSpec
from throughline.contracts.errors import EngineError
from throughline.contracts.progress import OnProgress
from throughline.contracts.storage import full, storage_errors
from throughline.engines.card import mib, render_card
from throughline.engines.cpu.graph import build_graph
from throughline.engines.cpu.guided import save_detokenizer
from throughline.engines.cpu.lint import ComputePlan, check_spec, kv_block_bytes, kv_blocks
from throughline.engines.cpu.load import load_runtime
from throughline.engines.cpu.model_config import DecoderConfig, eos_token_ids, read_decoder_config
from throughline.engines.cpu.openvino_env import openvino
from throughline.engines.cpu.pipeline import machine_name, machine_plan
from throughline.engines.cpu.quantize import (
    QUANTISED,
    calibration_info,
    calibration_records,
    check_group_size,
    compress,
    quantising_cost,
)
from throughline.engines.cpu.resources import SHORT_OF_MEMORY, needed
from throughline.engines.golden import GOLDEN_TOKENS, record, tokenize_prompts
from throughline.engines.replacing import replacing
from throughline.engines.safetensors_reader import SafetensorsFolder
from throughline.resources import Resources
from throughline.vocabulary import Vocabulary

MODEL_FILE = "openvino_model.xml"
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_CONTROL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
# Seconds of the phases for a model of 135M weights on two cores; what they come to in all is not used.
_COSTS = {"check": 0.5, "graph": 1.0, "save": 0.5, "golden": 5.0}
_PACKAGES = ("openvino", "openvino-genai", "nncf", "numpy", "tokenizers", "throughline")


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
        phases = _Phases(on_progress or (lambda phase, fraction: None), spec)
        with phases("check"):
            check_spec(spec)
            plan = machine_plan(spec)
            checkpoint = _Checkpoint(checkpoint_dir, spec)
            need = needed(checkpoint.parameters, spec)
            resources.check(need, resources.available(out_dir), out_dir, what="build the engine", fix=SHORT_OF_MEMORY)
            check_finite(checkpoint.weights.entries, phases.reporter("check"))
            records = calibration_records(spec, calibration, checkpoint.config)
            info = checkpoint.info(self._name, spec).model_copy(
                update={"calibration": calibration_info(spec, calibration, records)}
            )
            kv_blocks(info, spec, plan.kv_cache_dtype)
        with storage_errors(out_dir), replacing(out_dir) as work:
            with phases("graph"):
                report = phases.reporter("graph")
                bf16 = spec.precision == "bf16"
                model = build_graph(checkpoint.config, checkpoint.weights, bf16=bf16, on_layer=report)
            if spec.precision in QUANTISED:
                with phases("quantise"):
                    model = compress(model, spec, checkpoint.config, records, phases.reporter("quantise"))
            with phases("save"):
                info = _save(model, checkpoint, info, work, need)
            with phases("golden"):
                _record_golden(info, work)
            notes = _notes(spec, plan)
            files = {path.name: path.stat().st_size for path in work.iterdir() if path.is_file()}
            card = render_card(
                info,
                files,
                phases.seconds,
                machine=machine_name(spec),
                kv_cache=_kv_words(info, spec, plan),
                notes=notes,
            )
            (work / "ENGINE_CARD.md").write_text(card, encoding="utf-8")
            info.write(work)
        return BuildReport(out_dir, info, dict(phases.seconds), notes)


class _Phases:
    """Times phases, and tells which one runs and how much of the whole build is done."""

    def __init__(self, on_progress: OnProgress, spec: EngineSpec) -> None:
        self._on_progress = on_progress
        quantise = {"quantise": quantising_cost(spec)} if spec.precision in QUANTISED else {}
        costs = _COSTS | quantise
        self._shares = {phase: cost / sum(costs.values()) for phase, cost in costs.items()}
        self._before = 0.0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._on_progress(phase, self._before)
        started = time.perf_counter()
        yield
        self.seconds[phase] = time.perf_counter() - started
        self._before = min(1.0, self._before + self._shares[phase])
        self._on_progress(phase, self._before)

    def reporter(self, phase: str) -> Any:
        """Returns a callback for fractions within a phase; its end is told by the phase itself."""
        before, share = self._before, self._shares[phase]
        return lambda fraction: self._on_progress(phase, before + share * fraction) if fraction < 1 else None


class _Checkpoint:
    """A checkpoint folder, read and checked as far as headers and configs go."""

    def __init__(self, folder: Path, spec: EngineSpec) -> None:
        self.folder = folder
        if not folder.is_dir():
            weight_files(folder)
        self.values = read_json(folder / "config.json")
        self.config: DecoderConfig = read_decoder_config(self.values, spec.max_seq_len)
        if spec.precision == "int4":
            check_group_size(spec.group_size, self.config)
        self.weights = SafetensorsFolder(folder)
        check_shapes(self.values, self.weights.entries, folder)
        check_tokenizer(folder, self.values, self.config.vocab_size)
        self.parameters = sum(entry.size for entry in self.weights.entries.values())
        generation = folder / "generation_config.json"
        self.generation: dict[str, Any] = read_json(generation) if generation.is_file() else {}
        self.eos = eos_token_ids(self.values, self.generation)
        # Read for its errors: an engine whose tokens have no text should fail before the work is done.
        Vocabulary.from_tokenizer(folder / "tokenizer.json")

    def info(self, name: str | None, spec: EngineSpec) -> EngineInfo:
        config = self.config
        return EngineInfo(
            name=name or f"{self.folder.name}-{spec.precision}",
            spec=spec,
            architecture=config.architecture,
            precision=spec.precision,
            vocab_size=config.vocab_size,
            eos_token_ids=self.eos,
            control_token_ids=tuple(sorted({*self.eos, *_control_ids(self.folder)})),
            max_position_embeddings=config.max_position_embeddings,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            hidden_size=config.hidden_size,
            parameters=self.parameters,
            checkpoint_digest=self.weights.digest(),
            weight_bytes=0,
            versions=_versions(),
        )

    def copy_files(self, out_dir: Path) -> None:
        known = [path for name in _COPIED if (path := self.folder / name).is_file()]
        for path in (*known, *licence_files(self.folder)):
            shutil.copyfile(path, out_dir / path.name)
        generation = self.generation | {"eos_token_id": list(self.eos)}
        (out_dir / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def _save(model: Any, checkpoint: _Checkpoint, info: EngineInfo, folder: Path, need: Resources) -> EngineInfo:
    """Writes the graph and what belongs to it; returns `info` with the size of the weights."""
    with _openvino_writes(folder, need):
        openvino().save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)
    checkpoint.copy_files(folder)
    vocabulary = Vocabulary.from_tokenizer(folder / "tokenizer.json", info.control_token_ids)
    with _openvino_writes(folder, need):
        save_detokenizer(vocabulary, info.control_token_ids, folder)
    return info.model_copy(update={"weight_bytes": (folder / MODEL_FILE).with_suffix(".bin").stat().st_size})


@contextmanager
def _openvino_writes(folder: Path, need: Resources) -> Iterator[None]:
    """OpenVINO says that it could not write and not why, and may have removed what it wrote."""
    try:
        yield
    except RuntimeError as error:
        free = resources.available(folder).disk
        written = sum(path.stat().st_size for path in folder.iterdir())
        if "iostream" in str(error) and free + written < need.disk:
            raise full(folder.parent, f"{free} bytes free, about {need.disk - written} needed") from error
        raise EngineError(
            "OpenVINO cannot save the engine",
            where=str(folder.parent),
            seen=str(error).strip()[:300],
            fix="see that the disk takes files of this size (quota, ulimit -f), then build it again",
        ) from error


def _record_golden(info: EngineInfo, folder: Path) -> None:
    spec = info.spec
    prompts = tokenize_prompts(folder / "tokenizer.json", spec.max_seq_len)
    runtime = load_runtime(folder, info, {})
    try:
        record(folder, runtime, prompts, min(GOLDEN_TOKENS, spec.max_seq_len - 1), machine_name(spec))
    finally:
        runtime.close()


def _control_ids(folder: Path) -> Iterator[int]:
    """Ids of the tokens that `tokenizer_config.json` names as bos, eos, pad and unk."""
    path = folder / "tokenizer_config.json"
    names = read_json(path) if path.is_file() else {}
    tokenizer = read_json(folder / "tokenizer.json")
    added = {item["content"]: int(item["id"]) for item in tokenizer.get("added_tokens") or ()}
    for key in _CONTROL_TOKENS:
        value = names.get(key)
        content = value.get("content") if isinstance(value, Mapping) else value
        if content in added:
            yield added[content]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
