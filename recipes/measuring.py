"""Measures one target under one workload: what the benchmark, the diagnosis and the tuner share.

`measure(...)` starts a target, loads it and stops it; `measuring(...)` keeps it for several runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from recipes.engine_readings import gauge_readings, memory_bandwidth, step_readings
from recipes.opening import Opened, Settings, opened
from recipes.workloads import RequestMaker
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.benchmark import Load
from throughline.contracts.engine import EngineInfo
from throughline.contracts.measurement import Measurement, Target
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload

if TYPE_CHECKING:
    from throughline.benchmarking.workload import Requests

# Sessions of a closed loop beyond what a first measurement says it takes.
_SPARE = 1.5
# Requests of the warm-up.
_WARM_UP = 2
# Of the run's length the first measurement, and sessions of each user in it.
_FIRST_SHARE = 0.1
_FIRST_SESSIONS = 4


def measure(
    target: Target,
    workload: Workload,
    *,
    store: ArtifactStore,
    engine: Artifact,
    settings: Settings | None = None,
    slo: SloSpec | None = None,
    seconds: float = 30.0,
    seed: int = 0,
    dataset: Artifact | None = None,
    timeout_seconds: float = 120.0,
) -> Measurement:
    """Starts a target, loads it for `seconds`, stops it, and returns what was measured.

    Args:
        target: `raw` is the engine alone in a process, `triton` its gRPC stream, `gateway` OpenAI's stream.
        workload: What to send.
        store: Where servers keep their state.
        engine: The engine.
        settings: By dotted key: `engine.…`, what an engine takes when it is loaded (of `raw` alone), `serve.…` and
            `gateway.…` as in the presets of these groups.
        slo: Limits for goodput.
        seconds: Length of the run, warm-up included.
        seed: Of arrivals, lengths and words.
        dataset: Whose questions are asked, with `workload.source=dataset`.
        timeout_seconds: A request that takes longer has failed.

    Raises:
        UserError: If a setting is unknown, the workload does not fit the engine, or nothing could be measured.
    """
    with measuring(target, store=store, engine=engine, settings=settings, timeout_seconds=timeout_seconds) as ready:
        return ready.measure(workload, slo=slo, seconds=seconds, seed=seed, dataset=dataset)


@contextlib.contextmanager
def measuring(
    target: Target,
    *,
    store: ArtifactStore,
    engine: Artifact,
    settings: Settings | None = None,
    timeout_seconds: float = 120.0,
    web_port: int | None = None,
) -> Iterator[Measuring]:
    """Runs a target for the length of the block; see `measure`. `web_port` is where Locust shows its pages."""
    with opened(
        target,
        store=store,
        engine=engine,
        settings=settings or {},
        timeout_seconds=timeout_seconds,
        web_port=web_port,
    ) as found:
        yield Measuring(found, timeout_seconds)


class Measuring:
    """A target that runs and can be measured.

    Args:
        found: The target.
        timeout_seconds: A request that takes longer has failed.
    """

    def __init__(self, found: Opened, timeout_seconds: float) -> None:
        self._opened, self._timeout = found, timeout_seconds

    def measure(
        self,
        workload: Workload,
        *,
        slo: SloSpec | None = None,
        seconds: float = 30.0,
        seed: int = 0,
        dataset: Artifact | None = None,
    ) -> Measurement:
        """Loads it once; see `measure`."""
        from throughline.benchmarking.machine import Sampler, read_bandwidth
        from throughline.benchmarking.nvml import GpuSampler, gpu_readings
        from throughline.benchmarking.proof import prove
        from throughline.benchmarking.spans import traced, with_phases
        from throughline.benchmarking.summary import summarise_load, window_of

        found = self._opened
        maker = RequestMaker(
            found.tokenizer,
            workload,
            int(found.spec["max_seq_len"]),
            seed=seed,
            texts=f"{seed}/{found.name}",
            dataset=dataset,
        )
        requests, load = self._load(maker, workload, seconds)
        if found.spans is not None:
            load = dataclasses.replace(load, sessions=traced(load.sessions, seed))
        with GpuSampler(here=found.here) as gpus, Sampler(found.groups, found.gauges) as sampler:
            driven = found.target.drive(load)
        if found.spans is not None:
            driven = with_phases(driven, load, found.spans)
        window = window_of(driven, load, seconds, offline=workload.arrivals.process == "offline")
        machine = sampler.readings(window.begin, window.end, gpus=gpu_readings(gpus.samples, window.begin, window.end))
        generator = machine.busy_cores.get("generator")
        readings = step_readings(driven, window) if driven.steps else gauge_readings(sampler, window)
        limits = {name: int(found.spec[name]) for name in ("max_batch_size", "max_num_tokens") if name in found.spec}
        if found.engine is not None:
            info = EngineInfo.read(found.engine.path)
            bandwidth = memory_bandwidth(info, found.spec, driven, window, readings)
            machine = machine.model_copy(
                update={"bandwidth": bandwidth, "bandwidth_bound": read_bandwidth(machine.cores)}
            )
        return summarise_load(
            found.name,
            driven,
            window,
            prove(workload, requests, load, driven, seconds=seconds, generator_cores=generator),
            engine_digest=found.engine.digest if found.engine is not None else "",
            settings=found.settings,
            workload=workload.model_dump(mode="json"),
            slo=slo,
            engine=readings.model_copy(update=limits),
            machine=machine,
            seed=seed,
        )

    def _load(self, maker: RequestMaker, workload: Workload, seconds: float) -> tuple[Requests, Load]:
        """Warms the target, and returns what to send and when."""
        options: dict[str, Any] = {"timeout_seconds": self._timeout, "think_seconds": workload.think_seconds}
        due = maker.due(seconds)
        first = [session[0] for session in maker.requests(_WARM_UP, part="warm-up").sessions]
        self._opened.target.prepare(lambda: [dataclasses.replace(request, cancel_after=0) for request in first])
        if due is not None:
            requests = maker.requests(len(due))
            return requests, Load(requests.sessions, due=due, **options)
        users = workload.arrivals.users
        rate = self._requests_per_second(maker, users, seconds * _FIRST_SHARE)
        requests = maker.requests(math.ceil(_SPARE * seconds * rate / workload.turns) + 2 * users)
        return requests, Load(requests.sessions, users=users, seconds=seconds, **options)

    def _requests_per_second(self, maker: RequestMaker, users: int, seconds: float) -> float:
        """A first measurement of a closed loop, so that its users never run out of sessions."""
        from throughline.benchmarking.statistics import wall_seconds
        from throughline.benchmarking.targets import require_success

        sessions = maker.requests(_FIRST_SESSIONS * users, part="first measurement").sessions
        load = Load(sessions, users=users, seconds=seconds, timeout_seconds=self._timeout)
        records = self._opened.target.drive(load).records
        require_success(records, f"{self._opened.name}, first measurement")
        return len(records) / max(wall_seconds(records), 1e-3)
