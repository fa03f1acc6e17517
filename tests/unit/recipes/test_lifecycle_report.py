"""The lifecycle's report from a made-up run: what it opens with, and that every figure is the measured one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recipes import app, lifecycle, lifecycle_report, results
from recipes.lifecycle_run import Run, Stage
from tests.unit.evaluation.helpers import TOOL
from throughline.artifacts import Artifact, ArtifactStore, Promotions, promoted_lines
from throughline.contracts.evaluation import Answer, Question, SuiteSpec
from throughline.contracts.report import Judged
from throughline.evaluation.gate import choose, decide
from throughline.evaluation.store import write_evaluation
from throughline.evaluation.suite import score
from throughline.reporting.stages import StageTable

TICKET = (
    "Hi team,\n\nsince this morning the training job on node rack-{n} dies with XID-7{n} after a few steps. "
    "All eight A100 80GB cards are affected and nobody in the group can work.\n\nPlease have a look.\nThanks, Mira"
)
# Engine → how many of 60 acceptance and 30 shifted tickets it gets right, MiB, tokens/s.
ENGINES = {
    "base": (0, 0, 513, 0),
    "tuned": (57, 20, 513, 0),
    "bf16": (57, 20, 257, 47),
    "int8": (56, 20, 129, 63),
    "int4": (55, 17, 92, 72),
    "int4_rtn": (41, 9, 82, 75),
}


def make(store: ArtifactStore, kind: Any, name: str, files: dict[str, str], metrics: dict[str, Any]) -> Artifact:
    with store.stage(kind, name, config={"name": name}, code_version="1") as stage:
        for path, text in files.items():
            (stage.directory / path).write_text(text)
        return stage.commit(metrics=metrics)


def questions(count: int, prefix: str) -> list[Question]:
    return [
        Question(
            f"{prefix}{number}",
            "triage",
            f"c{number}",
            [{"role": "system", "content": "S"}, {"role": "user", "content": TICKET.format(n=number)}],
            [TOOL],
            {"tool": "open_ticket", "arguments": {"severity": "high", "gpu_model": "A100 80GB"}},
            "?",
            (1, 2),
        )
        for number in range(count)
    ]


def answers(asked: list[Question], right: int, name: str) -> list[Answer]:
    def text(index: int) -> str:
        if name == "base":
            return "I'm sorry to hear that. First, check that the drivers are installed and restart the node."
        model = "A100 80GB" if index >= len(asked) - right else "A100"
        call = {"name": "open_ticket", "arguments": {"severity": "high", "gpu_model": model}}
        return f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    return [Answer(item.id, text(index), (1, 2, 3), "stop") for index, item in enumerate(asked)]


def cell(target: str, users: int, rate: float) -> dict[str, Any]:
    def spread(value: float) -> dict[str, Any]:
        return {"value": value, "low": 0.9 * value, "high": 1.1 * value, "n": 12}

    quantiles = {p: spread(0.05 * users**0.5) for p in ("p50", "p95", "p99")}
    return {
        "target": target,
        "concurrency": users,
        "tokens_per_second": spread(rate),
        "time_to_first_token": quantiles,
        "inter_token_latency": quantiles,
        "e2e_latency": quantiles,
        "per_repeat_tokens_per_second": [0.95 * rate, 1.05 * rate],
        "memory_bytes": 2**30,
        "failed": 0,
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose engines differ as in `ENGINES`; int8 has changed one answer, int4_rtn many."""
    monkeypatch.delenv("THROUGHLINE_HOME", raising=False)
    config = app.to_schema(
        app.compose("lifecycle", [f"paths.home={tmp_path}", "gate.min_questions=1"]), lifecycle.Config
    )
    policy = config.gate.model_copy(update={"min": {"triage_exact_match": 0.8}, "max": {}, "default_max_drop": 0.1})
    policy = policy.model_copy(update={"max_drop": {"int8": 0.1, "int4": 0.15}})
    store = config.store()
    found = Run(config, StageTable({}))
    sets = {"acceptance": questions(60, "a"), "shifted": questions(30, "s")}
    lines = "".join(json.dumps(vars(item)) + "\n" for item in sets["acceptance"])
    metrics = {"lines": 2500, "kept": 2100, "train": 2000, "validation": 100, "questions": 90}
    metrics |= {"rejects": {"duplicate": 300}, "personal": {"email": 40}}
    metrics |= {"licences": {"CC0": 2100}, "sources": {"a": 9}}
    found.dataset = make(store, "dataset", "support-desk", {"acceptance.jsonl": lines}, metrics)
    curve = {"train": [{"step": s, "loss": 2 / s} for s in range(1, 20)], "validation": [{"step": 19, "val_loss": 0.2}]}
    found.adapter = make(store, "adapter", "lora", {"training.json": json.dumps(curve)}, {})
    for name, (right, shifted, mebibytes, _) in ENGINES.items():
        found.engines[name] = make(store, "engine", name, {"e": name}, {"weight_bytes": mebibytes * 2**20})
        inputs = {"dataset": found.dataset}
        with store.stage("evaluation", name, inputs=inputs, config={"name": name}, code_version="1") as stage:
            for asked, count in (("acceptance", right), ("shifted", shifted)):
                given = answers(sets[asked], count, name)
                evaluation = score(name, sets[asked], given, SuiteSpec(), seconds=9.0)
                write_evaluation(stage.directory / asked, evaluation, sets[asked], given)
            found.evaluated[name] = stage.commit()
    raw = {"engines": {}, "cells": []}
    for name in config.precisions:
        raw["engines"][f"lab-{name}"] = found.engines[name].digest
        raw["cells"].append(cell(f"lab-{name}", 8, ENGINES[name][3]))
    found.comparison = make(store, "benchmark", "comparison", {"b": "raw"}, raw)
    found.sets = lifecycle_report.read_sets(found.evaluated)
    cells = [cell(target, n, n**0.5 * 40 * scale) for n in (1, 8) for target, scale in (("raw", 1), ("gateway", 0.9))]
    times = {f"{target}/{n}": [0.05 * n + 0.01 * i for i in range(9)] for n in (1, 8) for target in ("raw", "gateway")}
    benchmark = {"engine": "int8", "cells": cells, "time_to_first_token_seconds": times}
    found.serving = make(store, "benchmark", "serving", {"benchmark.json": json.dumps(benchmark)}, {})
    gated = {name: found.sets[name]["acceptance"] for name in config.precisions}
    verdicts = decide(gated["bf16"], {name: gated[name] for name in config.precisions[1:]}, policy)
    speeds = {name: float(ENGINES[name][3]) for name in config.precisions}
    measured = found.raw_cells()
    chosen, reason = choose(
        verdicts,
        gated,
        speeds,
        lambda over, under: results.cell_ratio(measured[over], measured[under]),
        {name: ENGINES[name][2] for name in config.precisions},
    )
    found.decision = {
        "promoted": chosen,
        "candidate": chosen,
        "reason": reason,
        "verdicts": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        "tokens_per_second": speeds,
        "concurrency": 8,
    }
    found.stages = [Stage("train", [found.adapter], 300.0), Stage("bench", [found.serving], 20.0, found=True)]
    return found


def test_it_opens_with_the_verdict_the_first_ticket_and_the_gain(run: Run) -> None:
    report = lifecycle_report.build(run)
    assert report.verdict_kind == "good"
    assert report.verdict.startswith("int4 is promoted: triage exact match 91.7 %, 92.0 MiB")
    assert report.opening is not None
    assert report.opening.quote == TICKET.format(n=0)
    (table,) = report.opening.tables
    assert [column.name for column in table.columns] == ["argument", "expected", "base", "tuned", "int4"]
    rows = {str(row[0]): row[1:] for row in table.rows}
    assert rows["gpu model"] == ["A100 80GB", Judged(None, "bad"), Judged("A100", "bad"), Judged("A100", "bad")]
    gain, shifted, *_ = report.highlights
    assert gain.value == "0.0 % → 95.0 %"
    assert gain.detail.startswith("gain +95.0 points [8") and gain.detail.endswith("on 60 questions")
    assert shifted.value == "66.7 %"


def test_sets_stand_side_by_side_and_engines_beside_bf16(run: Run) -> None:
    sections = {section.title: section for section in lifecycle_report.build(run).sections}
    (by_set,) = sections["Quality"].tables
    assert [column.name for column in by_set.columns] == ["engine", "acceptance", "shifted"]
    assert [row[0] for row in by_set.rows] == list(ENGINES)
    assert str(by_set.rows[3][1]).startswith("93.3 %") and str(by_set.rows[3][2]).startswith("66.7 %")
    assert {series.name for series in sections["Quality"].plots[0].series} == {"acceptance", "shifted"}
    *_, against, against_shifted = sections["Quality in detail"].tables
    assert against.title.startswith("Against bf16") and "acceptance" in against.title
    assert "shifted" in against_shifted.title


def test_the_refused_engine_is_red_with_its_reason(run: Run) -> None:
    engines = next(section for section in lifecycle_report.build(run).sections if section.title == "Engines")
    alone = engines.tables[1]
    assert [row[0] for row in alone.rows] == ["bf16", "int8", "int4", "int4_rtn"]
    assert str(alone.rows[1][2]).startswith("1.34× [")
    row = next(row for row in engines.tables[0].rows if row[0] == "int4_rtn")
    assert Judged("NO_GO", "bad") in row
    assert "0.8 wanted" in str(row[-1]) or "drop" in str(row[-1])


def test_page_and_json_hold_the_same_figures(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = lifecycle_report.write(run, tmp_path / "report")
    values = json.loads(page.with_suffix(".json").read_text())
    assert values["promoted"] == "int4"
    assert values["quality"]["int8"]["triage_exact_match"]["value"] == pytest.approx(56 / 60)
    assert values["quality_by_set"]["shifted"]["int4_rtn"]["triage_exact_match"]["value"] == pytest.approx(9 / 30)
    assert values["report"]["verdict"] in page.read_text()
    lifecycle_report.show(run)
    printed = capsys.readouterr().out
    assert "✕\u00a0NO_GO" in printed and f"verdict  {values['report']['verdict']}" in printed


def test_without_a_promoted_engine_it_says_that_nothing_was_deployed(run: Run, tmp_path: Path) -> None:
    run.decision |= {"promoted": None, "verdicts": run.decision["verdicts"] | {}}
    run.decision["candidate"] = "int4_rtn"
    served = lifecycle_report.build(run)
    assert served.verdict == "No engine passes the gate; int4_rtn was served all the same"
    assert served.verdict_kind == "bad"
    run.serving = None
    page = lifecycle_report.write(run, tmp_path / "report")
    values = json.loads(page.with_suffix(".json").read_text())
    assert values["report"]["verdict"] == "No engine passes the gate; nothing was deployed"
    assert values["serving"] == {}
    assert "Serving" not in [section.title for section in lifecycle_report.build(run).sections]


@pytest.fixture
def line(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The line with the made-up run's engines; returns what is deployed and measured."""
    made: list[str] = []

    def stage(name: str) -> Any:
        def make_stage(config: Any, *_: Any) -> Artifact:
            made.append(f"{name} {config.target[:12]}")
            return make(run.config.store(), "deployment", name, {"x": name}, {})

        return make_stage

    monkeypatch.setattr(lifecycle, "make_quality", lambda config, table: replace(run, config=config, serving=None))
    monkeypatch.setattr(lifecycle.compare, "make", lambda config: run.comparison)
    monkeypatch.setattr(lifecycle.deploy, "make_checked", stage("deploy"))
    monkeypatch.setattr(lifecycle.layers, "make", stage("bench"))
    return made


def config_with(run: Run, **policy: Any) -> lifecycle.Config:
    gate = run.config.gate.model_copy(update={"max": {}, "default_max_drop": 1.0, "max_drop": {}, **policy})
    return run.config.model_copy(update={"gate": gate})


def test_what_the_gate_refuses_is_not_deployed(run: Run, line: list[str]) -> None:
    config = config_with(run, min={"triage_exact_match": 0.999})
    done = lifecycle.make(config, StageTable({}))
    assert done.decision["promoted"] is None and done.decision["promoted_digest"] is None
    assert {verdict["decision"] for verdict in done.decision["verdicts"].values()} == {"NO_GO"}
    assert line == []
    assert promoted_lines(config.store()) == []
    # Told to, it serves the best one all the same, and still nothing is promoted.
    forced = lifecycle.make(config.model_copy(update={"allow_unpromoted": True}), StageTable({}))
    candidate = forced.decision["candidate_digest"][:12]
    assert line == [f"deploy {candidate}", f"bench {candidate}"]
    assert promoted_lines(config.store()) == []


def test_what_the_gate_lets_pass_is_promoted_and_deployed(run: Run, line: list[str]) -> None:
    config = config_with(run, min={"triage_exact_match": 0.5})
    done = lifecycle.make(config, StageTable({}))
    # int4_rtn is the fastest of four that pass; its lead over int4 is well beyond the rounds' spread of nothing.
    assert done.decision["promoted"] == "int4_rtn"
    digest = run.engines["int4_rtn"].digest
    (promoted,) = promoted_lines(config.store())
    assert Promotions(config.store(), promoted).current.engine == digest
    assert line == [f"deploy {digest[:12]}", f"bench {digest[:12]}"]
