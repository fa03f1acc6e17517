"""A build for a GPU machine, written as a job: the part of `recipes.build` for the back ends of TensorRT-LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipes.sources import Source
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.checkpoints import check_finite, check_weights, read_tensors
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError, EngineLintError
from throughline.contracts.planning import GpuSpec, PlanSpec
from throughline.contracts.report import Column, Table
from throughline.contracts.workload import Workload
from throughline.engines.tensorrt import BuildJob, Difference, EnginePlan, Requirement, read_back, write_job
from throughline.engines.tensorrt.check import CALIBRATED, as_quantised, check_shape, precisions
from throughline.planning.advise import changes, fits, supported
from throughline.planning.memory import kv_dtype, memory, sequences, weight_bytes
from throughline.planning.shape import ModelShape, read_shape

# Assumptions behind the expected time: bytes per second of disks, and operations per second while calibrating.
_DISK_RATE, _CALIBRATION_RATE = 1e9, 1e14
# Beside the weights: context, libraries, activations of one calibration record.
_BESIDE = 3e9
_PLANNED: dict[str, Any] = {"int4": "int4_awq"}
_KEYS = {"precision": "quant"}
# Changes that are looked for, since some are of precisions that the back end does not have, and that are shown.
_MANY, _SHOWN = 12, 3
_OF_PLAN = ("tp_size", "pp_size", "max_batch_size", "max_num_tokens", "tokens_per_block")


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


def engine_plan(shape: ModelShape, spec: EngineSpec, gpu: GpuSpec) -> EnginePlan:
    """Returns what the engine comes to on that board.

    Raises:
        EngineError: If the board does not compute in the precision, or a request of `max_seq_len` tokens does not fit.
    """
    precision = _PLANNED.get(spec.precision, spec.precision)
    if precision not in supported(gpu):
        raise EngineError(
            "the GPU has no arithmetic for this precision",
            where="engine.precision",
            seen=f"{spec.precision} on {gpu.name}, compute capability {gpu.compute_capability}",
            fix=f"take one of {', '.join(supported(gpu))}",
        )
    plan = PlanSpec(
        precision=precision,
        kv_cache_dtype=spec.kv_cache_dtype,
        **{name: getattr(spec, name) for name in _OF_PLAN},
    )
    request = Workload(
        input_tokens=spec.max_seq_len - 1,
        output_tokens=1,
        longest_input_tokens=spec.max_seq_len - 1,
        longest_output_tokens=1,
        lora_adapters=min(1, spec.max_lora_rank),
        lora_rank=max(1, spec.max_lora_rank),
    )
    found = memory(shape, gpu, plan, request)
    if not fits(found, plan, request):
        ways = [
            " ".join(f"{_KEYS.get(name, f'engine.{name}')}={value}" for name, value in change.settings.items())
            + f" ({change.cost})"
            for change in changes(shape, gpu, plan, request, count=_MANY)
            if change.settings.get("precision", spec.precision) in precisions(spec.backend)
        ][:_SHOWN]
        raise EngineError(
            "the engine does not fit its GPU",
            where=gpu.name,
            seen=f"{found.fixed:,.0f} bytes without a KV cache, of {gpu.memory_bytes:,.0f}; a request of "
            f"{spec.max_seq_len:,} tokens takes {found.kv_per_token * spec.max_seq_len:,.0f} more",
            fix=" or ".join(ways) or "take a larger GPU, or more than eight",
        )
    return EnginePlan(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        gpu_bytes=round(gpu.memory_bytes),
        weights_bytes=round(found.weights),
        kv_cache_dtype=kv_dtype(plan),
        kv_bytes_per_token=found.kv_per_token,
        kv_token_capacity=found.kv_capacity,
        max_concurrent_sequences=sequences(found, plan, request),
    )


def check_building(needs: Requirement, gpu: GpuSpec) -> None:
    """Refuses a job that quantises on GPUs which do not hold the model in 16 bits.

    Raises:
        EngineError: If they do not.
    """
    if needs.gpu_bytes > gpu.memory_bytes:
        raise EngineError(
            "the GPU does not hold the model while it is quantised",
            where=gpu.name,
            seen=f"{needs.gpu_bytes:,} bytes on each of {needs.gpus}, which have {gpu.memory_bytes:,.0f}",
            fix="raise engine.tp_size, or take engine=pytorch for what `python -m recipes.quantize` made elsewhere",
        )


def make_job(
    store: ArtifactStore, spec: EngineSpec, *, name: str, source: Source, seed: int, gpu: GpuSpec | None = None
) -> Artifact:
    """Makes the job, or finds it; with a GPU it is planned for that."""
    folder, dataset = source.folder, source.dataset
    if source.quantised is not None:
        spec = as_quantised(spec, source.quantised)
    stage = store.stage(
        "build-job",
        name,
        inputs=source.inputs,
        config=source.stage_config | ({"gpu": gpu.model_dump(mode="json")} if gpu else {}),
        code_version=code_version(
            "throughline.engines.tensorrt",
            "throughline.engines.card",
            "throughline.contracts.engine",
            "throughline.contracts.quantization",
            "throughline.planning",
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
        needs = requirement(shape, spec)
        plan = None
        if gpu is not None:
            plan = engine_plan(shape, spec, gpu)
            if spec.precision in CALIBRATED and source.quantised is None:
                check_building(needs, gpu)
        if source.quantised is None:
            check_weights(folder)
        else:
            check_finite(read_tensors(folder))
        write_job(
            run.directory,
            name=name,
            spec=spec,
            requirement=needs,
            checkpoint_digest=source.digest,
            dataset_digest=dataset.digest if dataset else None,
            texts=_texts(source.calibration, folder) if source.calibration else (),
            quantised=source.quantised,
            plan=plan,
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
        *_planned_rows(job),
        ["time", f"{fmt.seconds(need.seconds)}, and TensorRT's search for kernels: estimates"],
    ]
    return Table(f"Build job {job.name}", [Column("", align="left"), Column("", align="left")], rows)


def _planned_rows(job: BuildJob) -> list[list[object]]:
    from throughline.reporting import format as fmt

    plan = job.plan
    if plan is None:
        return [["plan", "none: no GPU was named (gpu=h100-sxm)"]]
    cache = f"{plan.kv_token_capacity:,} tokens of KV cache ({plan.kv_cache_dtype})"
    return [
        ["plan", f"{plan.gpu}: {fmt.bytes_(plan.weights_bytes)} of weights, {cache}"],
        ["in flight", f"{plan.max_concurrent_sequences:,} requests of {job.spec.max_seq_len:,} tokens"],
    ]


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
