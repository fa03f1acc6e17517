"""The catalogue in `engines/` is what the planner says now, and every plan in it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recipes import app, catalogue, plan
from throughline.contracts.config import parse
from throughline.contracts.planning import PlanSpec
from throughline.planning.memory import weight_bytes
from throughline.planning.shape import read_shape


def test_no_file_is_stale(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["catalogue", "check"])
    assert catalogue.main() == 0, capsys.readouterr().err
    assert " 0 stale" in capsys.readouterr().out


def test_a_file_that_was_changed_by_hand_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models").mkdir()
    model = catalogue.ENGINES / "models" / "qwen3-0.6b.json"
    (tmp_path / "models" / model.name).write_text(model.read_text())
    monkeypatch.setattr(catalogue, "ENGINES", tmp_path)
    monkeypatch.setattr("sys.argv", ["catalogue"])
    assert catalogue.main() == 0
    path = tmp_path / "qwen3-0.6b_l4_fp8.yaml"
    path.write_text(path.read_text().replace("tp_size: 1", "tp_size: 2"))
    monkeypatch.setattr("sys.argv", ["catalogue", "check"])
    assert catalogue.main() == 2
    assert "engines/qwen3-0.6b_l4_fp8.yaml is not what the planner says" in capsys.readouterr().err


def test_every_plan_is_one_that_the_command_makes_and_that_fits() -> None:
    files = sorted(catalogue.ENGINES.glob("*.yaml"))
    models = {"llama-3.1-8b", "llama-3.1-70b", "llama-3.2-1b", "llama-3.2-3b", "qwen2.5-7b", "qwen3-8b", "qwen3-0.6b"}
    found = [yaml.safe_load(path.read_text()) for path in files]
    assert {item["model"] for item in found} >= models | {"mistral-7b", "smollm2-135m"}
    assert {item["gpu"] for item in found} == set(catalogue.GPUS)
    for item in found:
        settings = {key: value for key, value in item["spec"].items() if key != "max_seq_len"}
        spec = parse(PlanSpec, settings, where=item["model"])
        shape = read_shape(catalogue.ENGINES / "models" / f"{item['model']}.json")
        assert item["planned"]["weights_bytes"] == round(weight_bytes(shape, spec))
        assert item["planned"]["max_concurrent_sequences"] >= 1
        assert item["status"] == "planned, never built"
    overrides = ["config=engines/models/llama-3.1-8b.json", "gpu=h200", "plan.precision=fp8"]
    made = plan.make(app.to_schema(app.compose("plan", overrides), plan.Config))
    entry = yaml.safe_load((catalogue.ENGINES / "llama-3.1-8b_h200_fp8.yaml").read_text())
    assert made.fits and made.kv_token_capacity == entry["planned"]["kv_token_capacity"]
    assert made.estimate is not None
    assert made.estimate["tokens_per_second"] == pytest.approx(entry["planned"]["tokens_per_second"], abs=1)
