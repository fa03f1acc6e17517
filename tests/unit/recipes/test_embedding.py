"""An embedding engine through the recipes: built once, found again, rendered beside the engine that makes text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from recipes import app, build, deploy, references, serve
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.engine import EngineInfo
from throughline.contracts.errors import ArtifactError, ConfigError, EngineError, EngineLintError
from throughline.triton import repository

SMALL = ("engine.max_seq_len=64", "engine.num_threads=1", "quant=f32")


def settings(recipe: str, schema: Any, home: Path, *overrides: str) -> Any:
    paths = (f"paths.home={home}", f"paths.model_repository={home}/repository")
    return app.to_schema(app.compose(recipe, [*overrides, *paths]), schema)


def built(home: Path, checkpoint: Path, *overrides: str) -> Artifact:
    return build.make(settings("build", build.Config, home, *SMALL, *overrides, f"checkpoint={checkpoint}"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A store with an engine of each kind, of the same checkpoint; the one that embeds is newer."""
    folder = tmp_path_factory.mktemp("home")
    built(folder, tiny_checkpoint, "engine.kv_cache_bytes=16777216")
    built(folder, tiny_checkpoint, "engine=embedding", "engine.embedding.pooling=last")
    return folder


def test_latest_is_the_newest_of_its_kind(home: Path) -> None:
    store = ArtifactStore(home)
    text = references.engine(store, "latest", "laptop")
    vectors = references.engine(store, "latest", "laptop", key="embedding.target", embeds=True)
    assert EngineInfo.read(text.path).embedding is None
    embedding = EngineInfo.read(vectors.path).embedding
    assert embedding is not None and (embedding.pooling, embedding.dimensions) == ("last", 64)


def test_the_same_settings_find_the_engine_and_another_pooling_file_does_not(
    home: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(tiny_checkpoint, tmp_path / "own"))
    (own / "1_Pooling").mkdir()

    def made(mode: str) -> Artifact:
        (own / "1_Pooling" / "config.json").write_text(json.dumps({mode: True}))
        return built(tmp_path / "home", own, "engine=embedding")

    first = made("pooling_mode_mean_tokens")
    assert made("pooling_mode_mean_tokens").digest == first.digest
    second = made("pooling_mode_lasttoken")
    assert second.digest != first.digest
    info = EngineInfo.read(second.path).embedding
    assert info is not None and info.pooling == "last"


def test_both_are_rendered_and_each_has_its_configuration(home: Path) -> None:
    config = settings("deploy", deploy.Config, home, "target=latest", "embedding.target=latest", "embedding.name=e5")
    assert (deploy.make(config), deploy.make_beside(config)) == (1, {"e5": 1})
    found = config.paths.model_repository
    assert repository.models(found) == ["e5", "lab"]
    kinds = {name: repository.is_embedding(repository.read_config(found, name)) for name in ("e5", "lab")}
    assert kinds == {"e5": True, "lab": False}
    assert deploy.make_beside(settings("deploy", deploy.Config, home, "target=latest")) == {}


def test_what_is_refused(home: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = references.engine(ArtifactStore(home), "latest", "laptop")
    with pytest.raises(EngineError, match="makes tokens, no vectors"):
        deploy.make_beside(settings("deploy", deploy.Config, home, f"embedding.target={text.digest}"))
    for recipe, schema in (("deploy", deploy.Config), ("serve", serve.Config)):
        with pytest.raises(ConfigError, match="give each model its own"):
            settings(recipe, schema, home, "embedding.target=latest", "embedding.name=lab")
    with pytest.raises(ArtifactError, match=r"no engine yet.*engine=embedding"):
        references.engine(ArtifactStore(tmp_path), "latest", "laptop", embeds=True)
    with pytest.raises(EngineLintError, match=r"no tokens and have no KV cache.*speculative_config"):
        built(
            tmp_path,
            tiny_checkpoint,
            "engine=embedding",
            "engine.embedding.pooling=last",
            "+engine.speculative_config.decoding_type=NGram",
        )
    job = settings("build", build.Config, tmp_path, "engine=gpu", "quant=bf16", "+engine.embedding.pooling=last")
    with pytest.raises(EngineError, match="embedding engines of the tensorrt back end"):
        build.make_job(job)
