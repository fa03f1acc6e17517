"""Tables and JSON of results carry the measured numbers unchanged."""

from __future__ import annotations

import math

from recipes import results
from throughline.contracts.evaluation import Evaluation, Metric
from throughline.evaluation.intervals import tango


def cell(target: str, users: int, rates: list[float]) -> dict[str, object]:
    def quantiles(value: float) -> dict[str, dict[str, float]]:
        return {p: {"value": value, "low": value, "high": value, "n": 3} for p in ("p50", "p95", "p99")}

    mean = sum(rates) / len(rates)
    return {
        "target": target,
        "concurrency": users,
        "tokens_per_second": {"value": mean, "low": min(rates), "high": max(rates), "n": len(rates)},
        "time_to_first_token": quantiles(0.01),
        "inter_token_latency": quantiles(0.002),
        "e2e_latency": quantiles(0.1),
        "per_repeat_tokens_per_second": rates,
        "memory_bytes": 2**20,
        "failed": 0,
    }


CELLS = [cell("raw", 8, [100.0, 200.0]), cell("gateway", 8, [90.0, 190.0]), cell("raw", 32, [400.0, 400.0])]


def test_ratios_are_taken_round_by_round() -> None:
    table = results.ratio_table(CELLS)
    # 0.9 and 0.95: their geometric mean, and t at 0.975 with one degree of freedom is 12.706.
    half = math.exp(12.7062 * abs(math.log(0.95 / 0.9)) / 2)
    centre = math.sqrt(0.9 * 0.95)
    assert table.rows == [["gateway / raw", f"{centre:.2f}× [{centre / half:.2f}, {centre * half:.2f}]", None]]


def test_engines_are_compared_with_the_first_one() -> None:
    cells = [cell("bf16", 8, [100.0, 100.0]), cell("int8", 8, [200.0, 200.0])]
    table = results.comparison_table(cells)
    assert [(row[0], row[2]) for row in table.rows] == [("bf16", None), ("int8", "2.00× [2.00, 2.00]")]
    assert results.comparison_table([cell("a", 1, [1.0]), cell("b", 1, [3.0])]).rows[1][2] == "3.00×"


def test_serving_json_has_the_report_s_names() -> None:
    found = results.serving_json(CELLS)
    assert found["raw"]["8"]["tokens_per_second"] == 150.0
    assert set(found["raw"]["32"]) >= {"tokens_per_second", "ttft_p50", "ttft_p99", "itl_p50"}


def test_quality_json_renames_and_keeps_intervals() -> None:
    metric = Metric("false_refusals", 0.02, 0.01, 0.06, 120, higher_is_better=False)
    evaluation = Evaluation("int8", {"false_refusals": metric}, {}, 1.0, 120)
    assert results.quality_json(evaluation) == {"false_refusals": {"value": 0.02, "low": 0.01, "high": 0.06, "n": 120}}
    table = results.quality_table([evaluation])
    assert [row[0] for row in table.rows] == ["false refusals"]


def test_engines_stand_against_the_reference_question_by_question() -> None:
    def scored(name: str, right: list[float]) -> Evaluation:
        outcomes = {str(index): {"task_success": value} for index, value in enumerate(right)}
        metric = Metric("task_success", sum(right) / len(right), 0.0, 1.0, len(right))
        return Evaluation(name, {"task_success": metric}, outcomes, 1.0, len(right))

    models = {
        "bf16": scored("bf16", [1.0] * 8 + [0.0] * 2),
        "int8": scored("int8", [0.0] + [1.0] * 8 + [0.0]),
        "int4": scored("int4", [0.0] * 4 + [1.0] * 4 + [0.0] * 2),
    }
    table = results.pairwise_table(models, "bf16")
    assert [row[0] for row in table.rows] == ["int8: task success", "int4: task success"]
    assert [row[3:5] for row in table.rows] == [[1, 1], [4, 0]]
    assert table.rows[0][1:3] == ["80.0 %", "80.0 %"]
    low, high = tango(4, 0, 10, 0.95)
    assert table.rows[1][5] == f"−40.0 points [−{-100 * low:.1f}, −{-100 * high:.1f}]"


def test_a_constrained_set_says_so() -> None:
    metric = Metric("json_validity", 1.0, 0.9, 1.0, 30)
    table = results.quality_table([Evaluation("bf16", {"json_validity": metric}, {}, 1.0, 30)], "shifted_constrained")
    assert table.title == "Quality on the set shifted, constrained"
    assert "held to the tool's JSON schema" in table.note


def test_plots_have_a_series_for_each_target() -> None:
    assert [series.name for series in results.throughput_plot(CELLS).series] == ["raw", "gateway"]
