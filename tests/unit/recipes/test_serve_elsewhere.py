"""`recipes.serve` before a Triton that others run: folder, model and contract of the route, and what is refused."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from recipes import app, deploy_gpu, serve
from tests.tiny import save_tiny_tokenizer, write_engine_info
from tests.unit.recipes.test_deploy_gpu import job
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError, ConfigError
from throughline.contracts.gateway import GatewaySpec
from throughline.contracts.serving import ServeSpec

URL = "gateway.triton_url=gpu-1:8001"


def spec(store: ArtifactStore, *overrides: str) -> GatewaySpec:
    config = app.to_schema(app.compose("serve", [f"paths.home={store.home}", *overrides]), serve.Config)
    with contextlib.ExitStack() as stack:
        return config.gateway.spec([each.route(config) for each in serve.upstreams(config, stack)], config.log.format)


def checkpoint(store: ArtifactStore) -> Artifact:
    with store.stage("checkpoint", "base", inputs={}, config={}, code_version="1") as run:
        save_tiny_tokenizer(run.directory)
        (run.directory / "config.json").write_text(json.dumps({"eos_token_id": 2, "max_position_embeddings": 512}))
        return run.commit()


@pytest.mark.parametrize(
    ("contract", "more", "model"),
    [
        ("bls", [], "tensorrt_llm_bls"),
        ("llmapi", [], "tensorrt_llm"),
        ("bls", ["gateway.triton_model=ensemble", "gateway.add_special_tokens=true"], "ensemble"),
    ],
)
def test_a_named_tokenizer(store: ArtifactStore, tmp_path: Path, contract: str, more: list[str], model: str) -> None:
    asked = [URL, f"gateway.contract={contract}", f"tokenizer={tmp_path}", "name=llama", "gateway.max_seq_len=4096"]
    [route] = spec(store, *asked, *more).models
    assert route.model_dump() == {
        "id": "llama",
        "upstream": "gpu-1:8001",
        "triton_model": model,
        "engine_dir": tmp_path,
        "contract": contract,
        "add_special_tokens": True if more else None,
        "max_seq_len": 4096,
    }


@pytest.mark.parametrize("of_deployment", [True, False])
def test_a_build_job_or_its_deployment(store: ArtifactStore, of_deployment: bool) -> None:
    base = checkpoint(store)
    found = job(store, base, max_seq_len=2048)
    if of_deployment:
        target = deploy_gpu.find_target(store, found.digest)
        assert target is not None
        found = deploy_gpu.make(store, target, "llama", ServeSpec()).artifact
    [route] = spec(store, URL, "gateway.contract=llmapi", f"target={found.digest}").models
    assert (route.engine_dir, route.max_seq_len, route.triton_model) == (base.path, 2048, "tensorrt_llm")


def test_our_engine_on_another_machine(store: ArtifactStore) -> None:
    with store.stage("engine", "lab-int8", inputs={}, config={}, code_version="1") as run:
        write_engine_info(save_tiny_tokenizer(run.directory), max_seq_len=256)
        engine = run.commit()
    [route] = spec(store, URL, f"target={engine.digest}", "name=desk").models
    assert (route.engine_dir, route.triton_model, route.contract) == (engine.path, "desk", "throughline")


def test_a_job_whose_checkpoint_is_not_here(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer of the engine is not on this machine.*tokenizer=…"):
        spec(store, URL, "gateway.contract=bls", f"target={job(store).digest}")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["tokenizer=/x", "gateway.contract=bls"], r"name its Triton \(gateway\.triton_url=host:port\)"),
        ([URL, "tokenizer=/x"], r"gateway\.contract=bls or llmapi"),
        (["gateway.triton_url=http://gpu-1:8001"], r"gateway\.triton_url"),
        (["gateway.contract=vllm"], r"gateway\.contract"),
    ],
)
def test_what_contradicts_itself_is_refused(store: ArtifactStore, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        spec(store, *overrides)
