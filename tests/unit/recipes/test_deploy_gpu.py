"""`recipes.deploy action=render` of build jobs and engines of TensorRT-LLM: the layouts that each can be served in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import app, deploy, deploy_gpu
from tests import trtllm
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import DeployError
from throughline.contracts.gpu_serving import GpuServeSpec
from throughline.contracts.serving import ServeSpec
from throughline.documents import ModelConfigFile
from throughline.engines.tensorrt import Requirement, write_job
from throughline.linting import lint

ROOT = Path(__file__).resolve().parents[3]
NEED = Requirement(gpus=1, gpu_bytes=1, disk_bytes=1, seconds=1.0)


def job(store: ArtifactStore, checkpoint: Artifact | None = None, **spec: Any) -> Artifact:
    built = EngineSpec(**{"backend": "tensorrt", "max_num_tokens": 4096} | spec)
    inputs = {"checkpoint": checkpoint} if checkpoint else {}
    with store.stage("build-job", "llama", inputs=inputs, config=spec, code_version="1") as run:
        write_job(
            run.directory, name="llama", spec=built, requirement=NEED, checkpoint_digest="0" * 64, texts=["a record"]
        )
        return run.commit()


def rendered(store: ArtifactStore, reference: str, **gpu: Any) -> deploy_gpu.Rendered:
    target = deploy_gpu.find_target(store, reference)
    assert target is not None
    return deploy_gpu.make(store, target, "llama", ServeSpec(gpu=GpuServeSpec(**gpu)))


@pytest.mark.parametrize(
    ("spec", "layouts", "reason"),
    [
        ({}, ["inflight_batcher_llm", "llmapi"], ""),
        ({"precision": "fp8", "gemm_plugin": "fp8", "multiple_profiles": True}, ["inflight_batcher_llm", "llmapi"], ""),
        ({"precision": "int8_sq"}, ["inflight_batcher_llm"], "does not have this precision"),
        ({"backend": "pytorch"}, ["llmapi"], "builds no engine"),
    ],
)
def test_a_job_gives_the_layouts_that_it_can_be_served_in(
    store: ArtifactStore, spec: dict[str, Any], layouts: list[str], reason: str
) -> None:
    found = rendered(store, job(store, **spec).digest)
    assert found.artifact.manifest.metrics == {"status": "rendered, not run on a GPU", "layouts": layouts}
    assert sorted(path.parent.name for path in found.artifact.path.glob("*/start.sh")) == layouts
    assert (len(found.refused), all(reason in why for why in found.refused.values())) == (2 - len(layouts), True)
    for layout in layouts:
        assert lint(found.artifact.path / layout / "repository") == []


def test_the_same_is_found_and_another_setting_is_another(store: ArtifactStore) -> None:
    reference = job(store).digest
    first = rendered(store, reference).artifact
    assert rendered(store, reference).artifact.digest == first.digest
    assert first.manifest.inputs == {"build_job": reference}
    other = rendered(store, reference, batch_scheduler_policy="max_utilization").artifact
    assert other.digest != first.digest
    values = yaml.safe_load((other.path / "llmapi" / "repository" / "tensorrt_llm" / "1" / "model.yaml").read_text())
    assert values["scheduler_config"] == {"capacity_scheduler_policy": "MAX_UTILIZATION"}


def test_both_layouts_say_the_same(store: ArtifactStore) -> None:
    """One set of settings, two spellings."""
    spec = {"max_lora_rank": 32, "tp_size": 2, "enable_block_reuse": False}
    found = rendered(
        store, job(store, **spec).digest, kv_cache_free_gpu_mem_fraction=0.7, decoupled=False, checkpoint_dir="/c"
    )
    model = ModelConfigFile.read(
        found.artifact.path / "inflight_batcher_llm" / "repository" / "tensorrt_llm" / "config.pbtxt"
    )
    folder = found.artifact.path / "llmapi" / "repository" / "tensorrt_llm"
    values = yaml.safe_load((folder / "1" / "model.yaml").read_text())
    other = ModelConfigFile.read(folder / "config.pbtxt").config
    assert (
        model.number("kv_cache_free_gpu_mem_fraction") == values["kv_cache_config"]["free_gpu_memory_fraction"] == 0.7
    )
    assert model.flag("enable_kv_cache_reuse") == values["kv_cache_config"]["enable_block_reuse"] is False
    assert model.flag("enable_chunked_context") == values["enable_chunked_prefill"] is True
    assert model.number("lora_cache_max_adapter_size") == values["peft_cache_config"]["max_adapter_size"] == 32
    decoupled = {model.config.model_transaction_policy.decoupled, other.model_transaction_policy.decoupled}
    assert decoupled == {False} == {values["triton_config"]["decoupled"]}
    assert (values["model"], values["tensor_parallel_size"]) == ("/c", 2)


def test_guided_decoding_takes_the_job_s_checkpoint(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    with store.stage("checkpoint", "tuned", config={}, code_version="1") as run:
        for path in tiny_checkpoint.iterdir():
            (run.directory / path.name).write_bytes(path.read_bytes())
        checkpoint = run.commit()
    found = rendered(store, job(store, checkpoint).digest, guided_decoding_backend="xgrammar")
    [info] = found.artifact.path.rglob("xgrammar_tokenizer_info.json")
    assert json.loads(info.read_text())["stop_token_ids"] == [2]
    with pytest.raises(DeployError, match="guided decoding needs the tokenizer"):
        rendered(store, job(store).digest, guided_decoding_backend="xgrammar")


def test_an_engine_that_was_built(store: ArtifactStore, tmp_path: Path) -> None:
    built = trtllm.write_engine(tmp_path)
    found = rendered(store, str(built))
    assert list(found.refused) == ["llmapi"] and "recipes.migrate" in found.refused["llmapi"]
    assert "mpirun" in (found.artifact.path / "inflight_batcher_llm" / "start.sh").read_text()
    config = json.loads((built / "config.json").read_text())
    config["build_config"]["max_batch_size"] = 32
    (built / "config.json").write_text(json.dumps(config))
    assert rendered(store, str(built)).artifact.digest != found.artifact.digest


def test_what_can_be_served_in_no_layout_is_refused(store: ArtifactStore) -> None:
    reference = job(store, backend="pytorch").digest
    with pytest.raises(DeployError, match=r"in no layout.*builds no engine.*in flight always"):
        rendered(store, reference, batching_strategy="V1", decoupled=False)


def test_engines_of_this_machine_are_left_to_the_cpu_layout(store: ArtifactStore, tmp_path: Path) -> None:
    with store.stage("engine", "tiny", config={}, code_version="1") as run:
        (run.directory / "engine.json").write_text("{}")
        engine = run.commit()
    assert deploy_gpu.find_target(store, engine.digest) is None
    assert deploy_gpu.find_target(store, str(tmp_path)) is None


def test_the_command_renders_and_does_not_start(store: ArtifactStore, tmp_path: Path) -> None:
    reference = job(store).digest[:12]
    environment = os.environ | {"THROUGHLINE_HOME": str(store.home), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recipes.deploy", "profile=gpu", f"target={reference}", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = run("action=render", "name=support-desk")
    assert done.returncode == 0, done.stderr
    assert "not run on a GPU" in done.stdout and "recipes.lint" in done.stdout
    assert list(store.home.glob("deployment/*/llmapi/support-desk.service"))
    assert not (tmp_path / "model_repository").exists()
    for words, message in (
        (("action=start",), "runs on a GPU machine"),
        (("action=render", "serve.gpu.kv_cache_free_gpu_mem_fraction=1.5"), "serve.gpu.kv_cache_free_gpu_mem_fraction"),
        (("action=render", "serve.gpu.batch_scheduler_polcy=x"), "batch_scheduler_policy"),
    ):
        refused = run(*words)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused.stderr


def test_presets_reach_the_files(store: ArtifactStore) -> None:
    reference = job(store).digest
    config = app.to_schema(
        app.compose("deploy", [f"paths.home={store.home}", f"target={reference}", "serve=throughput"]), deploy.Config
    )
    target = deploy_gpu.find_target(store, reference)
    assert target is not None
    found = deploy_gpu.make(store, target, "llama", config.serve)
    text = (found.artifact.path / "inflight_batcher_llm" / "repository" / "tensorrt_llm" / "config.pbtxt").read_text()
    assert '"max_utilization"' in text and '"0.95"' in text
