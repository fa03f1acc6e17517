"""The recipe: measurements in, a verdict, a table and a page out; what is no measurement is refused."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

from recipes import diagnosis_report
from recipes.diagnose import Config, judge, measurements
from tests.unit.diagnosis.faulty import FAULTS
from tests.unit.diagnosis.runs import run
from throughline.contracts.config import parse
from throughline.contracts.errors import ConfigError, DataError
from throughline.contracts.measurement import Measurement
from throughline.diagnosis import diagnose
from throughline.reporting.html import render_html


def written(folder: Path, *runs: Measurement, name: str = "run.json") -> str:
    path = folder / name
    path.write_text(json.dumps({"measurements": [each.model_dump(mode="json") for each in runs]}))
    return str(path)


def config(folder: Path, **values: object) -> Config:
    return parse(Config, {"profile": "laptop", "paths": {"home": str(folder)}, **values}, where="")


def test_a_file_of_runs_is_judged_one_by_one(tmp_path: Path) -> None:
    path = written(tmp_path, run(), FAULTS["queueing"](1.0))
    found = judge(config(tmp_path, benchmark=path))
    assert [diagnosis.names[:1] for _, diagnosis, _ in found] == [(), ("queueing",)]


def test_other_limits_can_be_judged_by(tmp_path: Path) -> None:
    path = written(tmp_path, run())
    ((_, diagnosis, _),) = judge(config(tmp_path, benchmark=path, slo={"ttft_seconds": 0.05}))
    assert diagnosis.over["ttft_seconds"] > 2


def test_a_baseline_is_of_the_same_target(tmp_path: Path) -> None:
    slow, before = run(machine={"clock_hertz": 2e9}), run()
    path, other = written(tmp_path, slow), written(tmp_path, before.model_copy(update={"target": "raw"}), name="b.json")
    same = written(tmp_path, before, name="c.json")
    ((_, diagnosis, _),) = judge(config(tmp_path, benchmark=path, baseline=same))
    assert diagnosis.names == ("throttling",)
    with pytest.raises(ConfigError, match="no run of this target"):
        judge(config(tmp_path, benchmark=path, baseline=other))


@pytest.mark.parametrize("text", ["", "[]x", '{"measurements": [{"target": "raw"}]}'])
def test_what_is_no_measurement_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="no measurement"):
        measurements(config(tmp_path).store(), str(path))


@pytest.mark.parametrize("name", FAULTS)
def test_the_page_has_the_finding_with_its_evidence(name: str) -> None:
    fault = FAULTS[name](1.0)
    found = diagnose(fault)
    html = unescape(render_html(diagnosis_report.page([(fault, found, ("the network",))], "x")))
    assert f"{name}, about" in html
    assert found.findings[0].levers[0].why.partition("`")[0].strip() in html
    assert "the network" in html


def test_a_healthy_page_is_good_news() -> None:
    report = diagnosis_report.page([(run(), diagnose(run()), ())], "x")
    assert report.verdict_kind == "good"
    assert report.verdict.startswith("healthy")


def test_an_unexplained_run_is_unclear() -> None:
    slow = run(phases={"decode": 9.0}, engine={"decoding_share": None})
    report = diagnosis_report.page([(slow, diagnose(slow), ())], "x")
    assert report.verdict_kind in ("unclear", "bad")
    assert "decoding_share" in report.verdict or report.verdict_kind == "bad"


def test_the_picture_shows_the_queue_that_the_finding_counts() -> None:
    hidden = run(phases={"queue": 0.0, "prefill": 4.0, "decode": 1.0}, engine={"waiting": 6.0})
    rate = hidden.requests / hidden.seconds
    plots = [
        plot
        for section in diagnosis_report.page([(hidden, diagnose(hidden), ())], "x").sections
        for plot in section.plots
    ]
    (series,) = plots[0].series
    shown = dict(zip(series.x, series.y, strict=True))
    assert shown["queue"] == pytest.approx(1e3 * min(6.0 / rate, 4.0))
    assert sum(shown.values()) == pytest.approx(1e3 * sum(hidden.phases.values()))
