"""Both GPU layouts are the golden ones, pass our linter, and refuse what contradicts the engine.

`THROUGHLINE_WRITE_GOLDEN=1 python -m pytest tests/unit/triton` writes the golden files again.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests import trtllm
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import DeployError
from throughline.contracts.gpu_serving import GpuServeSpec
from throughline.contracts.serving import Layout, ServeSpec
from throughline.contracts.tracing import TracingSettings
from throughline.documents import ModelConfigFile
from throughline.engines.tensorrt.commands import model_yaml
from throughline.linting import lint
from throughline.triton.gpu import ServedEngine, Tokenizer, launch, write_inflight_batcher, write_llmapi

GOLDEN = Path(__file__).parent / "golden"
SPEC = EngineSpec(backend="tensorrt", precision="fp8", max_num_tokens=8192, max_seq_len=4096, max_lora_rank=16)
ENGINE = ServedEngine.of_spec("llama", SPEC)
SERVE = ServeSpec(http_port=8000, grpc_port=8001, metrics_port=8002)


def gpu(**values: Any) -> ServeSpec:
    return SERVE.model_copy(update={"gpu": GpuServeSpec(**values)})


def render(folder: Path, layout: Layout, spec: ServeSpec = SERVE, engine: ServedEngine = ENGINE) -> Path:
    """The layout's folder with what starts it."""
    folder.mkdir(exist_ok=True)
    if layout == "llmapi":
        options = model_yaml(SPEC.model_copy(update={"backend": "pytorch"}), spec.gpu.checkpoint_dir)
        write_llmapi(folder, engine, spec, options=options)
    else:
        write_inflight_batcher(folder, engine, spec)
    launch.write(folder, "llama", layout, engine, spec)
    return folder


def engine_model(folder: Path) -> ModelConfigFile:
    return ModelConfigFile.read(folder / "repository" / "tensorrt_llm" / "config.pbtxt")


@pytest.mark.parametrize("layout", ["inflight_batcher_llm", "llmapi"])
def test_the_rendered_files_are_the_golden_ones(tmp_path: Path, layout: Layout) -> None:
    folder = render(tmp_path / layout, layout)
    # The models' code is compared with its sources below.
    texts = {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".pbtxt", ".yaml", ".sh", ".service")
    }
    if os.environ.get("THROUGHLINE_WRITE_GOLDEN") == "1":
        shutil.rmtree(GOLDEN / layout, ignore_errors=True)
        for name, text in texts.items():
            trtllm.write(GOLDEN / layout / name, text)
    golden = {str(path.relative_to(GOLDEN / layout)): path.read_text() for path in (GOLDEN / layout).rglob("*.*")}
    assert texts == golden
    assert len(texts) == (8 if layout == "inflight_batcher_llm" else 5)


@pytest.mark.parametrize("layout", ["inflight_batcher_llm", "llmapi"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"decoupled": False},
        {"batch_scheduler_policy": "max_utilization", "kv_cache_free_gpu_mem_fraction": 0.5},
        {"kv_cache_host_memory_bytes": 2**30, "enable_kv_cache_reuse": False, "enable_chunked_context": False},
        {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "/info.json"},
        {"version_policy": "latest", "warm_up": False},
    ],
)
def test_our_linter_finds_nothing_wrong(tmp_path: Path, layout: Layout, settings: dict[str, Any]) -> None:
    assert lint(render(tmp_path / "made", layout, gpu(**settings)) / "repository") == []


def test_an_engine_that_was_built_is_linted_with_its_repository(tmp_path: Path) -> None:
    built = trtllm.write_engine(tmp_path)
    engine = ServedEngine.read(built)
    assert (engine.max_batch_size, engine.world_size, engine.max_lora_rank) == (64, 2, 32)
    folder = render(tmp_path / "made", "inflight_batcher_llm", gpu(engine_dir=str(built)), engine)
    assert lint(folder / "repository") == []
    assert engine_model(folder).parameter("lora_cache_max_adapter_size") == "32"
    # The linter saw the engine: it objects to a smaller cache.
    file = engine_model(folder)
    file.path.write_text(file.text.replace('string_value: "32"', 'string_value: "8"'))
    assert {item.rule.id for item in lint(folder / "repository")} == {"lora-cache"}


def test_what_the_engine_decides(tmp_path: Path) -> None:
    folder = render(tmp_path / "made", "inflight_batcher_llm")
    configs = {path.parent.name: ModelConfigFile.read(path).config for path in folder.rglob("config.pbtxt")}
    assert {config.max_batch_size for config in configs.values()} == {64}
    assert configs["tensorrt_llm_bls"].instance_group[0].count == 64
    model = engine_model(folder)
    assert (model.flag("enable_kv_cache_reuse"), model.flag("enable_chunked_context")) == (True, True)
    assert (model.parameter("lora_cache_max_adapter_size"), model.parameter("max_beam_width")) == ("16", "1")
    assert list(model.config.model_warmup[0].inputs) and (model.path.parent / "warmup").is_dir()
    one = render(tmp_path / "one", "inflight_batcher_llm", gpu(bls_instance_count=3), ServedEngine("one", 8))
    assert "lora_cache_max_adapter_size" not in engine_model(one).config.parameters
    bls = ModelConfigFile.read(one / "repository" / "tensorrt_llm_bls" / "config.pbtxt")
    assert bls.config.instance_group[0].count == 3


def test_our_models_come_with_what_they_import(tmp_path: Path) -> None:
    import sys

    folder = render(tmp_path / "made", "inflight_batcher_llm") / "repository"
    imported = {
        "preprocessing": "tokenizer, word_lists",
        "postprocessing": "streams, tokenizer",
        "tensorrt_llm_bls": "streams, tensors, tokenizer",
    }
    for name, modules in imported.items():
        version = folder / name / "1"
        assert "class TritonPythonModel" in (version / "model.py").read_text()
        code = f"from throughline.triton.text import {modules}; import throughline; print(throughline.__file__)"
        # Isolated, as the Python backend starts its interpreter: nothing of ours is installed in the container.
        program = f"import sys; sys.path.insert(0, {str(version / 'lib')!r}); {code}"
        done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str(version / "lib" / "throughline" / "__init__.py")


@pytest.mark.parametrize(
    ("settings", "engine", "words"),
    [
        ({"enable_chunked_context": True}, {"paged_context_fmha": False}, "enable_chunked_context needs use_paged"),
        (
            {"enable_kv_cache_reuse": True},
            {"paged_context_fmha": False, "enable_chunked_context": False},
            "enable_kv_cache_reuse needs use_paged",
        ),
        ({"lora_cache_max_adapter_size": 8}, {"max_lora_rank": 16}, "does not take the engine's adapters"),
        ({"lora_cache_optimal_adapter_size": 8}, {}, "needs lora_plugin"),
        ({"guided_decoding_backend": "xgrammar"}, {}, "guided decoding needs the tokenizer"),
    ],
)
def test_what_contradicts_the_engine_is_refused(
    tmp_path: Path, settings: dict[str, Any], engine: dict[str, Any], words: str
) -> None:
    with pytest.raises(DeployError, match=words) as caught:
        render(tmp_path, "inflight_batcher_llm", gpu(**settings), ServedEngine("x", 8, **engine))
    assert caught.value.where.startswith("serve.gpu.") and caught.value.fix


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kv_cache_free_gpu_mem_fraction": 1.0}, "less than 1"),
        ({"kv_cache_free_gpu_mem_fraction": 0.0}, "greater than 0"),
        ({"batch_scheduler_policy": "max_utilisation"}, "max_utilization"),
        ({"batching_strategy": "V1"}, "decoupled=false"),
        ({"batching_strategy": "V1", "batch_scheduler_policy": "max_utilization"}, "inflight_fused_batching"),
        ({"batching_strategy": "V1", "decoupled": False, "enable_chunked_context": True}, "inflight_fused_batching"),
        ({"xgrammar_tokenizer_info_path": "/x.json"}, "guided_decoding_backend=xgrammar"),
        ({"lora_cache_max_adapter_size": 8, "lora_cache_optimal_adapter_size": 16}, "lower it"),
        ({"engine_dir": "engines/model"}, "pattern"),
        ({"engine_dir": "/engines/a b"}, "pattern"),
        ({"deployment_dir": "/srv/$(id)"}, "pattern"),
        ({"container": "image; id"}, "pattern"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        GpuServeSpec(**settings)


def test_a_whole_batch_at_a_time_is_of_one_layout(tmp_path: Path) -> None:
    spec = gpu(batching_strategy="V1", decoupled=False)
    model = engine_model(render(tmp_path / "made", "inflight_batcher_llm", spec))
    assert (model.parameter("gpt_model_type"), model.flag("enable_chunked_context")) == ("V1", False)
    with pytest.raises(DeployError, match="batches in flight always"):
        render(tmp_path / "other", "llmapi", spec)


def test_guided_decoding_gets_the_tokenizer(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    spec, tokenizer = gpu(guided_decoding_backend="xgrammar"), Tokenizer(tiny_tokenizer_dir, (2,))
    write_inflight_batcher(tmp_path, ENGINE, spec, tokenizer=tokenizer)
    path = Path(engine_model(tmp_path).parameter("xgrammar_tokenizer_info_path") or "")
    local = tmp_path / path.relative_to(spec.gpu.deployment_dir)
    info = json.loads(local.read_text())
    assert (len(info["encoded_vocab"]), info["stop_token_ids"], info["encoded_vocab"][2]) == (2048, [2], "<|im_end|>")
    assert json.loads(info["tokenizer_str"])["model"]["type"] == "BPE"


@pytest.mark.parametrize("ranks", [1, 4])
def test_a_folder_without_its_ranks_is_refused(tmp_path: Path, ranks: int) -> None:
    built = trtllm.write_engine(tmp_path)
    for rank in range(4):
        (built / f"rank{rank}.engine").unlink(missing_ok=True) if rank >= ranks else (
            built / f"rank{rank}.engine"
        ).touch()
    with pytest.raises(DeployError, match=f"{ranks} rank engines, world size 2"):
        ServedEngine.read(built)
    with pytest.raises(DeployError, match="no engine of TensorRT-LLM here"):
        ServedEngine.read(tmp_path)


def commands(words: list[str]) -> list[list[str]]:
    """The server commands of an `mpirun`, one for each rank."""
    found: list[list[str]] = [[]]
    for word in words:
        found = [*found, []] if word == ":" else [*found[:-1], [*found[-1], word]]
    return found


def test_each_rank_of_an_engine_is_a_process() -> None:
    engine = ServedEngine("x", 8, world_size=4)
    words = launch.server_command("inflight_batcher_llm", engine, SERVE, "/r")
    assert words[:4] == ["mpirun", "--allow-run-as-root", "-n", "1"]
    ranks = commands(words)
    assert len(ranks) == 4
    assert "--grpc-port=8001" in ranks[0] and "--model-control-mode=explicit" not in ranks[0]
    assert all("--load-model=tensorrt_llm" in rank and "--allow-grpc=false" in rank for rank in ranks[1:])
    assert len({word for rank in ranks for word in rank if "shm-region" in word}) == 4
    # LLM() starts its ranks itself.
    assert len(commands(launch.server_command("llmapi", engine, SERVE, "/r"))) == 1
    assert launch.environment(engine)["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert "mpirun" not in launch.server_command("llmapi", ENGINE, SERVE, "/r")
    assert engine_is_asked_at_start(engine) is False


@pytest.mark.parametrize("layout", ["inflight_batcher_llm", "llmapi"])
def test_traces_come_from_the_rank_that_takes_requests(layout: Layout) -> None:
    engine = ServedEngine("x", 8, world_size=2)
    spec = SERVE.model_copy(update={"tracing": TracingSettings(endpoint="http://127.0.0.1:4318")})
    leads, *others = commands(launch.server_command(layout, engine, spec, "/r"))
    assert "--trace-config=opentelemetry,url=http://127.0.0.1:4318/v1/traces" in leads
    assert [word for rank in others for word in rank if "trace" in word] == []
    assert "--trace-config=rate=0" in launch.start_script("llama", layout, engine, spec)
    assert "trace" not in launch.start_script("llama", layout, engine, SERVE)


def engine_is_asked_at_start(engine: ServedEngine) -> bool:
    from throughline.triton.gpu.settings import settle

    return settle(SERVE, engine).warm_up


@pytest.mark.parametrize("layout", ["inflight_batcher_llm", "llmapi"])
def test_the_script_is_bash_and_says_what_is_missing(tmp_path: Path, layout: Layout) -> None:
    folder = render(tmp_path / "made", layout, gpu(checkpoint_dir=str(tmp_path / "nothing")))
    done = subprocess.run(["bash", str(folder / "start.sh")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (2, f"missing: {tmp_path}/nothing/tokenizer.json")


@pytest.mark.parametrize("layout", ["inflight_batcher_llm", "llmapi"])
def test_unit_and_service_run_the_same(tmp_path: Path, layout: Layout) -> None:
    folder = render(tmp_path / "made", layout)
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["llama"]
    unit = (folder / "llama.service").read_text()
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = shlex.split(line.removeprefix("ExecStart="))
    assert words[-2:] == service["command"] and words[-3] == service["image"]
    assert [words[at + 1] for at, word in enumerate(words) if word == "--volume"] == service["volumes"]
    assert any(mount.startswith("/engines/model:") for mount in service["volumes"]) == (layout != "llmapi")
    assert "0.0.0.0" not in unit + (folder / "compose.yaml").read_text() + (folder / "start.sh").read_text()
