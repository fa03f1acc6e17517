"""What the lifecycle's report says of each round of the closed loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from recipes import lifecycle_loop, tune
from recipes.lifecycle_round import Round
from recipes.tune_advice import Advice
from recipes.tune_gate import Judged
from tests.unit.recipes.test_tune import config, engine
from tests.unit.tuning.surface import DEFAULT, Paper, measurement
from throughline.contracts.evaluation import Verdict
from throughline.contracts.report import Judged as Cell
from throughline.contracts.report import Report
from throughline.reporting.html import render_html


@pytest.fixture
def better(tmp_path: Path) -> Round:
    """A round that found something and passed the gate."""
    asked = config(tmp_path)
    built = engine(asked.store())
    outcome = tune.make(asked, probe=Paper(noise=0.01), tell=lambda line: None)
    assert outcome.race.winner is not None
    passed = Judged(built, built, built, Verdict("GO", ["task_success 0.90, at least 0.8 wanted: kept"]), built)
    outcome.judged.append((outcome.race.winner, passed))
    after = measurement(outcome.race.winner.settings)
    return Round(1, built, measurement(DEFAULT), Advice("queueing: requests wait", ()), outcome, "", built, after)


def test_a_round_says_what_it_bought(better: Round) -> None:
    section = lifecycle_loop.section([better])
    (row,) = section.tables[0].rows
    assert row[1] == "queueing: requests wait"
    assert row[2] == pytest.approx(4.46, abs=0.01)
    assert isinstance(row[3], float) and row[3] > 1.3 * 4.46
    assert (
        better.ratio is not None
        and row[4] == f"{better.ratio.value:.2f} [{better.ratio.low:.2f}, {better.ratio.high:.2f}]"
    )
    assert row[5] == "GO" and row[6] == Cell("better", "good")
    assert [each.line for each in section.folded] == ["round 1: what was chosen and what it rests on"]
    page = render_html(Report("Loop", "better", "good", [], [section], {}, "x"))
    assert "<details" in page and "engine:" in page


def test_a_refusal_and_an_slo_that_nothing_keeps_are_said(better: Round) -> None:
    assert better.outcome is not None
    (runner, judged) = better.outcome.judged[0]
    verdict = Verdict("NO_GO", ["task_success drops by 0.30, at most 0.03 tolerated: violated"])
    outcome = replace(better.outcome, judged=[(runner, replace(judged, verdict=verdict))], preset=None)
    refused = replace(better, outcome=outcome, tuned=None, after=None)
    hopeless = replace(better, number=2, outcome=None, problem="no point keeps the SLO — …", tuned=None, after=None)
    section = lifecycle_loop.section([refused, hopeless])
    assert [row[6] for row in section.tables[0].rows] == [Cell("refused", "bad"), Cell("nothing better", "unclear")]
    assert str(section.tables[0].rows[0][7]).endswith(f"times the incumbent's; refused: {verdict.reasons[0]}")
    assert section.tables[0].rows[0][5] == "NO_GO" and section.tables[0].rows[1][7] == "no point keeps the SLO — …"
    assert [(each.line, each.text) for each in section.folded] == [("round 1: refused by the gate", verdict.reasons[0])]
    plain = lifecycle_loop.figures([refused, hopeless])
    assert plain[0]["verdicts"][0]["decision"] == "NO_GO" and plain[1]["tuned"] is None


def test_every_round_has_two_stages() -> None:
    assert lifecycle_loop.names(2) == ["tune 1", "deploy 1", "tune 2", "deploy 2"]
    assert lifecycle_loop.names(0) == []
