"""The part of `recipes.plan` that plans a training: `job=train`."""

from __future__ import annotations

from typing import Any

from throughline.contracts.config import StrictModel
from throughline.contracts.planning import GpuSpec, TrainingPlanSpec
from throughline.contracts.report import Column, Plot, Series, Table
from throughline.planning.shape import ModelShape
from throughline.planning.training import (
    TrainingMemory,
    adapter_parameters,
    training_changes,
    training_fits,
    training_memory,
)

_MICRO_BATCHES = (1, 2, 4, 8, 16)
_SHORTEST, _LONGEST = 512, 32768
_MOMENTS = {
    "loss": "when the backward pass begins, at the loss",
    "head": "in the output head's backward pass",
    "layer": "in a layer's backward pass",
    "embedding": "in the embedding's backward pass",
    "step": "in the optimiser's step",
}


class TrainingPlan(StrictModel):
    """What a training takes on each GPU; see `TrainingMemory` for the bytes."""

    model: str
    parameters: int
    trained_parameters: int
    fits: bool
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    logits_bytes: int
    recomputed_bytes: int
    gathered_bytes: int
    other_bytes: int
    most_is_needed: str
    total_bytes: int
    gpu_bytes: int
    sizes: list[dict[str, Any]]
    changes: list[dict[str, Any]]


def plan_training(model: str, shape: ModelShape, gpu: GpuSpec, spec: TrainingPlanSpec) -> TrainingPlan:
    """Returns the plan; nothing is written."""
    found = training_memory(shape, spec)
    fits = training_fits(found, gpu)
    return TrainingPlan(
        model=model,
        parameters=shape.parameters,
        trained_parameters=shape.parameters if spec.method == "full" else adapter_parameters(shape, spec.lora_rank),
        fits=fits,
        weights_bytes=round(found.weights),
        gradients_bytes=round(found.gradients),
        optimizer_bytes=round(found.optimizer),
        activation_bytes=round(found.activations),
        logits_bytes=round(found.logits),
        recomputed_bytes=round(found.recomputed),
        gathered_bytes=round(found.gathered),
        other_bytes=round(found.other),
        most_is_needed=_MOMENTS[found.moment],
        total_bytes=round(found.total),
        gpu_bytes=round(gpu.memory_bytes),
        sizes=_sizes(shape, gpu, spec),
        changes=[] if fits else [vars(change) for change in training_changes(shape, gpu, spec)],
    )


def _sizes(shape: ModelShape, gpu: GpuSpec, spec: TrainingPlanSpec) -> list[dict[str, Any]]:
    rows = []
    for length in _lengths(shape, spec):
        for batch in sorted({*_MICRO_BATCHES, spec.micro_batch_size}):
            update = {"sequence_length": length, "micro_batch_size": batch}
            found = training_memory(shape, spec.model_copy(update=update))
            rows.append(update | {"total_bytes": round(found.total), "fits": training_fits(found, gpu)})
    return rows


def _lengths(shape: ModelShape, spec: TrainingPlanSpec) -> list[int]:
    found, length = {spec.sequence_length}, _SHORTEST
    while length <= min(_LONGEST, shape.positions):
        found.add(length)
        length *= 2
    return sorted(found)


def training_tables(plan: TrainingPlan, spec: TrainingPlanSpec) -> list[Table]:
    """Returns the terms, and the totals by micro-batch and length."""
    from throughline.reporting import format as fmt

    shards = f", over {spec.data_parallel_shards} GPUs" if spec.data_parallel_shards > 1 else ""
    tokens = f"{spec.micro_batch_size} × {spec.sequence_length:,} tokens"
    kept = "inputs of the layers" if spec.activation_checkpointing else "all that the backward pass needs"
    terms: list[list[object]] = [
        ["weights", fmt.bytes_(plan.weights_bytes), f"{plan.parameters:,} parameters, {spec.method}{shards}"],
        ["gradients", fmt.bytes_(plan.gradients_bytes), f"{plan.trained_parameters:,} trained"],
        ["optimiser", fmt.bytes_(plan.optimizer_bytes), f"{spec.optimizer}, {spec.optimizer_kernel}"],
        ["activations", fmt.bytes_(plan.activation_bytes), f"{tokens}, {kept}"],
        ["a layer on its way back", fmt.bytes_(plan.recomputed_bytes), "what is computed again, and its gradients"],
        ["logits", fmt.bytes_(plan.logits_bytes), f"{tokens}, {spec.loss}"],
        ["gathered", fmt.bytes_(plan.gathered_bytes), "weights of other shards, or unpacked ones"],
        ["other", fmt.bytes_(plan.other_bytes), "context, workspaces, what the allocator loses: assumed"],
        ["at the worst moment", fmt.bytes_(plan.total_bytes), f"{plan.most_is_needed}; not all terms at once"],
        ["GPU", fmt.bytes_(plan.gpu_bytes), "fits" if plan.fits else "does not fit"],
    ]
    memory = Table("Memory", [Column("", align="left"), Column("on each GPU"), Column("of", align="left")], terms)
    batches = sorted({row["micro_batch_size"] for row in plan.sizes})
    rows: list[list[object]] = []
    for length in sorted({row["sequence_length"] for row in plan.sizes}):
        found = {row["micro_batch_size"]: row for row in plan.sizes if row["sequence_length"] == length}
        cells = [fmt.bytes_(found[batch]["total_bytes"]) + ("" if found[batch]["fits"] else " ✗") for batch in batches]
        rows.append([f"{length:,}", *cells])
    headings = [Column("tokens in a sequence"), *(Column(f"{batch} at a time") for batch in batches)]
    return [memory, Table("Micro-batch and length", headings, rows, note="✗ does not fit")]


def training_plot(shape: ModelShape, gpu: GpuSpec, spec: TrainingPlanSpec) -> Plot:
    """Returns the bytes at the worst moment against the length of a sequence."""
    longest = max(
        (
            length
            for length in _lengths(shape, spec)
            if training_memory(shape, spec.model_copy(update={"sequence_length": length})).total < 2 * gpu.memory_bytes
        ),
        default=spec.sequence_length,
    )
    lengths = [round(max(longest, spec.sequence_length) * share / 32) for share in range(1, 33)]
    found = [training_memory(shape, spec.model_copy(update={"sequence_length": length})) for length in lengths]

    def rest(each: TrainingMemory) -> float:
        return each.total - each.weights - each.optimizer - each.gathered - each.other

    parts = {
        "weights": [each.weights for each in found],
        "optimiser": [each.optimizer for each in found],
        "activations, logits, gradients": [rest(each) for each in found],
        "other": [each.other + each.gathered for each in found],
    }
    series = [Series(name, lengths, [value / 2**30 for value in values]) for name, values in parts.items()]
    title = f"Memory at a micro-batch of {spec.micro_batch_size}"
    limit = gpu.memory_bytes / 2**30
    return Plot(title, "tokens in a sequence", "GiB", series, kind="stack", limit=limit, limit_name=gpu.name)
