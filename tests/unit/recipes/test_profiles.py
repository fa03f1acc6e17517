"""A profile decides engine, trainer, suite, serving and logs; the composed settings are as reviewed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes import app, build, lifecycle, serve, train, validate
from throughline.contracts.errors import ConfigError, EngineError
from throughline.reporting.stages import StageTable

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[3]
PROFILES = ("laptop", "gpu", "node", "production")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_composed_settings_are_the_reviewed_ones(profile: str) -> None:
    """After a change on purpose: `python -m recipes.validate profile=gpu > tests/unit/recipes/golden/gpu.yaml`."""
    found = validate.profile_settings(profile)
    assert set(found) == {"engine", "gateway", "log", "serve", "suite", "trainer"}
    assert found == yaml.safe_load((GOLDEN / f"{profile}.yaml").read_text())


def test_the_profiles_are_no_labels() -> None:
    settings = {profile: validate.profile_settings(profile) for profile in PROFILES}
    assert {profile: found["engine"]["backend"] for profile, found in settings.items()} == {
        "laptop": "cpu",
        "gpu": "tensorrt",
        "node": "tensorrt",
        "production": "tensorrt",
    }
    assert [settings[profile]["log"]["format"] for profile in PROFILES] == ["human", "human", "json", "json"]
    assert settings["node"]["trainer"]["strategy"] == "fsdp2"
    assert settings["production"]["gateway"]["timeouts"] != settings["node"]["gateway"]["timeouts"]


def test_the_recipes_compose_what_the_table_says() -> None:
    table = validate.profile_settings("production")
    served = app.to_schema(app.compose("serve", ["profile=production"]), serve.Config)
    assert served.gateway.model_dump(mode="json") == table["gateway"]
    assert served.log.model_dump(mode="json") == table["log"]
    trained = app.to_schema(app.compose("train", ["profile=production"]), train.Config)
    assert trained.trainer.model_dump(mode="json") == table["trainer"]
    # One setting can still be changed, and one preset taken in place of the profile's.
    own = app.to_schema(app.compose("build", ["profile=production", "engine=cpu", "log.format=human"]), build.Config)
    assert (own.engine.backend, own.log.format, own.log.foreign) == ("cpu", "human", "console")


def test_a_line_without_a_builder_ends_before_it_trains(tmp_path: Path) -> None:
    overrides = ["profile=gpu", f"paths.home={tmp_path}/home"]
    config = app.to_schema(app.compose("lifecycle", overrides), lifecycle.Config)
    with pytest.raises(EngineError, match=r"not built and not run here.*tensorrt.*engine=cpu"):
        lifecycle.make_quality(config, StageTable({}))
    assert not (tmp_path / "home").exists()


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such profile.*prodction.*did you mean 'production'"):
        validate.profile_settings("prodction")


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("command", [["recipes.validate", "profile=laptop"], ["recipes.data", "--help"]])
def test_a_reader_that_goes_away_gets_no_traceback(command: list[str], buffered: bool) -> None:
    read, write = os.pipe()
    os.close(read)
    # A buffer keeps what is printed until the interpreter ends.
    environment = os.environ | {"PYTHONUNBUFFERED": "" if buffered else "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(write)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 141
