"""An ensemble's wiring, tensor by tensor: what each step reads is there, and of the type and size that it wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wiring:
    """What was found.

    Attributes:
        faults: What would keep the ensemble from loading or answering.
        unused: Outputs of steps that nothing reads, as `model.tensor`.
    """

    faults: tuple[str, ...]
    unused: tuple[str, ...]


@dataclass
class _Tensors:
    """The ensemble's tensors by name: who makes it, its declaration, whether it may be missing."""

    made: dict[str, tuple[str, Any, bool]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)


def check_ensemble(ensemble: Any, members: Mapping[str, Any]) -> Wiring:
    """Checks an ensemble's `ModelConfig`.

    Args:
        ensemble: The ensemble.
        members: `ModelConfig` of the other models by name.
    """
    known = _Tensors()
    faults = [fault for tensor in ensemble.input for fault in _make(known, "the client", tensor, tensor.name)]
    faults += _producers(ensemble, members, known)
    for step in ensemble.ensemble_scheduling.step:
        if step.model_name in members:
            faults += _consumer(step, members[step.model_name], known)
            faults += _batches(ensemble, members[step.model_name])
    faults += _outputs(ensemble, known)
    faults += [
        f"input {tensor.name} of {ensemble.name} is read by no step"
        for tensor in ensemble.input
        if tensor.name not in known.read
    ]
    faults += _cycle(ensemble)
    return Wiring(tuple(faults), tuple(_unused(ensemble, members, known)))


def _make(known: _Tensors, maker: str, declared: Any, name: str, *, optional: bool | None = None) -> Iterator[str]:
    if name in known.made:
        yield f"{name} is made by {known.made[name][0]} and by {maker}"
        return
    known.made[name] = (maker, declared, declared.optional if optional is None else optional)


def _producers(ensemble: Any, members: Mapping[str, Any], known: _Tensors) -> Iterator[str]:
    for step in ensemble.ensemble_scheduling.step:
        if step.model_name not in members:
            yield f"step {step.model_name}: there is no such model"
            continue
        outputs = {tensor.name: tensor for tensor in members[step.model_name].output}
        for member, name in sorted(step.output_map.items()):
            if member not in outputs:
                yield f"{step.model_name} has no output {member}"
            else:
                yield from _make(known, step.model_name, outputs[member], name, optional=False)


def _consumer(step: Any, model: Any, known: _Tensors) -> Iterator[str]:
    inputs = {tensor.name: tensor for tensor in model.input}
    for name in sorted(set(step.input_map) - set(inputs)):
        yield f"{model.name} has no input {name}"
    for name, tensor in inputs.items():
        source = step.input_map.get(name)
        if source is None:
            if not tensor.optional:
                yield f"input {name} of {model.name} is required and gets nothing"
            continue
        known.read.add(source)
        if source not in known.made:
            yield f"input {name} of {model.name} reads {source}, which nothing makes"
            continue
        maker, declared, optional = known.made[source]
        if optional and not tensor.optional:
            yield f"input {name} of {model.name} is required, and {source} of {maker} may be missing"
        yield from _differs(f"input {name} of {model.name}", tensor, f"{source} of {maker}", declared)


def _outputs(ensemble: Any, known: _Tensors) -> Iterator[str]:
    for tensor in ensemble.output:
        known.read.add(tensor.name)
        if tensor.name not in known.made:
            yield f"output {tensor.name} of {ensemble.name} is made by no step"
            continue
        maker, declared, _ = known.made[tensor.name]
        yield from _differs(f"output {tensor.name} of {ensemble.name}", tensor, f"that of {maker}", declared)


def _differs(one: str, wanted: Any, other: str, given: Any) -> Iterator[str]:
    if wanted.data_type != given.data_type:
        kinds = [tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type for tensor in (wanted, given)]
        names = [
            kind.values_by_number[tensor.data_type].name for kind, tensor in zip(kinds, (wanted, given), strict=True)
        ]
        yield f"{one} is {names[0]}, {other} is {names[1]}"
    if not _fits(wanted.dims, given.dims):
        yield f"{one} is {list(wanted.dims)}, {other} is {list(given.dims)}"


def _fits(one: Sequence[int], other: Sequence[int]) -> bool:
    return len(one) == len(other) and all(-1 in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))


def _batches(ensemble: Any, model: Any) -> Iterator[str]:
    if model.max_batch_size < ensemble.max_batch_size:
        yield f"{model.name} takes batches of {model.max_batch_size}, {ensemble.name} of {ensemble.max_batch_size}"


def _cycle(ensemble: Any) -> Iterator[str]:
    """Names the steps that wait for one another."""
    waiting = {
        number: (set(step.input_map.values()), set(step.output_map.values()))
        for number, step in enumerate(ensemble.ensemble_scheduling.step)
    }
    while waiting:
        unmade = set().union(*(outputs for _, outputs in waiting.values()))
        ready = [number for number, (inputs, _) in waiting.items() if not inputs & unmade]
        if not ready:
            names = ", ".join(ensemble.ensemble_scheduling.step[number].model_name for number in waiting)
            yield f"steps wait for one another: {names}"
            return
        for number in ready:
            del waiting[number]


def _unused(ensemble: Any, members: Mapping[str, Any], known: _Tensors) -> Iterator[str]:
    for step in ensemble.ensemble_scheduling.step:
        for tensor in members[step.model_name].output if step.model_name in members else ():
            if step.output_map.get(tensor.name) not in known.read:
                yield f"{step.model_name}.{tensor.name}"
