"""A build for a GPU machine, written as a job: the part of `recipes.build` for the back ends of TensorRT-LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.sources import Source
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.checkpoints import check_finite, check_weights, read_tensors
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineLintError
from throughline.contracts.planning import PlanSpec
from throughline.contracts.report import Column, Table
from throughline.engines.tensorrt import BuildJob, Difference, Requirement, read_back, write_job
from throughline.engines.tensorrt.check import CALIBRATED, as_quantised, check_shape
from throughline.planning.memory import weight_bytes
from throughline.planning.shape import ModelShape, read_shape

# Assumptions behind the expected time: bytes per second of disks, and operations per second while calibrating.
_DISK_RATE, _CALIBRATION_RATE = 1e9, 1e14
# Beside the weights: context, libraries, activations of one calibration record.
_BESIDE = 3e9
_PLANNED: dict[str, Any] = {"int4": "int4_awq"}


def requirement(shape: ModelShape, spec: EngineSpec) -> Requirement:
    """Returns what a build is expected to take: the 16-bit model on the GPUs, then checkpoint and engine on disk."""
    gpus = spec.tp_size * spec.pp_size
    whole = 2.0 * shape.parameters
    plan = PlanSpec(precision=_PLANNED.get(spec.precision, spec.precision), tp_size=spec.tp_size, pp_size=spec.pp_size)
    written = 2 * gpus * weight_bytes(shape, plan)
    tokens = spec.calib_size * spec.calib_max_seq_length if spec.precision in CALIBRATED else 0
    return Requirement(
        gpus=gpus,
        gpu_bytes=round(whole / gpus + _BESIDE),
        disk_bytes=round(written),
        seconds=(whole + 2 * written) / _DISK_RATE + 2.0 * shape.parameters * tokens / _CALIBRATION_RATE,
    )


def make_job(store: ArtifactStore, spec: EngineSpec, *, name: str, source: Source, seed: int) -> Artifact:
    """Makes the job, or finds it."""
    folder, dataset = source.folder, source.dataset
    if source.quantised is not None:
        spec = as_quantised(spec, source.quantised)
    stage = store.stage(
        "build-job",
        name,
        inputs=source.inputs,
        config=source.stage_config,
        code_version=code_version(
            "throughline.engines.tensorrt", "throughline.contracts.engine", "throughline.contracts.quantization"
        ),
        seed=seed if dataset else 0,
    )
    with stage as run:
        if run.cached:
            return run.cached
        shape = read_shape(folder)
        sizes = {"hidden_size": shape.hidden, "intermediate_size": shape.intermediate}
        sizes["num_attention_heads * head_dim"] = shape.heads * shape.head_dim
        check_shape(spec, heads=shape.heads, inputs=sizes)
        if source.quantised is None:
            check_weights(folder)
        else:
            check_finite(read_tensors(folder))
        needs = requirement(shape, spec)
        write_job(
            run.directory,
            name=name,
            spec=spec,
            requirement=needs,
            checkpoint_digest=source.digest,
            dataset_digest=dataset.digest if dataset else None,
            texts=_texts(source.calibration, folder) if source.calibration else (),
            quantised=source.quantised,
        )
        return run.commit(metrics={"status": "planned, not built", "expected": needs.model_dump(mode="json")})


def _texts(calibration: Artifact, checkpoint: Path) -> list[str]:
    """Calibration records as text, special tokens included: the scripts tokenise them again."""
    from tokenizers import Tokenizer

    from throughline.data import Calibration

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    records = Calibration.read(calibration.path).token_ids
    return [tokenizer.decode(list(ids), skip_special_tokens=False) for ids in records]


def job_table(job: BuildJob) -> Table:
    """Returns what the job is and takes."""
    from throughline.reporting import format as fmt

    need = job.requirement
    before: list[list[object]] = [["checkpoint", f"quantised before: {job.quantised}"]] if job.quantised else []
    rows: list[list[object]] = [
        ["status", job.status],
        ["back end", f"{job.spec.backend}, TensorRT-LLM {job.tensorrt_llm}"],
        ["precision", job.spec.precision],
        *before,
        ["container", job.container],
        ["GPUs", f"{need.gpus}, {fmt.bytes_(need.gpu_bytes)} each"],
        ["disk", fmt.bytes_(need.disk_bytes)],
        ["time", f"{fmt.seconds(need.seconds)}, and TensorRT's search for kernels: estimates"],
    ]
    return Table(f"Build job {job.name}", [Column("", align="left"), Column("", align="left")], rows)


def check_built(engine_dir: Path, spec: EngineSpec) -> tuple[Difference, ...]:
    """Returns nothing if an engine is what the spec asks for.

    Raises:
        EngineLintError: Naming the first field that differs.
        EngineError: If the folder holds no engine.
    """
    found = read_back(engine_dir, spec)
    if found:
        named = "; ".join(f"{item.field}: asked {item.asked}, built {item.built}" for item in found)
        raise EngineLintError(
            "the engine is not what was asked for",
            where=f"{engine_dir}/config.json",
            seen=named,
            fix="run the job of these settings again, or give the settings that it was built with",
        )
    return found
