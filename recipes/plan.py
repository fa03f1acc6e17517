"""Plans an engine or a training before it starts: bytes term by term, what fits, how fast it can be, what to choose.

python -m recipes.plan config=/models/Llama-3.1-8B/config.json gpu=h100-sxm plan.precision=fp8
python -m recipes.plan config=/models/Qwen3-8B gpu=l4 workload=rag workload.concurrency=8 format=json
python -m recipes.plan job=train config=/models/Llama-3.1-8B gpu=a100-80g training.method=full
python -m recipes.plan score           # what was planned beside what came of it

Reads a config.json and nothing else. Bytes were compared with what PyTorch allocated on an H100 (docs/log.md), never
with TensorRT-LLM; the throughput estimate is within 15 % of NVIDIA's table for Llama 3.1 8B in FP8 on H100 and H200.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from recipes import app
from recipes.plan_score import score_table, scores
from recipes.training_plan import plan_training, training_plot, training_tables
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError, EngineError
from throughline.contracts.planning import GpuSpec, PlanSpec, TrainingPlanSpec
from throughline.contracts.report import Column, Plot, Report, Section, Series, Table
from throughline.contracts.workload import Workload
from throughline.planning.advise import Option, changes, first_limit, fits, options, recommended
from throughline.planning.memory import Memory, kv_dtype, memory, sequences
from throughline.planning.shape import read_shape


class Config(app.RecipeConfig):
    """Settings of `recipes.plan`."""

    config: Path | None = None
    gpu: GpuSpec
    workload: Workload
    job: Literal["serve", "train", "score"] = "serve"
    plan: PlanSpec = PlanSpec()
    training: TrainingPlanSpec = TrainingPlanSpec()
    format: Literal["table", "json"] = "table"

    @property
    def path(self) -> Path:
        """The model's config.

        Raises:
            ConfigError: If none is given.
        """
        if self.config is None:
            raise ConfigError(
                "no model to plan for", where="config", seen="null", fix="give a config.json or its folder: config=…"
            )
        return self.config


class Plan(StrictModel):
    """What is planned, what it takes and what comes of it; see `Memory` for the bytes."""

    model: str
    parameters: int
    fits: bool
    weights_bytes: int
    activation_bytes: int
    logits_bytes: int
    lora_bytes: int
    other_bytes: int
    kv_cache_dtype: str
    kv_bytes_per_token: float
    kv_token_capacity: int
    total_bytes: int
    gpu_bytes: int
    max_concurrent_sequences: int
    first_limit: str
    estimate: dict[str, Any] | None
    recommended: dict[str, Any] | None
    precisions: dict[str, dict[str, Any]]
    changes: list[dict[str, Any]]


def make(config: Config) -> Plan:
    """Returns the plan; nothing is written."""
    shape = read_shape(config.path)
    found = memory(shape, config.gpu, config.plan, config.workload)
    fit = fits(found, config.plan, config.workload)
    every = options(shape, config.gpu, config.plan, config.workload)
    own = next((option for option in every if option.precision == config.plan.precision), None)
    if own is None:
        raise EngineError(
            "the GPU has no arithmetic for this precision",
            where="plan.precision",
            seen=f"{config.plan.precision} on {config.gpu.name}, compute capability {config.gpu.compute_capability}",
            fix=f"take one of {', '.join(option.precision for option in every)}",
        )
    return Plan(
        model=str(config.path),
        parameters=shape.parameters,
        fits=fit,
        weights_bytes=round(found.weights),
        activation_bytes=round(found.activations),
        logits_bytes=round(found.logits),
        lora_bytes=round(found.lora),
        other_bytes=round(found.other),
        kv_cache_dtype=kv_dtype(config.plan),
        kv_bytes_per_token=found.kv_per_token,
        kv_token_capacity=found.kv_capacity,
        total_bytes=round(found.total),
        gpu_bytes=round(config.gpu.memory_bytes),
        max_concurrent_sequences=sequences(found, config.plan, config.workload),
        first_limit=first_limit(found, config.plan, config.workload, shape.positions),
        estimate=asdict(own.estimate) if own.estimate else None,
        recommended=recommended(every, config.plan, config.workload),
        precisions={option.precision: _option(option) for option in every},
        changes=[] if fit else [asdict(item) for item in changes(shape, config.gpu, config.plan, config.workload)],
    )


def _option(option: Option) -> dict[str, Any]:
    return {
        "weights_bytes": round(option.memory.weights),
        "kv_token_capacity": option.memory.kv_capacity,
        "estimate": asdict(option.estimate) if option.estimate else None,
    }


def _tables(config: Config, plan: Plan, found: Memory) -> list[Table]:
    from throughline.reporting import format as fmt

    terms: list[list[object]] = [
        ["weights", fmt.bytes_(found.weights), f"{config.plan.precision}, {plan.parameters:,} parameters"],
        ["activations", fmt.bytes_(found.activations), f"max_num_tokens={config.plan.max_num_tokens}"],
        ["logits", fmt.bytes_(found.logits), f"max_batch_size={config.plan.max_batch_size}, float32, twice"],
        ["LoRA adapters", fmt.bytes_(found.lora), f"{config.workload.lora_adapters} adapters"],
        ["other", fmt.bytes_(found.other), "context, libraries, communication, CUDA graphs"],
        [
            "KV cache",
            fmt.bytes_(found.kv_capacity * found.kv_per_token),
            f"{plan.kv_cache_dtype}, {found.kv_capacity:,} tokens of {fmt.bytes_(found.kv_per_token)}",
        ],
        ["left", fmt.bytes_(found.free) if found.free >= 0 else f"−{fmt.bytes_(-found.free)}", config.gpu.name],
    ]
    columns = [Column("", align="left"), Column("on each GPU"), Column("of", align="left")]
    speeds: list[list[object]] = []
    for name, option in plan.precisions.items():
        speed = option["estimate"]
        speeds.append(
            [
                name,
                fmt.bytes_(option["weights_bytes"]),
                option["kv_token_capacity"],
                *(
                    [speed["concurrency"], 1e3 * speed["ttft"], 1e3 * speed["tpot"], speed["tokens_per_second"]]
                    if speed
                    else ["does not fit", None, None, None]
                ),
                speed["bound"] if speed else None,
            ]
        )
    headings = [
        Column("precision", align="left"),
        Column("weights"),
        Column("KV cache", "tokens"),
        Column("in flight"),
        Column("TTFT alone", "ms"),
        Column("TPOT", "ms"),
        Column("throughput", "tokens/s"),
        Column("decoding is bound by", align="left"),
    ]
    note = (
        f"requests of {config.workload.input_tokens} + {config.workload.output_tokens} tokens; a roofline's estimates: "
        "throughline.planning.roofline says what it assumes"
    )
    return [Table("Memory", columns, terms), Table("Precisions", headings, speeds, note=note)]


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.job == "score":
        _score(config)
    elif config.job == "train":
        _training(config)
    else:
        _serving(config)


def _score(config: Config) -> None:
    found = scores(config.store())
    if config.format == "json":
        sys.stdout.write(json.dumps([vars(score) for score in found], indent=1) + "\n")
        return
    _print([score_table(found)])
    app.echo(f"of       {config.store().home}")
    app.echo("next     python -m recipes.build" if not found else "next     python -m recipes.plan config=…")


def _serving(config: Config) -> None:
    plan = make(config)
    found = memory(read_shape(config.path), config.gpu, config.plan, config.workload)
    tables = _tables(config, plan, found)
    if config.format == "table":
        _print(tables)
        app.echo(f"first    {plan.first_limit}")
        app.echo(f"page     {_write_page(config, plan, found, tables)}")
        if plan.recommended:
            app.echo("take     " + "  ".join(f"{key}={value}" for key, value in plan.recommended.items()))
    else:
        sys.stdout.write(plan.model_dump_json(indent=1) + "\n")
    if not plan.fits:
        where = f"{config.gpu.name}, {config.plan.tp_size * config.plan.pp_size} of them"
        raise _does_not_fit("engine", where, _arithmetic(plan), plan.changes, "plan")
    if config.format == "table":
        app.echo("next     python -m recipes.build")


def _training(config: Config) -> None:
    from throughline.reporting import format as fmt

    shape = read_shape(config.path)
    plan = plan_training(str(config.path), shape, config.gpu, config.training)
    tables = training_tables(plan, config.training)
    total = f"{fmt.bytes_(plan.total_bytes)} of {fmt.bytes_(plan.gpu_bytes)} {plan.most_is_needed}"
    if config.format == "table":
        _print(tables)
        report = Report(
            title=f"Training plan: {config.path} on {config.gpu.name}",
            verdict=f"{config.training.method} {'fits' if plan.fits else 'does not fit'}: {total}",
            verdict_kind="good" if plan.fits else "bad",
            summary=[f"GPU figures: {config.gpu.source}"],
            sections=[
                Section("Memory", "", [tables[0]], [training_plot(shape, config.gpu, config.training)]),
                Section("Sizes", "", [tables[1]]),
            ],
            environment={"GPU": config.gpu.name, "method": config.training.method},
            command=f"python -m recipes.plan job=train config={config.path}",
        )
        app.echo(f"page     {_write(config, report, f'train-{config.training.method}')}")
    else:
        sys.stdout.write(plan.model_dump_json(indent=1) + "\n")
    if not plan.fits:
        raise _does_not_fit("training step", config.gpu.name, total, plan.changes, "training")
    if config.format == "table":
        app.echo("next     python -m recipes.train")


def _print(tables: list[Table]) -> None:
    from throughline.reporting.terminal import print_table

    for table in tables:
        print_table(table)


def _does_not_fit(what: str, where: str, seen: str, found: list[dict[str, Any]], key: str) -> EngineError:
    ways = []
    for item in found:
        settings = " ".join(f"{key}.{name}={value}" for name, value in item["settings"].items())
        ways.append(f"{settings} ({item['cost']})")
    fix = " or ".join(ways) or "take a larger GPU, or more than eight"
    return EngineError(f"the {what} does not fit", where=where, seen=seen, fix=fix)


def _write_page(config: Config, plan: Plan, found: Memory, tables: list[Table]) -> Path:
    from throughline.reporting import format as fmt

    precision = config.plan.precision
    fit = f"{plan.max_concurrent_sequences:,} requests of the workload fit" if plan.fits else "does not fit"
    report = Report(
        title=f"Plan: {config.path} on {config.gpu.name}",
        verdict=f"{precision} {'fits' if plan.fits else 'does not fit'}: {fit}, {fmt.bytes_(found.weights)} of weights",
        verdict_kind="good" if plan.fits else "bad",
        summary=[f"first limit: {plan.first_limit}", f"GPU figures: {config.gpu.source}"],
        sections=[
            Section("Memory", "", [tables[0]], [_stack(config, found), _memory_plot(config, found)]),
            Section("Speed", "", [tables[1]]),
        ],
        environment={"GPU": config.gpu.name, "precision": precision, "tensor parallel": str(config.plan.tp_size)},
        command=f"python -m recipes.plan config={config.path} plan.precision={precision}",
    )
    return _write(config, report, precision)


def _write(config: Config, report: Report, name: str) -> Path:
    from throughline.reporting.html import write_report

    path = config.path.resolve()
    model = path.parent.name if path.name == "config.json" else path.stem if path.is_file() else path.name
    return write_report(report, config.store().home / "plans" / f"{model}-{name}")[0]


def _stack(config: Config, found: Memory) -> Plot:
    """Bytes against context × concurrency."""
    most = max(2 * found.kv_capacity, 16)
    tokens = [round(most * share / 32) for share in range(33)]
    thousands = [count / 1000 for count in tokens]
    parts = {
        "weights": found.weights,
        "activations, logits, adapters": found.activations + found.logits + found.lora,
        "other": found.other,
    }
    series = [Series(name, thousands, [size / 2**30 for _ in tokens]) for name, size in parts.items()]
    series.append(Series("KV cache", thousands, [count * found.kv_per_token / 2**30 for count in tokens]))
    limit = config.gpu.memory_bytes / 2**30
    label = "thousand tokens in flight: context × concurrency"
    return Plot("What takes it", label, "GiB", series, kind="stack", limit=limit, limit_name=config.gpu.name)


def _memory_plot(config: Config, found: Memory) -> Plot:
    """Bytes against requests in flight: each line stands on the one below it, the KV cache at three context lengths."""
    most = max(2 * sequences(found, config.plan, config.workload), 16)
    users = sorted({round(most * share / 16) for share in range(17)})
    mean = config.workload.input_tokens + config.workload.output_tokens

    def flat(name: str, size: float) -> Series:
        return Series(name, [float(count) for count in users], [size / 2**30 for _ in users])

    series = [flat("weights", found.weights), flat("+ activations, logits, other", found.fixed)]
    for tokens in (mean // 2, mean, 2 * mean):
        cached = [(found.fixed + count * tokens * found.kv_per_token) / 2**30 for count in users]
        series.append(Series(f"+ KV of {tokens:,} tokens", [float(count) for count in users], cached))
    limit, name = config.gpu.memory_bytes / 2**30, config.gpu.name
    return Plot("Memory on each GPU", "requests in flight", "GiB", series, limit=limit, limit_name=name)


def _arithmetic(plan: Plan) -> str:
    from throughline.reporting import format as fmt

    fixed = plan.weights_bytes + plan.activation_bytes + plan.logits_bytes + plan.lora_bytes + plan.other_bytes
    return (
        f"{fmt.bytes_(plan.weights_bytes)} weights + {fmt.bytes_(plan.activation_bytes)} activations + "
        f"{fmt.bytes_(plan.logits_bytes)} logits + {fmt.bytes_(plan.lora_bytes)} adapters + "
        f"{fmt.bytes_(plan.other_bytes)} other = {fmt.bytes_(fixed)} of {fmt.bytes_(plan.gpu_bytes)}, "
        f"which leaves {plan.kv_token_capacity:,} tokens of KV cache"
    )


if __name__ == "__main__":
    sys.argv[1:] = ["job=score" if argument == "score" else argument for argument in sys.argv[1:]]
    main()
