"""`recipes.tune` over a service on paper: preset, evidence, report, resumption, and what bad input is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import app, references, tune, tune_check, tune_gate, tune_report, validate
from recipes.tune_advice import changes
from recipes.tune_lint import RULES, CpuLint
from recipes.tune_plan import Gpu
from recipes.tune_prior import proposals, reconciled
from tests.tiny import write_engine_info
from tests.unit.tuning.surface import Paper
from throughline.artifacts import Artifact, ArtifactStore, Line, Promotions
from throughline.contracts.config import parse
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import ConfigError, GateNoGo, TuningError
from throughline.contracts.evaluation import Verdict
from throughline.contracts.planning import GpuSpec
from throughline.contracts.serving import ServeSpec
from throughline.contracts.workload import Workload
from throughline.planning.shape import read_shape
from throughline.tuning import SpaceSpec
from throughline.tuning.evidence import TunedSpec, by_layer

ROOT = Path(__file__).resolve().parents[3]
SLO = "slo={ttft_seconds: 2.0, itl_seconds: 0.3, percentile: 95}"
SHORT = ["study.probes=10", "race.rounds=3", SLO, "workload.arrivals.users=32", "regate=false", "name=paper"]


def engine(store: ArtifactStore, **spec: Any) -> Artifact:
    """An engine that nobody loads; its defaults are those of the paper service."""
    usual = {"max_num_tokens": 256, "max_batch_size": 32, "precision": "bf16", "kv_cache_bytes": 2**29}
    with store.stage("engine", "lab", config={"engine": usual | spec}, code_version="1") as run:
        if run.cached:
            return run.cached
        write_engine_info(run.directory, max_seq_len=512)
        values = json.loads((run.directory / "engine.json").read_text())
        values["spec"] |= usual | spec
        (run.directory / "engine.json").write_text(json.dumps(values))
        return run.commit(metrics={"weight_bytes": 1})


def config(tmp_path: Path, *overrides: str) -> tune.Config:
    home = [f"paths.home={tmp_path}", f"presets={tmp_path / 'tuned'}", "target=latest"]
    return app.to_schema(app.compose("tune", [*home, *SHORT, *overrides]), tune.Config)


def test_a_search_ends_with_a_preset_its_evidence_and_a_page(tmp_path: Path) -> None:
    asked = config(tmp_path)
    built = engine(asked.store())
    lines: list[str] = []
    found = tune.make(asked, probe=Paper(noise=0.01), tell=lines.append)
    assert found.preset is not None and found.path == tmp_path / "tuned" / "paper.yaml"
    assert parse(TunedSpec, yaml.safe_load(found.path.read_text()), where="tuned") == found.preset
    evidence = found.preset.evidence
    assert evidence is not None and evidence.ratio is not None and evidence.ratio.low > 1
    assert evidence.digests["incumbent"] == built.digest and evidence.machine == tune_report.machine()
    assert evidence.beat == found.incumbent and evidence.probes == 10
    assert sum(line.startswith("probe") for line in lines) == 10
    page = tune_report.write(asked, found).read_text()
    assert page.count("<details") == 10 and "engine.max_num_tokens" in page
    assert page.count('scope="row"') > 5
    values = json.loads((found.folder / "report.json").read_text())
    assert values["verdict"].startswith("paper: goodput ") and "times the incumbent" in values["verdict"]


def test_the_preset_changes_what_is_built(tmp_path: Path) -> None:
    asked = config(tmp_path)
    engine(asked.store())
    found = tune.make(asked, probe=Paper(), tell=lambda line: None)
    assert found.preset is not None
    composed = app.compose("build", [])
    composed["tuned"] = found.preset.model_dump(mode="json")
    from recipes import build

    spec = app.to_schema(composed, build.Config).engine
    assert {f"engine.{key}": value for key, value in spec.model_dump().items()}.items() >= found.preset.settings.items()


def test_a_precision_means_its_preset(tmp_path: Path) -> None:
    """An engine of calibrated INT4 has points of every precision, and what wins builds whatever `quant` says."""
    calibrated = {"precision": "int4", "calibration": "scale_estimation", "int4_ratio": 0.8, "group_size": 64}
    asked = config(tmp_path, "space=batching")
    info = EngineInfo.read(engine(asked.store(), **calibrated).path)
    plain = {"engine.precision": "int4", "engine.calibration": "none", "engine.int4_ratio": 1.0}
    for point in ({"engine.precision": "int8"}, {"engine.precision": "bf16"}, {"engine.precision": "int4"}, plain):
        assert CpuLint(info, ServeSpec())(point) is None
    made = Made(engine(asked.store(), **calibrated), asked)
    specs = [
        EngineInfo.read(made(values).path).spec
        for values in ({"precision": "int8"}, {"precision": "int4"}, by_layer(plain)["engine"])
    ]
    assert [(each.precision, each.calibration, each.int4_ratio) for each in specs] == [
        ("int8", "none", 1.0),
        ("int4", "scale_estimation", 0.8),
        ("int4", "none", 1.0),
    ]
    found = tune.make(asked, probe=Paper(), tell=lambda line: None)
    assert found.preset is not None and found.preset.engine["precision"] in {"bf16", "int8"}
    composed = app.compose("build", ["quant=int4"])
    composed["tuned"] = found.preset.model_dump(mode="json")
    from recipes import build

    spec = app.to_schema(composed, build.Config).engine
    assert (spec.calibration, spec.int4_ratio) == ("none", 1.0)
    assert CpuLint(info.model_copy(update={"spec": spec}), ServeSpec())({}) is None


def test_a_stopped_search_goes_on_with_the_same_command(tmp_path: Path) -> None:
    engine(config(tmp_path).store())
    first = Paper(noise=0.01)
    tune.make(config(tmp_path, "study.probes=6"), probe=first, tell=lambda line: None)
    again, lines = Paper(noise=0.01), list[str]()
    found = tune.make(config(tmp_path, "study.probes=8"), probe=again, tell=lines.append)
    assert len(found.study.measured) == 8
    assert any(line.startswith("goes on  6 probes") for line in lines)
    # Two points more, and races only against finalists that were not raced yet.
    assert len(again.calls) < len(first.calls)


def test_an_impossible_slo_says_which_limit_and_by_how_much(tmp_path: Path) -> None:
    asked = config(tmp_path, "slo.ttft_seconds=0.001")
    engine(asked.store())
    with pytest.raises(TuningError) as error:
        tune.make(asked, probe=Paper(), tell=lambda line: None)
    text = str(error.value)
    assert text.startswith("no point keeps the SLO — slo.ttft_seconds=0.001 — seen: exceeded ")
    assert "of 10 points" in text and "set slo.ttft_seconds=" in text


def test_a_service_that_dies_half_way_keeps_what_was_measured(tmp_path: Path) -> None:
    asked = config(tmp_path)
    engine(asked.store())
    with pytest.raises(TuningError, match=r"3 times one after another.*4 finished probes are kept"):
        # Noise takes four.
        tune.make(asked, probe=Paper(dies=frozenset(range(8, 99))), tell=lambda line: None)
    lines: list[str] = []
    assert tune.make(asked, probe=Paper(), tell=lines.append).preset is not None
    assert any(line.startswith("goes on  4 probes") for line in lines)


def test_an_advice_is_measured_right_after_the_incumbent(tmp_path: Path) -> None:
    asked = config(tmp_path)
    engine(asked.store())
    probe = Paper()
    tune.make(asked, probe=probe, advice=[{"engine.max_batch_size": 5}], tell=lambda line: None)
    assert [call["engine.max_batch_size"] for call in probe.calls[:6]] == [32, 32, 32, 32, 32, 4], (
        "the nearest of the space"
    )


def test_a_lever_beyond_the_space_is_no_point(tmp_path: Path) -> None:
    space = config(tmp_path).space
    assert changes(["engine.max_num_tokens=128"], space) == {"engine.max_num_tokens": 128}
    assert changes(["engine.max_num_tokens=128", "gateway.workers=2"], space) == {}
    assert changes(["engine.enable_block_reuse=true"], space) == {"engine.enable_block_reuse": True}
    assert changes(["quant=int8"], space) == {"engine.precision": "int8"}
    assert changes(["quant=nvfp4"], space) == {}


def test_the_arithmetic_proposes_points_of_the_space(tmp_path: Path) -> None:
    asked = config(tmp_path)
    info = EngineInfo.read(engine(asked.store()).path)
    start = {
        "engine.precision": "bf16",
        "engine.max_num_tokens": 256,
        "engine.max_batch_size": 32,
        "engine.enable_block_reuse": True,
    }
    found = proposals(asked.space.including(start), start, info, asked.workload)
    assert [
        (point["engine.precision"], point["engine.max_batch_size"], point["engine.max_num_tokens"]) for point in found
    ] == [
        ("bf16", 32, 128),
        ("bf16", 32, 64),
        ("int8", 32, 128),
        ("int8", 32, 64),
    ]


def test_an_advice_of_shorter_steps_takes_the_batch_along() -> None:
    """The doctor's lever of 32 tokens beside a batch of 64 was refused by the linter, and so never measured."""
    start = {"engine.max_num_tokens": 128, "engine.max_batch_size": 64}
    assert reconciled(start, {"engine.max_num_tokens": 32}) == {
        "engine.max_num_tokens": 32,
        "engine.max_batch_size": 32,
    }
    asked = {"engine.max_num_tokens": 32, "engine.max_batch_size": 64}
    assert reconciled(start, asked) == asked, "what was asked for is refused and not changed"


class Refusing:
    """A gate that lets nothing pass whose precision is INT8."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store

    def __call__(self, config: Any, engine: Artifact, reference: Artifact, **rest: Any) -> tune_gate.Judged:
        spec = EngineInfo.read(engine.path).spec
        refused = spec.precision == "int8"
        verdict = Verdict("NO_GO" if refused else "GO", ["task_success drops by 0.3, at most 0.03 tolerated"])
        values = {
            "line": {"model": "smollm2", "profile": "laptop", "debug": "none"},
            "promoted": None,
            "candidate": "tuned",
            "candidate_digest": engine.digest,
            "verdicts": {"tuned": verdict.as_dict()},
        }
        with self.store.stage("decision", "tuning", inputs={"engine": engine}, config={}, code_version="1") as run:
            (run.directory / "decision.json").write_text(json.dumps(values))
            decision = run.commit()
        return tune_gate.Judged(engine, reference, reference, verdict, decision)


def test_what_the_gate_refuses_is_no_preset_and_the_next_one_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(tmp_path, "regate=true", "study.probes=24", "race.finalists=12")
    store = asked.store()
    engine(store)
    monkeypatch.setattr(tune_gate, "judge", Refusing(store))
    monkeypatch.setattr(tune, "Engines", Made)
    found = tune.make(asked, probe=Paper(), tell=lambda line: None)
    verdicts = [judged.verdict.decision for _, judged in found.judged]
    assert verdicts[0] == "NO_GO" and verdicts[-1] == "GO" and set(verdicts[:-1]) == {"NO_GO"}
    assert found.preset is not None and found.preset.engine["precision"] == "bf16"
    line = Line("smollm2", "laptop")
    candidate = Promotions(store, line, "candidate").current
    assert candidate is not None and candidate.engine == found.judged[-1][1].engine.digest
    assert references.engine(store, "candidate", "laptop").digest == candidate.engine
    assert Promotions(store, line).current is None, "a candidate is not promoted"
    page = tune_report.write(asked, found).read_text()
    assert "NO_GO" in page and "drops by 0.3" in page


class Made(tune.Engines):
    """Engines that are no more than their spec."""

    def _build(self, spec: EngineSpec) -> Artifact:
        return engine(self.config.store(), **spec.model_dump(mode="json"))


def test_check_says_whether_the_tuning_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = config(tmp_path)
    engine(asked.store())
    found = tune.make(asked, probe=Paper(noise=0.01), tell=lambda line: None)
    kept = asked.model_copy(update={"tuned": found.preset})
    assert tune_check.make(kept, Paper(noise=0.01)).holds
    busier = asked.workload.model_copy(update={"input_tokens": 200})
    drift = tune_check.make(kept.model_copy(update={"workload": busier}), Paper(noise=0.01))
    assert not drift.holds and drift.elsewhere == ("another workload",)

    def slower(settings: Any, *, seconds: float, seed: int) -> Any:
        found = Paper()(settings, seconds=seconds, seed=seed)
        value = found.goodput
        assert value is not None
        import dataclasses

        return found.model_copy(update={"goodput": dataclasses.replace(value, value=0.5 * value.value)})

    assert tune_check.make(kept, slower).change == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ConfigError, match="no evidence to check against"):
        tune_check.make(asked, Paper())


def test_contradictions_are_refused_with_the_rule(tmp_path: Path) -> None:
    info = EngineInfo.read(engine(ArtifactStore(tmp_path), max_seq_len=512).path)
    lint = CpuLint(info, ServeSpec())
    usual = {"engine.max_num_tokens": 512, "engine.max_batch_size": 32}
    assert lint(usual) is None
    refused = {
        "num-tokens": usual | {"engine.max_num_tokens": 16},
        "engine-spec": usual | {"engine.max_num_tokens": 64, "engine.enable_chunked_context": False},
        "serve-spec": {"serve.hang_seconds": 1.0},
    }
    for rule, settings in refused.items():
        found = lint(settings)
        assert found is not None and found[0] == rule
    big = info.model_copy(update={"num_hidden_layers": 30, "num_key_value_heads": 3, "head_dim": 64})
    found = CpuLint(big, ServeSpec())(usual | {"engine.kv_cache_bytes": 2**21})
    assert found is not None and found[0] == "kv-cache-size" and "does not hold one sequence" in found[1]
    assert {rule.id for rule in RULES} == {*refused, "kv-cache-size", "gpu-memory"}


def test_points_of_a_gpu_are_refused_by_its_back_end_and_the_planner(tmp_path: Path) -> None:
    shape = read_shape(ROOT / "engines" / "models" / "llama-3.1-8b.json")
    values = {name: yaml.safe_load((app.CONF / "gpu" / f"{name}.yaml").read_text()) for name in ("l4", "h100-sxm")}
    gpus = {name: parse(GpuSpec, each, where="gpu") for name, each in values.items()}
    workload = Workload(
        input_tokens=500, output_tokens=300, longest_input_tokens=4096, longest_output_tokens=1024, concurrency=64
    )
    spec = EngineSpec(backend="tensorrt", precision="bf16", max_batch_size=64, max_num_tokens=4096)
    on = {name: Gpu(spec, ServeSpec(), shape, gpu, workload).refusal for name, gpu in gpus.items()}
    assert on["h100-sxm"]({"engine.precision": "fp8"}) is None
    found = {
        "gpu-memory": on["l4"]({"engine.precision": "bf16"}),
        "engine-spec": on["h100-sxm"]({"engine.precision": "nvfp4"}),
        "num-tokens": on["h100-sxm"]({"engine.max_batch_size": 8192}),
    }
    assert {rule: each and each[0] for rule, each in found.items()} == {rule: rule for rule in found}


def test_every_space_composes_and_has_its_incumbent(tmp_path: Path) -> None:
    assert {"batching", "engine", "serving", "tensorrt"} <= set(validate.groups("tune")["space"])
    asked = config(tmp_path, "space=engine")
    assert isinstance(asked.space, SpaceSpec) and asked.space.conditional
    engine(asked.store())
    lines: list[str] = []

    def probe(settings: Any, *, seconds: float, seed: int) -> Any:
        return Paper()(dict(settings), seconds=seconds, seed=seed)

    found = tune.make(asked, probe=probe, tell=lines.append)
    assert "engine.speculative_config.max_draft_len" not in found.incumbent
    assert found.incumbent["engine.speculative_config.decoding_type"] is None


def test_a_space_with_a_setting_that_nothing_has_is_named(tmp_path: Path) -> None:
    asked = config(tmp_path)
    engine(asked.store())
    wrong = SpaceSpec(name="wrong", dimensions=({"key": "engine.max_token", "kind": "ordered", "values": (1, 2)},))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing has — space=wrong — seen: 'max_token'"):
        tune.make(asked.model_copy(update={"space": wrong}), probe=Paper(), tell=lambda line: None)


def test_a_refusal_of_the_check_exits_as_a_gate_does() -> None:
    assert GateNoGo("x").exit_code == 3
