"""Tables and plots of results, the same in the terminal and in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from throughline.contracts.benchmark import Estimate
from throughline.contracts.evaluation import CONSTRAINED, GATED_SET, Evaluation
from throughline.contracts.report import Column, Plot, Series, Table

# Metric of an evaluation, and what people read.
QUALITY = (
    ("triage_exact_match", "triage exact match"),
    ("triage_field_f1", "triage field F1"),
    ("exact_match", "exact match"),
    ("json_validity", "JSON validity"),
    ("schema_compliance", "schema compliance"),
    ("refusal_accuracy", "refusal accuracy"),
    ("false_refusals", "false refusals"),
    ("grounded_exact_match", "grounded exact match"),
    ("citation_validity", "citation validity"),
    ("not_found_accuracy", "not-found accuracy"),
)

# The first of these that the suite measures is what a report leads with.
LEADING = ("triage_exact_match", "exact_match", "task_success")
# Engine → set of questions → evaluation.
Sets = Mapping[str, Mapping[str, Evaluation]]

_SERVING_NOTE = (
    "a closed loop of users; throughput: mean, least and most of the rounds; latencies: 95 % bootstrap intervals over "
    "requests. The engine may use every core in each target, the load generator takes its own share of them"
)
_RATIO_NOTE = "ratio: geometric mean over rounds in which both took turns, with Student's 95 % interval"

# What engines are compared on, question by question.
PAIRED = ("task_success", "triage_exact_match", "exact_match", "json_validity")


def label(metric: str) -> str:
    """Returns a metric's name as people read it."""
    return next((text for name, text in QUALITY if name == metric), metric.replace("_", " "))


def mapping_table(title: str, values: Mapping[str, object]) -> Table:
    """Returns a two-column table of names and values."""
    return Table(title, [Column("", align="left"), Column("value")], [[key, value] for key, value in values.items()])


def quality_table(evaluations: Sequence[Evaluation], asked: str = GATED_SET) -> Table:
    """Returns metrics down and models across, each value with its interval; `asked` is the set's name."""
    from throughline.reporting import format as fmt

    rows: list[list[object]] = []
    for metric, label in QUALITY:
        found = [evaluation.metrics.get(metric) for evaluation in evaluations]
        if any(found):
            cells = [fmt.percent(m.value, m.low, m.high) if m else None for m in found]
            rows.append([label, *cells])
    columns = [Column("metric", align="left"), *(Column(evaluation.model) for evaluation in evaluations)]
    size = evaluations[0].questions if evaluations else 0
    note = f"{size} questions; 95 % intervals in brackets"
    if asked.endswith(CONSTRAINED):
        note += "; answers held to the tool's JSON schema while they were generated"
    return Table(f"Quality on the set {asked.replace('_', ', ')}", columns, rows, note=note)


def pairwise_table(
    evaluations: Mapping[str, Evaluation], reference: str, metrics: Sequence[str] = PAIRED, asked: str = GATED_SET
) -> Table:
    """Returns every model against the reference on the same questions, one row a metric and model.

    Args:
        evaluations: Model → its evaluation on one set; only what the reference was asked is compared.
        reference: A key of `evaluations`.
        metrics: Shares of questions; those that the reference does not have are left out.
        asked: The set's name.
    """
    from throughline.evaluation.compare import compare
    from throughline.reporting import format as fmt

    base = evaluations[reference]
    rows: list[list[object]] = []
    for metric in (metric for metric in metrics if metric in base.metrics):
        for name, candidate in evaluations.items():
            if name == reference or metric not in candidate.metrics:
                continue
            found = compare(base, candidate, metric)
            rows.append(
                [
                    f"{name}: {metric.replace('_', ' ')}",
                    fmt.percent(found.reference),
                    fmt.percent(found.candidate),
                    found.only_reference,
                    found.only_candidate,
                    fmt.points(found.difference, found.low, found.high),
                    found.n,
                ]
            )
    columns = [
        Column("engine and metric", align="left"),
        Column(reference),
        Column("engine"),
        Column(f"only {reference}"),
        Column("only engine"),
        Column("difference"),
        Column("questions"),
    ]
    note = "only …: questions that one of the two has as 1; difference with Tango's 95 % interval for pairs"
    return Table(
        f"Against {reference} on the same questions of the set {asked.replace('_', ', ')}", columns, rows, note
    )


def set_names(sets: Sets) -> list[str]:
    """Returns the names of the sets of questions, the gated one first."""
    return list(dict.fromkeys(asked for found in sets.values() for asked in found))


def leading(sets: Sets) -> str:
    """Returns the metric that the report leads with."""
    measured = sets["tuned"][GATED_SET].metrics
    return next((name for name in LEADING if name in measured), next(iter(measured)))


def set_table(sets: Sets, metric: str) -> Table:
    """Returns one metric with engines down and sets across."""
    from throughline.reporting import format as fmt

    asked = [name for name in set_names(sets) if any(_has(found, name, metric) for found in sets.values())]
    rows: list[list[object]] = []
    for engine, found in sets.items():
        cells = [found[name].metrics[metric] if _has(found, name, metric) else None for name in asked]
        rows.append([engine, *(fmt.percent(cell.value, cell.low, cell.high) if cell else None for cell in cells)])
    columns = [Column("engine", align="left"), *(Column(name.replace("_", ", ")) for name in asked)]
    title = label(metric)
    return Table(f"{title[0].upper()}{title[1:]} by set", columns, rows, note="95 % intervals in brackets")


def set_plot(sets: Sets, metric: str) -> Plot:
    """Returns bars of one metric: engines side by side, a colour a set."""
    series = []
    for asked in set_names(sets):
        kept = {engine: found[asked].metrics[metric] for engine, found in sets.items() if _has(found, asked, metric)}
        if kept:
            series.append(
                Series(
                    asked.replace("_", ", "),
                    list(kept),
                    [100 * item.value for item in kept.values()],
                    [100 * item.low for item in kept.values()],
                    [100 * item.high for item in kept.values()],
                )
            )
    return Plot(f"{label(metric)} by engine and set", "engine", "%", series, kind="bar")


def _has(found: Mapping[str, Evaluation], asked: str, metric: str) -> bool:
    return asked in found and metric in found[asked].metrics


def quality_json(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """Returns `{metric: {value, low, high, n}}`."""
    return {
        metric: {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
        for metric, _ in QUALITY
        if (found := evaluation.metrics.get(metric)) is not None
    }


def serving_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Returns one row a target and concurrency: throughput and latency percentiles."""
    columns = [
        Column("target", align="left"),
        Column("users"),
        Column("throughput", "tokens/s"),
        Column("TTFT p50", "ms"),
        Column("TTFT p95", "ms"),
        Column("TTFT p99", "ms"),
        Column("ITL p50", "ms"),
        Column("e2e p95", "ms"),
        Column("memory", align="right"),
        Column("load generator", "cores"),
        Column("failed"),
    ]
    from throughline.reporting import format as fmt

    rows: list[list[object]] = []
    for cell in cells:
        rows.append(
            [
                cell["target"],
                cell["concurrency"],
                _estimate(cell["tokens_per_second"], 1.0),
                *(_estimate(cell["time_to_first_token"].get(p), 1e3) for p in ("p50", "p95", "p99")),
                _estimate(cell["inter_token_latency"].get("p50"), 1e3),
                _estimate(cell["e2e_latency"].get("p95"), 1e3),
                fmt.bytes_(cell["memory_bytes"]) if cell.get("memory_bytes") else None,
                cell.get("generator_cores"),
                cell["failed"],
            ]
        )
    return Table("Serving", columns, rows, note=_SERVING_NOTE)


def ratio_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Returns each target's throughput as a ratio to raw in the same rounds, with its interval."""
    raw = [cell for cell in cells if cell["target"] == "raw"]
    others = [name for name in dict.fromkeys(cell["target"] for cell in cells) if name != "raw"]
    rows: list[list[object]] = []
    for name in others:
        above = {cell["concurrency"]: cell for cell in cells if cell["target"] == name}
        found = [_ratio_cell(above.get(under["concurrency"]), under) for under in raw]
        rows.append([f"{name} / raw", *found])
    columns = [Column("throughput ratio", align="left"), *(Column(f"{cell['concurrency']} users") for cell in raw)]
    return Table("What the layers cost", columns, rows, note=_RATIO_NOTE)


def comparison_table(cells: Sequence[Mapping[str, Any]]) -> Table:
    """Returns one row an engine: its speed alone, and the ratio to the first engine's in the same rounds."""
    from throughline.reporting import format as fmt

    first = cells[0]
    rows: list[list[object]] = [
        [
            cell["target"],
            _estimate(cell["tokens_per_second"], 1.0),
            None if cell is first else _ratio_cell(cell, first),
            _estimate(cell["time_to_first_token"].get("p50"), 1e3),
            _estimate(cell["inter_token_latency"].get("p50"), 1e3),
            fmt.bytes_(cell["memory_bytes"]) if cell.get("memory_bytes") else None,
        ]
        for cell in cells
    ]
    columns = [
        Column("engine", align="left"),
        Column("throughput", "tokens/s"),
        Column(f"against {first['target']}"),
        Column("TTFT p50", "ms"),
        Column("ITL p50", "ms"),
        Column("process memory"),
    ]
    return Table(f"Engines alone, {first['concurrency']} users", columns, rows, note=_RATIO_NOTE)


def cell_ratio(over: Mapping[str, Any], under: Mapping[str, Any]) -> Estimate:
    """Returns the throughput of one cell over another's, by rounds; see `paired_ratio`."""
    from throughline.benchmarking.statistics import paired_ratio

    return paired_ratio(over["per_repeat_tokens_per_second"], under["per_repeat_tokens_per_second"])


def _ratio_cell(over: Mapping[str, Any] | None, under: Mapping[str, Any]) -> str | None:
    from throughline.reporting import format as fmt

    if over is None:
        return None
    found = cell_ratio(over, under)
    # One round has no interval.
    return fmt.ratio(found.value, found.low, found.high) if found.n > 1 else fmt.ratio(found.value)


def serving_json(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Returns `{target: {concurrency: {tokens_per_second, ttft_p50, …}}}`; seconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for cell in cells:
        found.setdefault(cell["target"], {})[str(cell["concurrency"])] = {
            "tokens_per_second": cell["tokens_per_second"]["value"],
            "ttft_p50": cell["time_to_first_token"]["p50"]["value"],
            "ttft_p95": cell["time_to_first_token"]["p95"]["value"],
            "ttft_p99": cell["time_to_first_token"]["p99"]["value"],
            "itl_p50": cell["inter_token_latency"].get("p50", {}).get("value", 0.0),
            "itl_p99": cell["inter_token_latency"].get("p99", {}).get("value", 0.0),
            "e2e_p50": cell["e2e_latency"]["p50"]["value"],
            "e2e_p99": cell["e2e_latency"]["p99"]["value"],
        }
    return found


def throughput_plot(cells: Sequence[Mapping[str, Any]]) -> Plot:
    """Returns throughput against concurrency, a line a target."""
    series = []
    for name in dict.fromkeys(cell["target"] for cell in cells):
        mine = [cell for cell in cells if cell["target"] == name]
        values = [cell["tokens_per_second"] for cell in mine]
        series.append(
            Series(
                name,
                [float(cell["concurrency"]) for cell in mine],
                [value["value"] for value in values],
                [value["low"] for value in values],
                [value["high"] for value in values],
            )
        )
    return Plot("Throughput against concurrency", "concurrent users", "tokens per second", series)


def first_token_plot(benchmark: Mapping[str, Any], users: int) -> Plot:
    """Returns the distribution of time to first token at one concurrency."""
    series = [
        Series(key.split("/")[0], [1e3 * value for value in values], [])
        for key, values in benchmark["time_to_first_token_seconds"].items()
        if key.endswith(f"/{users}") and values
    ]
    return Plot(
        f"Time to first token at {users} users",
        "time to first token (ms)",
        "share of requests",
        series,
        kind="cdf",
    )


def loss_plots(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Plot]:
    """Returns the loss curves and, where there is one, the task metric of a training run."""
    train, validation = curves["train"], curves["validation"]
    series = [Series("train", [row["step"] for row in train], [row["loss"] for row in train])]
    series += [Series("validation", [row["step"] for row in validation], [row["val_loss"] for row in validation])]
    plots = [Plot("Loss on assistant tokens", "step", "negative log-likelihood (nats)", series)]
    names = [key for key in (validation[-1] if validation else {}) if key.startswith("probe/")]
    probes = [
        Series(
            name.removeprefix("probe/").replace("_", " "),
            [row["step"] for row in validation if name in row],
            [100 * row[name] for row in validation if name in row],
        )
        for name in names
    ]
    if probes:
        plots.append(Plot("Task metrics on development questions", "step", "%", probes))
    return plots


def _estimate(values: Mapping[str, Any] | None, scale: float) -> object:
    if not values:
        return None
    return Estimate(values["value"] * scale, values["low"] * scale, values["high"] * scale, values["n"])
