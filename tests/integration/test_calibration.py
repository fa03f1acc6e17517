"""`recipes.calibrate` and `recipes.quantize` on a tiny model: what is an input of what, warnings, sizes on a page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import app, calibrate, data, quantize
from throughline import quantization, resources
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ConfigError, DataError, EngineError
from throughline.contracts.quantization import QuantReport
from throughline.data import Calibration
from throughline.resources import Resources

pytestmark = pytest.mark.integration
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides for a store with a dataset of two tasks: sums of a few words, questions of many."""
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)
    rows = [{"prompt": f"what is {n * 7919}?", "completion": f"it is {n}", "task": "sum"} for n in range(60)] + [
        {"prompt": f"{n * 104729}: {' '.join(f'word{n * k}' for k in range(9))}", "completion": "yes", "task": "long"}
        for n in range(20)
    ]
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"paths.home={tmp_path}/home", "model=hf", "model.name=tiny", f"model.path={tiny_checkpoint}"]
    overrides = ["data=files", f"data.source={source}", "data.default_licence=own", "data.validation_share=0.1"]
    data.make(app.to_schema(app.compose("data", [*own, *overrides]), data.Config))
    return own


def config(settings: list[str], *overrides: str) -> quantize.Config:
    composed = app.compose("quantize", [*settings, "checkpoint=base", "quantize.score_records=4", *overrides])
    return app.to_schema(composed, quantize.Config)


def run(settings: list[str], recipe: str, *overrides: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"recipes.{recipe}", *settings, *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dataset(store: ArtifactStore) -> Artifact:
    [found] = store.all("dataset")
    return found


def test_a_quantisation_stands_on_its_calibration(settings: list[str]) -> None:
    wanted = config(settings, "quantize.calib_size=8")
    made = quantize.make(wanted)
    store = wanted.store()
    [calibration] = store.all("calibration")
    assert made.manifest.inputs["calibration"] == calibration.digest
    assert calibration.manifest.inputs == {"dataset": dataset(store).digest}
    assert calibration.manifest.licences == ("own",)
    found = Calibration.read(calibration.path)
    assert sum(chosen for _, chosen in calibration.manifest.metrics["tasks"].values()) == 8
    report = QuantReport.read(made.path)
    assert report is not None and report.status == "scored"
    assert (report.calibration_records, report.calibration_tokens) == (8, found.report.tokens)
    planned = made.manifest.metrics["planned"]
    assert planned["weight_bytes"] == pytest.approx(report.weight_bytes, rel=0.15)
    assert planned["peak_memory_bytes"] > 0.7e9 and (report.peak_memory_bytes or 0) > 2**26
    # What stands for the workload are the acceptance questions, by their own tasks and lengths.
    assert report.warnings == calibrate.warnings(calibration, calibrate.prompts(None, dataset(store)), 1024)
    again = quantize.make(config(settings, "quantize.calib_size=8", "seed=1"))
    assert again.manifest.inputs["calibration"] != calibration.digest


def test_held_out_questions_are_answered_in_16_bits_and_quantised(settings: list[str]) -> None:
    made = quantize.make(config(settings, "questions=3", "suite.max_new_tokens.other=8", "quantize.calib_size=4"))
    report = QuantReport.read(made.path)
    assert report is not None
    by_metric = {item.metric: item for item in report.tasks}
    assert {"task_success", "exact_match"} <= by_metric.keys()
    exact = by_metric["exact_match"]
    # A random model has no answer right, and eight bits do not help it.
    assert (exact.reference, exact.candidate, exact.difference) == (0, 0, 0) and 3 <= exact.n <= 6
    assert -1 <= exact.low < 0 < exact.high <= 1
    assert {"base answers", "answers"} <= report.seconds.keys()
    [asked] = [table for table in quantize.tables("tiny", report) if table.title == "Tasks"]
    assert [row[0] for row in asked.rows] == ["task success", "exact match"] and asked.rows[0][-1] == exact.n
    # Not computed, not asked.
    unscored = quantize.make(config(settings, "questions=3", "quantize.qformat=nvfp4"))
    found = QuantReport.read(unscored.path)
    assert found is not None and found.status == "not scored" and found.tasks == ()


@pytest.mark.parametrize(
    ("free", "message"),
    [
        (Resources(memory=2**29, disk=2**40), r"not enough memory to quantise the checkpoint.*536,870,912 bytes free"),
        (
            Resources(memory=2**40, disk=2**20),
            r"not enough disk space to quantise the checkpoint.*1,048,576 bytes free",
        ),
    ],
)
def test_what_is_short_is_said_before_anything_is_loaded(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, free: Resources, message: str
) -> None:
    monkeypatch.setattr(resources, "available", lambda folder: free)
    monkeypatch.setattr(quantization, "quantize", lambda *values, **more: pytest.fail("it was begun"))
    with pytest.raises(EngineError, match=message):
        quantize.make(config(settings))
    assert config(settings).store().all("quantized-checkpoint") == []


def test_warnings_are_printed_and_kept(settings: list[str]) -> None:
    overrides = ("quantize.calib_size=2", "quantize.calib_max_seq_length=8", "workload=triage")
    text = run(settings, "quantize", "checkpoint=base", "quantize.score_records=4", *overrides)
    report = QuantReport.read(quantize.make(config(settings, *overrides)).path)
    assert report is not None and len(report.warnings) >= 3
    printed = re.findall(r"^warning  (.*)$", text, re.MULTILINE)
    assert tuple(printed) == report.warnings
    assert any("calib_max_seq_length=8 cuts the beginning of 2 of 2" in line for line in printed)
    assert any("shorter than those of the workload" in line for line in printed)
    assert any("task triage, which is one of the workload" in line for line in printed)
    assert re.search(r"^next     python -m recipes\.build engine=pytorch quant=fp8 checkpoint=", text, re.MULTILINE)


def test_the_choice_can_be_looked_at_before(settings: list[str]) -> None:
    text = run(settings, "calibrate", "calib_size=8", "workload=rag")
    assert "By task and length" in text and "training split" in text
    assert "warning  calibration prompts are shorter than those of the workload" in text
    assert "next     python -m recipes.quantize quantize.calib_size=8" in text


def test_a_dataset_that_was_changed_is_refused(settings: list[str]) -> None:
    wanted = config(settings)
    found = dataset(wanted.store())
    asked = (found.path / "acceptance.jsonl").read_text().splitlines()[0]
    train = found.path / "train.jsonl"
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    rows[3]["messages"] = json.loads(asked)["messages"]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"judged by.*train\.jsonl.*acceptance\.jsonl"):
        calibrate.make(wanted.store(), found, 8, 0)
    assert wanted.store().all("calibration") == []


def test_sizes_make_a_table_and_a_page_and_no_checkpoint(settings: list[str]) -> None:
    overrides = ["checkpoint=base", "quantize.score_records=4", "quantize.qformat=int8_sq", "calib_sizes=[4,16,1000]"]
    text = run(settings, "quantize", *overrides)
    store = config(settings).store()
    assert store.all("quantized-checkpoint") == []
    [made] = store.all("benchmark")
    largest = store.get(made.manifest.inputs["calibration"], "calibration")
    assert largest.manifest.config == {"calib_size": 16}
    available = largest.manifest.metrics["train_records"]
    assert f"left out 1,000: the training split has {available} records to calibrate on" in text
    page = Path(re.findall(r"^page     (.*)$", text, re.MULTILINE)[0])
    html = page.read_text()
    assert "<svg" in html and "Change from 16 bits" in html and "1,000: the training split" in html
    assert not re.search(r'(?:src|href)="https?:', html)
    values = json.loads((page.parent / "report.json").read_text())
    assert [row[0] for row in values["sections"][0]["tables"][0]["rows"]] == [4, 16]
    assert re.search(r"^next     python -m recipes\.quantize quantize\.qformat=int8_sq", text, re.MULTILINE)
    assert re.search(r"^found ", run(settings, "quantize", *overrides), re.MULTILINE)


def test_sizes_beyond_the_training_split_alone_are_refused(settings: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recipes.quantize", *settings, "checkpoint=base", "calib_sizes=[1000,2000]"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "no size to calibrate on — calib_sizes — seen: 1000, 2000" in done.stderr
    with pytest.raises(ConfigError, match="calib_sizes"):
        config(settings, "calib_sizes=[0]")
