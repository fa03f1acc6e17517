"""A repository of the engine flow becomes one that our linter passes; nothing that was set goes without a word."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tests import trtllm
from throughline.contracts.errors import DeployError
from throughline.contracts.migration import Move
from throughline.linting import lint
from throughline.migration import Migration, migrate, write
from throughline.migration.contract import MOVES
from throughline.triton import llmapi
from throughline.triton.model_config import INPUTS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return trtllm.write_repository(tmp_path, trtllm.write_engine(tmp_path))


def written(migration: Migration, folder: Path) -> Path:
    write(migration, folder, Path("/models/old"), inputs=llmapi.INPUTS, outputs=llmapi.OUTPUTS)
    return folder


def moves(migration: Migration) -> dict[str, Move]:
    return {move.name: move for move in migration.moves if move.kind == "setting"}


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_settings_keep_their_values(repository: Path, tmp_path: Path) -> None:
    found = migrate(repository, "/models/llama")
    values = found.options
    assert (values["model"], values["backend"], values["tensor_parallel_size"]) == ("/models/llama", "pytorch", 2)
    assert (values["max_batch_size"], values["max_num_tokens"], values["max_input_len"]) == (64, 8192, 4096)
    kv = values["kv_cache_config"]
    assert (kv["dtype"], kv["enable_block_reuse"], kv["free_gpu_memory_fraction"]) == ("fp8", True, 0.9)
    assert values["scheduler_config"] == {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"}
    assert values["enable_chunked_prefill"] is True
    assert values["lora_config"] == {"lora_target_modules": ["attn_q"], "max_lora_rank": 32}
    assert values["triton_config"] == {"max_batch_size": 0, "decoupled": True}
    folder = written(found, tmp_path / "new")
    assert lint(folder) == []
    assert yaml.safe_load((folder / "tensorrt_llm" / "1" / "model.yaml").read_text()) == values
    config = text_format.Parse((folder / "tensorrt_llm" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert config.model_transaction_policy.decoupled and config.max_batch_size == 0
    assert config.parameters["gpu_device_ids"].string_value == "0,1"
    assert [tensor.name for tensor in config.input] == [name for name, _, _ in llmapi.INPUTS]


def test_every_setting_has_a_line(repository: Path) -> None:
    model = trtllm.ModelConfigFile.read(repository / "tensorrt_llm" / "config.pbtxt")
    found = moves(migrate(repository, "x"))
    assert {name for name in model.config.parameters if model.parameter(name)} <= set(found)
    for move in found.values():
        assert bool(move.target) == (move.fate != "lost"), move
        assert move.note or move.fate == "mapped", move


@pytest.mark.parametrize(
    ("name", "value", "fate", "note"),
    [
        ("gpu_weights_percent", "0.5", "lost", "not streamed"),
        ("normalize_log_probs", "true", "lost", "log-probabilities"),
        ("gpt_model_type", "V1", "changed", "in flight always"),
        ("decoding_mode", "medusa", "lost", "engine flow"),
        ("decoding_mode", "beam_search", "changed", "max_beam_width"),
        ("exclude_input_in_output", "true", "changed", "each request"),
        ("cuda_graph_mode", "true", "changed", "on by default"),
        ("max_tokens_in_paged_kv_cache", "many", "lost", "cannot be read"),
        ("lora_prefetch_dir", "/adapters", "lost", "refuses it"),
        ("house_special", "1", "lost", "unknown to us"),
    ],
)
def test_what_is_lost_or_changes_is_said(repository: Path, name: str, value: str, fate: str, note: str) -> None:
    path = repository / "tensorrt_llm" / "config.pbtxt"
    lines = path.read_text().split("parameters: {")
    kept = [lines[0]] + [part for part in lines[1:] if f'"{name}"' not in part]
    tail = "dynamic_batching {"
    text = "parameters: {".join(kept)
    if tail not in text:
        text += "dynamic_batching { default_queue_policy { max_queue_size: 100 } }\n"
    path.write_text(text + trtllm.parameters({name: value}))
    move = moves(migrate(repository, "x"))[name]
    assert (move.fate, move.value) == (fate, value) and note in move.note


def test_quantised_engines(repository: Path, tmp_path: Path) -> None:
    config = tmp_path / "engine" / "config.json"
    assert "recipes.quantize" in moves(migrate(repository, "x"))["quant_algo"].note
    change(config, '"quant_algo": "FP8"', '"quant_algo": "W8A8_SQ_PER_CHANNEL"')
    change(config, '"kv_cache_quant_algo": "FP8"', '"kv_cache_quant_algo": "INT8"')
    found = migrate(repository, "x")
    assert moves(found)["quant_algo"].fate == "lost" and moves(found)["kv_cache_quant_algo"].fate == "lost"
    assert "dtype" not in found.options["kv_cache_config"]


def test_the_request_contract_is_whole() -> None:
    """Every tensor of our text contract has a line, and what is mapped goes where the llmapi model has an input."""
    inputs = {move.name: move for move in MOVES if move.kind == "input"}
    ours = {"input_ids", "ignore_eos", "priority"}
    assert {name for name, _, _ in INPUTS} - ours <= set(inputs)
    known = {name for name, _, _ in llmapi.INPUTS} | {"sampling_param_return_perf_metrics"}
    assert {move.target for move in inputs.values() if move.target} <= known


def test_bad_input(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(DeployError, match="no model to migrate"):
        migrate(tmp_path / "nowhere", "x")
    with pytest.raises(DeployError, match=r"config\.json is needed.*engine_dir=…"):
        migrate(repository, "x", tmp_path / "nowhere")
    found = migrate(repository, "x")
    with pytest.raises(DeployError, match=r"folder is not empty.*give another"):
        written(found, repository)
    change(repository / "tensorrt_llm" / "config.pbtxt", "dynamic_batching {", "dynamic_batchin {")
    with pytest.raises(DeployError, match=r"file cannot be read.*config\.pbtxt:\d+"):
        migrate(repository, "x")


def test_the_command(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.migrate", f"repository={repository}", "checkpoint=/models/llama"]
    command += [f"paths.home={tmp_path}/home"]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(f"out={tmp_path}/new")
    assert done.returncode == 0, done.stderr
    assert "model.yaml" in done.stdout and " lost" in done.stdout and "recipes.lint path=" in done.stdout
    page = Path(next(line for line in done.stdout.splitlines() if line.startswith("page ")).split()[-1])
    assert "guided_decoding_guide" in page.read_text()
    rows = json.loads(run(f"out={tmp_path}/newer", "format=json").stdout)
    assert {row["fate"] for row in rows} == {"mapped", "changed", "lost"}
    done = run(f"out={tmp_path}/new")
    assert done.returncode == 2 and "not empty" in done.stderr and "Traceback" not in done.stderr
