"""A space for GPUs without a GPU: which points the rules and the planner refuse, and which of the rest come first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recipes import app
from recipes.tune_config import Config
from recipes.tune_lint import ENGINE_SPEC, GPU_MEMORY, Refusal, engine_spec, token_room
from recipes.tuned import merged
from throughline.contracts.config import parse
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import ConfigError, TuningError, UserError
from throughline.contracts.planning import GpuSpec, PlanSpec
from throughline.contracts.report import Column, Table
from throughline.contracts.serving import ServeSpec
from throughline.contracts.workload import Workload
from throughline.planning.advise import fits, supported
from throughline.planning.memory import memory
from throughline.planning.roofline import Estimate, estimate
from throughline.planning.shape import ModelShape, read_shape
from throughline.tuning import Settings, SpaceSpec
from throughline.tuning.evidence import by_layer

# Settings whose effect the planner's arithmetic has; of the others a plan takes the first value.
PLANNED = (
    "engine.precision",
    "engine.kv_cache_dtype",
    "engine.max_batch_size",
    "engine.max_num_tokens",
    "engine.tokens_per_block",
    "serve.gpu.kv_cache_free_gpu_mem_fraction",
)
_SHOWN = 10


@dataclass(frozen=True)
class Gpu:
    """Points of an engine for GPUs, judged by its back end's rules and the planner's arithmetic.

    Attributes:
        spec: What the space leaves out.
        serve: The server's settings likewise.
        shape: The model.
        gpu: Where it will run.
        workload: What has to fit.
    """

    spec: EngineSpec
    serve: ServeSpec
    shape: ModelShape
    gpu: GpuSpec
    workload: Workload

    def refusal(self, settings: Settings) -> Refusal | None:
        """Returns the id of the rule that a point breaks and what it says, or None."""
        from throughline.engines.tensorrt.check import check_spec

        try:
            spec = engine_spec(self.spec, by_layer(settings)["engine"])
            refused = token_room(spec)
            if refused:
                return refused
            check_spec(spec)
            plan = self._plan(settings)
        except UserError as error:
            return ENGINE_SPEC.id, str(error)
        if plan.precision not in supported(self.gpu):
            return ENGINE_SPEC.id, f"{self.gpu.name} does not compute in {plan.precision}"
        found = memory(self.shape, self.gpu, plan, self.workload)
        if not fits(found, plan, self.workload):
            return GPU_MEMORY.id, f"{found.fixed:.3g} bytes fixed, {found.kv_capacity} tokens of KV cache"
        return None

    def estimate(self, settings: Settings) -> Estimate | None:
        """Returns what the planner expects of a point that is not refused."""
        plan = self._plan(settings)
        found = memory(self.shape, self.gpu, plan, self.workload)
        return estimate(self.shape, self.gpu, plan, self.workload, found, self.workload.concurrency)

    def _plan(self, settings: Settings) -> PlanSpec:
        layers = by_layer(settings)
        spec = engine_spec(self.spec, layers["engine"])
        serve = parse(ServeSpec, merged(self.serve.model_dump(), layers["serve"]), where="serve")
        values: dict[str, Any] = {
            name: getattr(spec, name)
            for name in ("precision", "kv_cache_dtype", "tp_size", "pp_size", "max_batch_size", "max_num_tokens")
        }
        share = serve.gpu.kv_cache_free_gpu_mem_fraction
        values |= {"tokens_per_block": spec.tokens_per_block, "free_gpu_memory_fraction": share}
        return parse(PlanSpec, values, where="plan")


def planned(space: SpaceSpec) -> Iterator[dict[str, Any]]:
    """Yields the points that the planner can tell apart."""
    dimensions = tuple(
        each if each.key in PLANNED else each.model_copy(update={"values": each.values[:1]})
        for each in space.dimensions
    )
    yield from space.model_copy(update={"dimensions": dimensions}).points()


def run(config: Config) -> None:
    """Prints how many points each rule refuses, and those that the planner would measure first.

    Raises:
        ConfigError: If model or GPU are missing.
        TuningError: If no point is left.
    """
    from throughline.reporting.terminal import print_table

    if config.config is None or config.gpu is None:
        raise ConfigError(
            "a plan needs a model and a GPU",
            where="config" if config.config is None else "gpu",
            fix="give both: config=engines/models/llama-3.1-8b.json gpu=h100-sxm",
        )
    spec = EngineSpec(backend="tensorrt", max_seq_len=_longest(config.workload))
    gpu = Gpu(spec, config.serve, read_shape(config.config), config.gpu, config.workload)
    points = list(planned(config.space))
    refused = {str(index): found for index, point in enumerate(points) if (found := gpu.refusal(point))}
    left = [point for index, point in enumerate(points) if str(index) not in refused]
    counts = Counter(rule for rule, _ in refused.values())
    rows: list[list[object]] = [[rule, count] for rule, count in counts.most_common()]
    print_table(Table("Refused before they run", [Column("rule", align="left"), Column("points")], rows))
    if not left:
        rule, text = next(iter(refused.values()))
        raise TuningError("no point of the space can run", where=f"space={config.space.name}", seen=f"{rule}: {text}")
    print_table(_first(config, gpu, left))
    app.echo(f"planned  {len(points)} points, {len(refused)} refused; the first ones are where a search would start")
    app.echo("next     python -m recipes.build engine=gpu")


def _first(config: Config, gpu: Gpu, left: list[dict[str, Any]]) -> Table:
    # Of points that the arithmetic cannot tell apart the first one.
    found: dict[Estimate, dict[str, Any]] = {}
    for point in left:
        each = gpu.estimate(point)
        if each is not None:
            found.setdefault(each, point)
    ranked = sorted(
        found.items(),
        key=lambda pair: (_over(config, pair[0]) > 1, -pair[0].tokens_per_second),
    )
    varying = [each.key for each in config.space.dimensions if each.key in PLANNED]
    columns = [Column(key.rpartition(".")[2], align="left") for key in varying]
    columns += [Column("throughput", "tokens/s"), Column("TTFT", "ms"), Column("TPOT", "ms"), Column("of the SLO")]
    rows: list[list[object]] = [
        [
            *(str(point[key]) for key in varying),
            each.tokens_per_second,
            1e3 * each.ttft,
            1e3 * each.tpot,
            f"{_over(config, each):.2f}",
        ]
        for each, point in ranked[:_SHOWN]
    ]
    return Table("What the planner would measure first", columns, rows, note="of the SLO: its worst limit, 1 is kept")


def _over(config: Config, found: Estimate) -> float:
    slo = config.slo
    shares = [found.ttft / slo.ttft_seconds] if slo.ttft_seconds else []
    gap = slo.tpot_seconds or slo.itl_seconds
    return max([*shares, *([found.tpot / gap] if gap else [])], default=0.0)


def _longest(workload: Workload) -> int:
    return workload.longest_input_tokens + workload.longest_output_tokens
