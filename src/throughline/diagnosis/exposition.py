"""Two readings of a Prometheus page, and what happened between them: counters, histograms, gauges."""

from __future__ import annotations

import math
from collections.abc import Mapping

from throughline.contracts.benchmark import Estimate
from throughline.contracts.errors import DeployError
from throughline.contracts.measurement import Latencies

_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Labels = Mapping[str, str]


class Page:
    """One reading of `/metrics`.

    Args:
        text: In Prometheus' text format.
        where: Its address, for errors.

    Raises:
        DeployError: If it is no such page.
    """

    def __init__(self, text: str, where: str) -> None:
        from prometheus_client.parser import text_string_to_metric_families

        self._samples: dict[str, list[tuple[Labels, float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    self._samples.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
        except ValueError as error:
            raise DeployError(
                "page is not in Prometheus' text format",
                where=where,
                seen=str(error)[:120],
                fix="url is the gateway (http://host:8080), metrics_url is Triton (http://host:8002)",
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._samples

    def total(self, name: str, **labels: str) -> float | None:
        """Sum of a family's samples with these labels; None if there is none."""
        found = [value for its, value in self._samples.get(name, ()) if labels.items() <= dict(its).items()]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Sums of a family's samples by one label."""
        found: dict[str, float] = {}
        for labels, value in self._samples.get(name, ()):
            key = labels.get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found

    def buckets(self, name: str) -> dict[float, float]:
        """Cumulative counts of a histogram by upper bound, all its series together."""
        found: dict[float, float] = {}
        for labels, value in self._samples.get(f"{name}_bucket", ()):
            bound = float(labels["le"])
            found[bound] = found.get(bound, 0.0) + value
        return found


class Between:
    """What happened between two readings of one page."""

    def __init__(self, before: Page, after: Page) -> None:
        self._before = before
        self._after = after

    def counted(self, name: str, **labels: str) -> float:
        """How much a counter grew; one that began anew counts from zero."""
        after = self._after.total(name, **labels) or 0.0
        before = self._before.total(name, **labels) or 0.0
        return after - before if after >= before else after

    def counted_by(self, name: str, label: str) -> dict[str, float]:
        """How much a counter grew, by one of its labels; what did not grow is left out."""
        before = self._before.by(name, label)
        grown = {key: value - before.get(key, 0.0) for key, value in self._after.by(name, label).items()}
        return {key: value for key, value in grown.items() if value > 0}

    def mean(self, name: str) -> float | None:
        """Mean of a histogram's new values, None if there are none."""
        count = self.counted(f"{name}_count")
        return self.counted(f"{name}_sum") / count if count else None

    def latencies(self, name: str) -> Latencies:
        """Percentiles and mean of a histogram's new values; a percentile's interval is its bucket."""
        before, after = self._before.buckets(name), self._after.buckets(name)
        counts = {bound: after[bound] - before.get(bound, 0.0) for bound in sorted(after)}
        total = int(max(counts.values(), default=0))
        mean = self.mean(name)
        if total <= 0 or mean is None:
            return {}
        found = {key: _quantile(counts, q, total) for key, q in _PERCENTILES.items()}
        return found | {"mean": Estimate(mean, mean, mean, total)}


def _quantile(counts: Mapping[float, float], q: float, total: int) -> Estimate:
    """The value with a share `q` of the counts below it, evenly spread within its bucket as PromQL has it."""
    wanted, low, below = q * total, 0.0, 0.0
    for bound, count in counts.items():
        if count >= wanted:
            if math.isinf(bound):
                # All that is known is that it is beyond the last bound.
                return Estimate(low, low, math.inf, total)
            share = (wanted - below) / (count - below) if count > below else 1.0
            return Estimate(low + share * (bound - low), low, bound, total)
        low, below = bound, count
    return Estimate(low, low, math.inf, total)
