"""From a load's records to a `Measurement`: the window, percentiles with intervals, rates, goodput, errors, phases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.benchmarking.blocks import block_length, latencies, rate
from throughline.benchmarking.steady import warm_up
from throughline.benchmarking.targets import Driven
from throughline.contracts.benchmark import Estimate, Load, RequestRecord
from throughline.contracts.errors import MeasurementError
from throughline.contracts.measurement import PHASES, EngineReadings, LoadProof, MachineReadings, Measurement, Target
from throughline.contracts.slo import SloSpec

# A window of fewer requests gives no percentiles worth the name.
_LEAST_REQUESTS = 5


@dataclass(frozen=True)
class Window:
    """What of a run is measured, on the records' clock.

    Attributes:
        begin: End of the warm-up.
        end: When the last request could begin; of an offline run when the last one ended.
        warm_up_seconds: Before it.
        steady: Whether the run came to rest.
    """

    begin: float
    end: float
    warm_up_seconds: float
    steady: bool

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin


def window_of(driven: Driven, load: Load, seconds: float, *, offline: bool) -> Window:
    """Cuts a run's warm-up off.

    Raises:
        MeasurementError: If nothing was sent.
    """
    records = sorted(driven.records, key=lambda record: record.begin)
    if not records:
        raise MeasurementError("no request was sent", where="load", fix="run longer, or ask for a higher rate")
    began = driven.began
    if offline:
        return Window(began, max(record.end for record in records), 0.0, True)
    end = began + seconds
    if load.due is None:
        # Users that ran out of sessions load nothing any more.
        end = min(end, max(record.end for record in records))
    good = [record for record in records if record.ok]
    cuts = [warm_up([value(record) for record in good]) for value in (_ttft, _tpot)]
    steady = all(at_rest for _, at_rest in cuts)
    cut = max(found for found, _ in cuts)
    begin = good[cut].begin if cut and cut < len(good) else began
    return Window(begin, end, begin - began, steady)


def summarise_load(
    target: Target,
    driven: Driven,
    window: Window,
    proof: LoadProof,
    *,
    engine_digest: str = "",
    settings: Mapping[str, Any],
    workload: Mapping[str, Any],
    slo: SloSpec | None,
    engine: EngineReadings,
    machine: MachineReadings,
    seed: int = 0,
) -> Measurement:
    """Returns the measurement of one run.

    Raises:
        MeasurementError: If too few requests ended well in the window.
    """
    records = sorted(driven.records, key=lambda record: record.begin)
    due = [record for record in records if window.begin <= record.begin <= window.end]
    good = [record for record in due if record.ok]
    if len(good) < _LEAST_REQUESTS:
        failed = Counter(record.error_type for record in due if not record.ok)
        raise MeasurementError(
            "too few requests ended well to measure anything",
            where=target,
            seen=f"{len(good)} of {len(due)}" + (f"; errors: {dict(failed)}" if failed else ""),
            fix="run longer (seconds=…), or read the server's log",
        )
    whole = [record for record in good if not record.cancelled]
    length = block_length([_ttft(record) for record in good])
    found = _Figures(window, seed, length)
    return Measurement(
        target=target,
        engine_digest=engine_digest,
        settings=dict(settings),
        workload=dict(workload),
        slo=slo,
        load=proof,
        started_at=time.time() - (time.perf_counter() - window.begin),
        warm_up_seconds=window.warm_up_seconds,
        steady=window.steady,
        seconds=window.seconds,
        requests=len(due),
        errors=dict(Counter(record.error_type or "error" for record in due if not record.ok)),
        requests_per_second=found.per_second([(record.end, 1.0) for record in records if record.ok]),
        tokens_per_second=found.per_second(
            [event for record in records if record.ok for event in _token_times(record)]
        ),
        goodput=None if slo is None else found.per_second([(item.begin, 1.0) for item in whole if keeps(item, slo)]),
        ttft=found.latencies([[_ttft(record)] for record in good]),
        itl=found.latencies([list(record.gaps) for record in good]),
        tpot=found.latencies([[_tpot(record)] for record in whole if record.completion_tokens > 1]),
        e2e=found.latencies([[record.e2e_latency] for record in whole]),
        input_tokens=_mean([record.prompt_tokens for record in whole]),
        output_tokens=_mean([record.completion_tokens for record in whole]),
        phases=phases_of(whole),
        engine=engine,
        machine=machine,
    )


def phases_of(records: Sequence[RequestRecord]) -> dict[str, float]:
    """Returns the mean seconds of each part, of the records that know theirs; empty if none does."""
    known = [record.phases for record in records if record.phases]
    if not known:
        return {}
    return {
        name: _mean([each.get(name, 0.0) for each in known]) for name in PHASES if any(name in each for each in known)
    }


def keeps(record: RequestRecord, slo: SloSpec) -> bool:
    """Whether a request kept all limits of latency; of its gaps the share that the SLO's percentile names."""
    import numpy as np

    values = {
        "ttft_seconds": _ttft(record),
        "tpot_seconds": _tpot(record),
        "e2e_seconds": record.e2e_latency,
        "itl_seconds": float(np.percentile(record.gaps, slo.percentile)) if record.gaps else 0.0,
    }
    return all(limit is None or values[name] <= limit for name, limit in slo.latencies().items())


class _Figures:
    def __init__(self, window: Window, seed: int, length: int) -> None:
        self._window, self._seed, self._length = window, seed, length

    def latencies(self, groups: Sequence[Sequence[float]]) -> dict[str, Estimate]:
        return latencies(groups, length=self._length, seed=self._seed)

    def per_second(self, events: Sequence[tuple[float, float]]) -> Estimate:
        window = self._window
        times, weights = [event[0] for event in events], [event[1] for event in events]
        return rate(times, weights, window.begin, window.end, seed=self._seed)


def _token_times(record: RequestRecord) -> list[tuple[float, float]]:
    """When a request's messages came, each with an equal share of its tokens."""
    times = [record.first_token]
    for gap in record.gaps:
        times.append(times[-1] + gap)
    return [(at, record.completion_tokens / len(times)) for at in times]


def _ttft(record: RequestRecord) -> float:
    return record.time_to_first_token


def _tpot(record: RequestRecord) -> float:
    return record.inter_token_latency or 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
