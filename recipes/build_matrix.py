"""The end of `recipes.build -m …`: the engines that were made beside each other, as a table and a page.

Each engine answers in a process of its own, in turns, round after round. Quality is the loss of the answers of
validation records, record by record against the first engine of the sweep.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from recipes import app
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.benchmark import BenchRequest, Estimate, Load, RequestRecord
from throughline.contracts.config import StrictModel
from throughline.contracts.engine import EngineInfo
from throughline.contracts.report import Column, Plot, Report, Section, Series, Table

_ANSWER_SECONDS = 600.0
_MIB = 2**20


class MatrixSpec(StrictModel):
    """How engines of a sweep are compared.

    Attributes:
        repeats: Rounds in which each takes its turn; 0 compares nothing.
        concurrency: Requests in flight.
        prompt_tokens: Random tokens of a prompt.
        output_tokens: Tokens of every answer.
        score_records: Validation records that the loss is compared on.
    """

    repeats: int = Field(default=3, ge=0)
    concurrency: tuple[int, ...] = (1, 8, 32)
    prompt_tokens: int = Field(default=64, ge=1)
    output_tokens: int = Field(default=32, ge=1)
    score_records: int = Field(default=16, ge=0)


@dataclass(frozen=True)
class Built:
    """An engine of the sweep, and the dataset that its checkpoint was tuned on, if there is one."""

    name: str
    engine: Artifact
    dataset: Artifact | None


@dataclass
class Sweep:
    """What the jobs of this process have built so far; Hydra runs a sweep's jobs one after the other."""

    spec: MatrixSpec = field(default_factory=MatrixSpec)
    store: ArtifactStore | None = None
    seed: int = 0
    built: dict[str, Built] = field(default_factory=dict)

    def add(self, store: ArtifactStore, spec: MatrixSpec, seed: int, built: Built) -> None:
        """Notes an engine; the same one twice counts once."""
        self.store, self.spec, self.seed = store, spec, seed
        self.built.setdefault(built.engine.digest, built)


SWEEP = Sweep()


@dataclass(frozen=True)
class Row:
    """What was measured of one engine; memory in bytes, times in seconds, rates in tokens a second by concurrency."""

    name: str
    digest: str
    weight_bytes: int
    load_seconds: float
    memory_bytes: int
    rates: dict[int, Estimate]
    loss: float | None
    change: Estimate | None


def finish() -> None:
    """Compares what the sweep has built; nothing if it was a single engine, or jobs for GPUs."""
    from throughline.reporting.html import write_report
    from throughline.reporting.terminal import print_table

    if SWEEP.store is None or len(SWEEP.built) < 2 or not SWEEP.spec.repeats:
        return
    app.echo("comparing")
    rows = measure(list(SWEEP.built.values()), SWEEP.spec, SWEEP.seed)
    table = matrix_table(rows)
    print_table(table)
    page, _ = write_report(page_of(rows, table, SWEEP.spec), SWEEP.store.home / "matrices" / "-".join(short(rows)))
    app.echo(f"page     {page}")
    engines = ",".join(row.digest[:12] for row in rows)
    app.echo(f"next     python -m recipes.evaluate target={rows[-1].digest[:12]}")
    app.echo(f"         python -m recipes.compare 'engines=[{engines}]'")


def short(rows: Sequence[Row]) -> list[str]:
    """Returns names of files and folders for engines."""
    return [row.digest[:6] for row in rows]


def measure(built: Sequence[Built], spec: MatrixSpec, seed: int) -> list[Row]:
    """Measures every engine, in turns."""
    from throughline.benchmarking.child import Child
    from throughline.benchmarking.statistics import mean_estimate, throughput
    from throughline.benchmarking.system import usage
    from throughline.reporting.progress import Progress

    losses = _losses(built, spec.score_records)
    rates: dict[str, dict[int, list[float]]] = {each.name: {users: [] for users in spec.concurrency} for each in built}
    loads: dict[str, float] = {}
    memory: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        children = {
            each.name: stack.enter_context(Child("recipes.raw_engine", [str(each.engine.path)])) for each in built
        }
        for each in built:
            loads[each.name] = children[each.name].ask(None, timeout_seconds=_ANSWER_SECONDS)["load_seconds"]
        turns = spec.repeats * len(built) * len(spec.concurrency)
        done = 0
        with Progress("compare", total=turns, unit="turns") as progress:
            for repeat in range(spec.repeats):
                for users in spec.concurrency:
                    # Not always the same one first, which finds the caches cold.
                    for index in range(len(built)):
                        each = built[(index + repeat) % len(built)]
                        cell = _cell(each, spec, users, seed + repeat)
                        answer = children[each.name].ask(cell, timeout_seconds=_ANSWER_SECONDS)
                        rates[each.name][users].append(
                            throughput([RequestRecord(**item) for item in answer["records"]])
                        )
                        done += 1
                        progress.update(done, engine=each.name, concurrency=users)
        for name, child in children.items():
            memory[name] = usage([child.pid]).memory_bytes
    return [
        Row(
            each.name,
            each.engine.digest,
            EngineInfo.read(each.engine.path).weight_bytes,
            loads[each.name],
            memory[each.name],
            {users: mean_estimate(values) for users, values in rates[each.name].items()},
            *losses.get(each.name, (None, None)),
        )
        for each in built
    ]


def _cell(built: Built, spec: MatrixSpec, users: int, seed: int) -> dict[str, Any]:
    draw = random.Random(f"{seed}-{users}")
    vocabulary = EngineInfo.read(built.engine.path).vocab_size
    requests = [
        BenchRequest(
            "random", [], [], tuple(draw.randrange(vocabulary) for _ in range(spec.prompt_tokens)), spec.output_tokens
        )
        for _ in range(max(2, users))
    ]
    return asdict(Load.closed(requests, users, ignore_eos=True, timeout_seconds=_ANSWER_SECONDS))


def _losses(built: Sequence[Built], count: int) -> dict[str, tuple[float, Estimate]]:
    """Mean loss of the answers' tokens in nats, and its change against the first engine with a 95 % interval."""
    dataset = built[0].dataset
    if dataset is None or not count or any(each.dataset != dataset for each in built):
        return {}
    from recipes.sources import held_out
    from throughline.quantization.loss import Answers, compare
    from throughline.reporting.progress import Progress

    answers = [Answers.of(record.input_ids, record.labels) for record in held_out(dataset.path, count)]
    found: dict[str, tuple[float, Estimate]] = {}
    with Progress("score", total=len(built), unit="engines") as progress:
        first = None
        for number, each in enumerate(built, start=1):
            losses = _engine_losses(each.engine.path, answers)
            first = first or losses
            change = compare(first, losses)
            found[each.name] = (change.quantised, Estimate(change.by_record, change.low, change.high, change.records))
            progress.update(number, engine=each.name)
    return found


def _engine_losses(engine: Path, answers: Sequence[Any]) -> list[Any]:
    import numpy as np
    from scipy.special import log_softmax

    from throughline.engines.cpu.logits import answer_logits
    from throughline.engines.cpu.pipeline import machine_plan
    from throughline.quantization.loss import RecordLoss

    wanted = [(answer.input_ids, answer.positions) for answer in answers]
    found = []
    logits = answer_logits(engine, wanted, dtype=machine_plan(EngineInfo.read(engine).spec).dtype)
    for answer, each in zip(answers, logits, strict=True):
        probabilities = log_softmax(each.astype(np.float64), axis=-1)
        total = -float(probabilities[np.arange(len(answer.targets)), list(answer.targets)].sum())
        found.append(RecordLoss(total, len(answer.targets), tuple(int(token) for token in each.argmax(-1))))
    return found


def matrix_table(rows: Sequence[Row]) -> Table:
    """Returns a row an engine."""
    concurrency = list(rows[0].rates)
    scored = any(row.loss is not None for row in rows)
    columns = [
        Column("engine", align="left"),
        Column("weights", "MiB"),
        Column("loads in", "s"),
        Column("memory", "MiB"),
        *(Column(f"{users} at a time", "tokens/s") for users in concurrency),
        *([Column("loss of answers", "nats"), Column("change", "nats")] if scored else []),
    ]
    cells: list[list[object]] = [
        [
            row.name,
            row.weight_bytes / _MIB,
            row.load_seconds,
            row.memory_bytes / _MIB,
            *(row.rates[users] for users in concurrency),
            *([row.loss, row.change] if scored else []),
        ]
        for row in rows
    ]
    note = "rates: mean, least and most of the rounds, in turns"
    if scored:
        note += f"; change: against {rows[0].name}, by record, 95 %"
    return Table("Engines of the sweep", columns, cells, note=note)


def page_of(rows: Sequence[Row], table: Table, spec: MatrixSpec) -> Report:
    """Returns the page: the table, rates, and what quality costs in size."""
    names = [row.name for row in rows]
    rates = [
        Series(
            f"{users} at a time",
            names,
            [row.rates[users].value for row in rows],
            [row.rates[users].low for row in rows],
            [row.rates[users].high for row in rows],
        )
        for users in rows[0].rates
    ]
    plots = [
        Plot("Throughput", "engine", "tokens/s", rates, kind="bar", note="whiskers: least and most of the rounds"),
        Plot(
            "Size",
            "engine",
            "MiB",
            [
                Series("weights on disk", names, [row.weight_bytes / _MIB for row in rows]),
                Series("memory of the loaded engine", names, [row.memory_bytes / _MIB for row in rows]),
            ],
            kind="bar",
        ),
    ]
    changes = [(row.name, row.change) for row in rows if row.change is not None]
    if changes:
        series = Series(
            "change of the answers' loss",
            [name for name, _ in changes],
            [change.value for _, change in changes],
            [change.low for _, change in changes],
            [change.high for _, change in changes],
        )
        plots.append(Plot("Quality", "engine", "nats a token", [series], kind="bar", note="95 % by record"))
    smallest = min(rows, key=lambda row: row.weight_bytes)
    fastest = max(rows, key=lambda row: row.rates[max(row.rates)].value)
    most = max(rows[0].rates)
    return Report(
        title="Engines of a sweep: " + ", ".join(names),
        verdict=f"smallest: {smallest.name}; fastest with {most} at a time: {fastest.name}",
        verdict_kind="unclear",
        summary=[
            "what may be served is for the gate to say: `python -m recipes.evaluate`",
            f"prompts of {spec.prompt_tokens} random tokens, answers of {spec.output_tokens}, {spec.repeats} rounds",
        ],
        sections=[Section("Comparison", "", [table], plots)],
        environment=_environment(rows),
        command="python -m recipes.build -m quant=…",
    )


def _environment(rows: Sequence[Row]) -> dict[str, str]:
    from throughline.engines.cpu.openvino_env import processor

    return {"processor": processor(), "engines": ", ".join(row.digest[:12] for row in rows)}
