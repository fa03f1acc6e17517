"""Runs a workload on targets in turns and keeps what was measured, also of a run that ends early."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import app, bench_report, layers, service
from recipes.endpoint import Endpoint, attached
from recipes.measuring import Measuring, measuring
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.contracts.errors import MeasurementError, UserError
from throughline.contracts.measurement import Measurement, Target
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload

if TYPE_CHECKING:
    from throughline.benchmarking.traces import Trace

MEASUREMENTS = "measurements.json"
# Lines of a trace that were not sent again, with their reasons.
REJECTS = "trace_rejects.jsonl"
_CODE = (
    *layers.MEASURED,
    "recipes.measuring",
    "recipes.opening",
    "recipes.endpoint",
    "recipes.workloads",
    "recipes.engine_readings",
)
# Parts that a target does not have, so that their settings change nothing in it.
_BELOW: Mapping[Target, Sequence[str]] = {"raw": ("serve", "gateway"), "triton": ("gateway",), "gateway": ()}


@dataclass(frozen=True)
class Run:
    """What is measured; see `recipes.bench.Config`.

    Attributes:
        engine: What the targets run; None with an endpoint.
        endpoint: A service that runs already; it is the target `gateway`.
        settings: By dotted key, of all targets together.
        web_port: Where Locust shows its pages; None for nowhere.
        command: What the user typed, for the report.
    """

    store: ArtifactStore
    engine: Artifact | None
    endpoint: Endpoint | None
    dataset: Artifact | None
    workload: Workload
    slo: SloSpec | None
    price: PriceSpec | None
    targets: Sequence[Target]
    seconds: float
    rounds: int
    settings: Mapping[str, Any]
    timeout_seconds: float
    seed: int
    web_port: int | None
    command: str

    @property
    def subject(self) -> str:
        """What is measured, for people."""
        if self.engine is not None:
            return self.engine.short
        return self.endpoint.address if self.endpoint is not None else ""

    def of(self, target: Target) -> dict[str, Any]:
        """Returns a target's settings by dotted key."""
        return {key: value for key, value in self.settings.items() if key.partition(".")[0] not in _BELOW[target]}

    def read_trace(self) -> Trace:
        """Reads the workload's trace."""
        from throughline.benchmarking.traces import read_trace

        return read_trace(
            Path(str(self.workload.trace)),
            longest_input=self.workload.longest_input_tokens,
            longest_output=self.workload.longest_output_tokens,
        )


def run_workload(run: Run) -> Artifact:
    """Makes the benchmark artifact, or finds it, and prints it.

    Raises:
        MeasurementError: If a target could not be measured; what was is in the folder that it names.
    """
    given = {"engine": run.engine, "dataset": run.dataset}
    # What others run is not ours to know: it may be another one now, so that it is measured anew.
    elsewhere = {} if run.endpoint is None else {"endpoint": run.endpoint.model_dump(mode="json"), "at": time.time()}
    stage = run.store.stage(
        "benchmark",
        run.engine.manifest.name if run.engine is not None else "endpoint",
        inputs={role: artifact for role, artifact in given.items() if artifact is not None},
        config={
            "workload": run.workload.model_dump(mode="json"),
            "slo": None if run.slo is None else run.slo.model_dump(mode="json"),
            "price": None if run.price is None else run.price.model_dump(mode="json"),
            "targets": list(run.targets),
            "seconds": run.seconds,
            "rounds": run.rounds,
            "settings": dict(run.settings),
            **elsewhere,
        },
        code_version=code_version(*_CODE, extras=layers.EXTRAS),
        seed=run.seed,
    )
    with stage as made:
        if made.cached:
            bench_report.show(read(made.cached.path), run.price)
            return made.cached
        found, faults = _measure_all(run)
        if faults:
            raise _ended_early(run, found, faults)
        _write(run, found, made.directory)
        bench_report.show(found, run.price)
        return made.commit(metrics={"measurements": [item.model_dump(mode="json") for item in found]})


def read(folder: Path) -> list[Measurement]:
    """Reads the measurements of a benchmark artifact."""
    return [Measurement.model_validate(item) for item in json.loads((folder / MEASUREMENTS).read_text())]


def _measure_all(run: Run) -> tuple[list[Measurement], list[UserError]]:
    """Measures round by round, one target at a time on the machine; a target that fails ends the round for itself."""
    from throughline.reporting.progress import Progress

    found: list[Measurement] = []
    faults: list[UserError] = []
    failed: set[Target] = set()
    total = run.rounds * len(run.targets)
    if run.web_port is not None:
        app.echo(f"locust   http://127.0.0.1:{run.web_port} while the gateway is loaded")
    if run.workload.trace is not None:
        trace = run.read_trace()
        app.echo(f"trace    {len(trace.rows)} requests, {len(trace.rejects)} lines left out ({REJECTS})")
    app.echo(f"measure  {', '.join(run.targets)}: {total} runs of {run.seconds:g} s")
    with Progress("bench", total=total, unit="runs") as progress:
        for round_ in range(run.rounds):
            turn = round_ % len(run.targets)
            for target in [*run.targets[turn:], *run.targets[:turn]]:
                if target in failed:
                    continue
                progress.update(len(found), target=target, round=round_ + 1)
                try:
                    found.append(_one(run, target, round_))
                except UserError as fault:
                    faults.append(fault)
                    failed.add(target)
    order = {target: index for index, target in enumerate(run.targets)}
    return sorted(found, key=lambda item: order[item.target]), faults


def _one(run: Run, target: Target, round_: int) -> Measurement:
    with _ready(run, target) as ready:
        return ready.measure(
            run.workload, slo=run.slo, seconds=run.seconds, seed=run.seed + round_, dataset=run.dataset
        )


@contextlib.contextmanager
def _ready(run: Run, target: Target) -> Iterator[Measuring]:
    options: dict[str, Any] = {"timeout_seconds": run.timeout_seconds, "web_port": run.web_port}
    if run.engine is None:
        with attached(run.endpoint or Endpoint(), **options) as found:
            yield Measuring(found, run.timeout_seconds)
        return
    with measuring(target, store=run.store, engine=run.engine, settings=run.of(target), **options) as ready:
        yield ready


def _write(run: Run, found: Sequence[Measurement], folder: Path) -> Path:
    from throughline.reporting.html import write_report

    (folder / MEASUREMENTS).write_text(json.dumps([item.model_dump(mode="json") for item in found], indent=1) + "\n")
    if run.workload.trace is not None:
        run.read_trace().write_rejects(folder / REJECTS)
    page, _ = write_report(bench_report.build(found, run.price, engine=run.subject, command=run.command), folder)
    return page


def _ended_early(run: Run, found: Sequence[Measurement], faults: Sequence[UserError]) -> UserError:
    """The error of a run that ended early, with what it measured written beside it."""
    if not found:
        return faults[0]
    folder = service.run_dir(run.store) / "bench"
    folder.mkdir(exist_ok=True)
    _write(run, found, folder)
    bench_report.show(found, run.price)
    return MeasurementError(
        f"{len(faults)} of {len(run.targets)} targets could not be measured",
        where=str(folder / MEASUREMENTS),
        seen="; ".join(str(fault) for fault in faults),
        fix="what was measured before is in that file and the page beside it; mend the target and run it again",
    )
