"""What a user sees on the command line: help, errors with their place, exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
RECIPES = (
    "convert",
    "data",
    "calibrate",
    "train",
    "evaluate",
    "build",
    "deploy",
    "serve",
    "chat",
    "bench",
    "compare",
    "plan",
    "lint",
    "migrate",
    "quantize",
    "lifecycle",
    "keys",
    "diagnose",
    "profile",
    "tune",
)


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"THROUGHLINE_HOME": str(tmp_path / "artifacts"), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_help(tmp_path: Path, recipe: str) -> None:
    done = run(tmp_path, f"recipes.{recipe}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m recipes.{recipe}" in done.stdout
    assert "Presets" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recipes.data", "data.train_record=5"), "did you mean 'data.train_records'?"),
        (("recipes.data", "data=labb"), "did you mean 'lab'?"),
        (("recipes.data", "data.train_records=many"), "data.train_records"),
        (("recipes.data", "data=files", "data.source=/nowhere.jsonl"), "/nowhere.jsonl does not exist"),
        (("recipes.train", "model=hf", "model.path=/nowhere"), "no dataset yet"),
        (("recipes.build", "checkpoint=base", "model=hf", "model.path=/nowhere"), "base checkpoint is missing"),
        (("recipes.build", "checkpoint=latest"), "run `python -m recipes.train`"),
        (("recipes.evaluate", "target=ffffffff"), "reference does not name one engine"),
        (("recipes.deploy", "action=stop"), "no server is running"),
        (("recipes.bench", "bench.repeats=0"), "bench.repeats"),
        (("recipes.keys", "action=create"), "action=create needs keys.name"),
        (("recipes.keys", "action=revoke"), "action=revoke needs keys.id"),
        (("recipes.keys", "keys.store=postgres://x"), "keys.store"),
    ],
)
def test_bad_input_gets_its_place_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "artifacts").glob("*/*"))


def test_two_faults_come_together(tmp_path: Path) -> None:
    done = run(tmp_path, "recipes.data", "data.train_records=1", "data.validation_share=2")
    assert "data.train_records" in done.stderr
    assert "data.validation_share" in done.stderr


def test_validate_checks_every_preset_on_disk() -> None:
    from recipes import app, validate

    checks = validate.check_all()
    assert {check.recipe for check in checks if not check.overrides} == set(RECIPES)
    on_disk = {f"{path.parent.name}={path.stem}" for path in app.CONF.glob("*/*.yaml")}
    assert {override for check in checks for override in check.overrides} == on_disk
    assert [check for check in checks if check.fault] == []


def test_validate_names_a_preset_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recipes import app, composing, validate

    conf = tmp_path / "conf"
    shutil.copytree(app.CONF, conf)
    (conf / "trainer" / "odd.yaml").write_text("lr: -1\n")
    (conf / "gate" / "odd.yaml").write_text("mn: {exact_match: 0.5}\n")
    for module in (app, composing):
        monkeypatch.setattr(module, "CONF", conf)
    # The test above composes the others.
    monkeypatch.setattr(validate, "recipes", lambda: ["lifecycle", "train"])
    faults = {(check.recipe, *check.overrides): check.fault for check in validate.check_all() if check.fault}
    assert set(faults) == {("train", "trainer=odd"), ("lifecycle", "gate=odd")}
    assert "trainer.lr" in faults["train", "trainer=odd"]
    assert "gate.mn" in faults["lifecycle", "gate=odd"]


def test_every_gate_can_decide_with_every_suite() -> None:
    from recipes import validate

    found = validate.gate_powers()
    assert [str(item) for item in found if not item.power.decides] == []
    assert {(item.gate, item.questions) for item in found} == {("lab", "lab"), ("own", "own")}
    laptop = {
        (item.power.precision, item.power.metric): (item.power.needed, item.power.questions)
        for item in found
        if item.gate == "lab" and "laptop" in item.suite
    }
    # As recipes/conf/gate/lab.yaml says.
    text = (ROOT / "recipes" / "conf" / "gate" / "lab.yaml").read_text()
    for needed, metric in ((115, "triage_exact_match"), (65, "json_validity"), (28, "refusal_accuracy")):
        assert laptop["", metric][0] == needed
        assert f"# {needed} of {laptop['', metric][1]}" in text
    assert laptop["int8", "task_success"][0] == 147 and "147 pairs for int8" in text
    assert laptop["int4", "task_success"][0] == 185 and "185 for int4" in text


def test_every_preset_names_the_command_that_uses_it() -> None:
    for path in sorted((ROOT / "recipes" / "conf").rglob("*.yaml")):
        if path.name == "common.yaml":
            continue
        lines = [
            line
            for line in path.read_text().splitlines()
            if line != "# @package _global_" and line != "# @package engine"
        ]
        assert "-m recipes." in lines[0], path
