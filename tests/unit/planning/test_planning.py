"""Plans against transformers' own parameter counts, published throughput, and brute force over changes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recipes import app, plan
from throughline.contracts.config import parse
from throughline.contracts.errors import CheckpointError, ConfigError, EngineError
from throughline.contracts.planning import GpuSpec, PlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.advise import changes, first_limit, fits, options, supported
from throughline.planning.memory import kv_bytes_per_token, memory, sequences, weight_bytes
from throughline.planning.roofline import estimate
from throughline.planning.shape import ModelShape, read_shape

ROOT = Path(__file__).resolve().parents[3]
LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
LLAMA_70B = LLAMA_8B | {"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672}
LLAMA_70B |= {"num_attention_heads": 64}
QWEN2_7B = LLAMA_8B | {"model_type": "qwen2", "num_hidden_layers": 28, "hidden_size": 3584, "vocab_size": 152064}
QWEN2_7B |= {"intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
QWEN3_8B = LLAMA_8B | {"model_type": "qwen3", "num_hidden_layers": 36, "intermediate_size": 12288, "head_dim": 128}
QWEN3_8B |= {"vocab_size": 151936}
QWEN3_06B = QWEN3_8B | {"num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072, "head_dim": 128}
QWEN3_06B |= {"num_attention_heads": 16, "tie_word_embeddings": True}
SMOLLM2 = LLAMA_8B | {"num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "vocab_size": 49152}
SMOLLM2 |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
MISTRAL_7B = LLAMA_8B | {"model_type": "mistral", "vocab_size": 32768}
# As the models' cards count them.
COUNTS = [
    (LLAMA_8B, 8_030_261_248),
    (LLAMA_70B, 70_553_706_496),
    (QWEN2_7B, 7_615_616_512),
    (QWEN3_8B, 8_190_735_360),
    (QWEN3_06B, 596_049_920),
    (SMOLLM2, 134_515_008),
    (MISTRAL_7B, 7_248_023_552),
]
# NVIDIA's TensorRT-LLM 1.0 performance overview, Llama 3.1 8B in FP8: (input, output) → tokens/s on H100 and H200.
PUBLISHED = {
    (128, 128): (28312, 27911),
    (128, 2048): (22714, 26221),
    (128, 4096): (14325, 18027),
    (500, 2000): (17660, 20770),
    (1000, 1000): (15220, 17744),
    (1000, 2000): (13899, 16828),
    (2048, 128): (3450, 3538),
    (2048, 2048): (9305, 12194),
    (5000, 500): (3459, 3902),
    (20000, 2000): (1351, 1804),
}


def shape(config: dict[str, Any]) -> ModelShape:
    return ModelShape.of(config, where="config.json")


def gpu(name: str) -> GpuSpec:
    return parse(GpuSpec, yaml.safe_load((app.CONF / "gpu" / f"{name}.yaml").read_text()), where=name)


def load(inputs: int, outputs: int, **more: Any) -> Workload:
    values = {"input_tokens": inputs, "output_tokens": outputs}
    return Workload(**values, longest_input_tokens=inputs, longest_output_tokens=outputs, **more)


@pytest.mark.parametrize(("config", "count"), COUNTS)
def test_parameters_are_those_of_the_model_cards(config: dict[str, Any], count: int) -> None:
    assert shape(config).parameters == count


@pytest.mark.parametrize("config", [LLAMA_8B, QWEN2_7B, QWEN3_06B, SMOLLM2, MISTRAL_7B])
def test_parameters_are_those_that_transformers_makes(config: dict[str, Any]) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = config["model_type"]
    made = AutoConfig.for_model(**config)
    assert made.model_type == kind
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    found = shape(config)
    assert sum(each.numel() for each in model.parameters()) == found.parameters
    layer = model.model.layers[0]
    linear = [each.numel() for name, each in layer.named_parameters() if name.endswith("proj.weight")]
    assert sum(linear) == found.attention_linear + found.mlp_linear
    rows = [each.shape[0] for name, each in layer.named_parameters() if name.endswith("proj.weight")]
    assert sum(rows) * found.layers == found.linear_rows


@pytest.mark.parametrize(
    ("config", "tp_size", "dtype", "expected"),
    [
        (LLAMA_8B, 1, "bf16", 131072),
        (LLAMA_70B, 1, "bf16", 327680),
        (LLAMA_70B, 4, "fp8", 40960),
        # Eight heads on 16 GPUs: none is cut.
        (LLAMA_8B, 16, "bf16", 16384),
        (SMOLLM2, 1, "bf16", 2 * 11520),
    ],
)
def test_bytes_of_a_token_in_the_cache(config: dict[str, Any], tp_size: int, dtype: Any, expected: int) -> None:
    assert kv_bytes_per_token(shape(config), PlanSpec(tp_size=tp_size, kv_cache_dtype=dtype)) == expected


def test_weights_are_as_large_as_the_published_checkpoints() -> None:
    """Safetensors of meta-llama's and nvidia's Llama 3.1 8B repositories: 16.06, 9.08 (FP8) and 5.7 GB (AWQ)."""
    sizes = {"bf16": 16.06e9, "fp8": 9.08e9, "int4_awq": 5.7e9}
    for precision, expected in sizes.items():
        found = weight_bytes(shape(LLAMA_8B), PlanSpec(precision=precision))  # type: ignore[arg-type]
        assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("lengths", "index"), itertools.product(PUBLISHED, (0, 1)))
def test_throughput_is_near_the_published_one(lengths: tuple[int, int], index: int) -> None:
    board = gpu(("h100-sxm", "h200")[index])
    wanted = PlanSpec(precision="fp8", free_gpu_memory_fraction=0.95)
    taken = memory(shape(LLAMA_8B), board, wanted, load(*lengths))
    found = estimate(shape(LLAMA_8B), board, wanted, load(*lengths), taken)
    assert found is not None
    assert found.tokens_per_second == pytest.approx(PUBLISHED[lengths][index], rel=0.15)


def test_four_bits_win_alone_and_lose_in_company() -> None:
    """The sign of ModelOpt's table (H200, 2048 + 128 tokens, batch 1, 8, 64); FP8 wins throughout on Hopper."""
    board, requests = gpu("h200"), load(2048, 128)

    def rate(precision: Any, users: int) -> float:
        wanted = PlanSpec(precision=precision)
        taken = memory(shape(LLAMA_8B), board, wanted, requests)
        found = estimate(shape(LLAMA_8B), board, wanted, requests, taken, users)
        assert found is not None and found.concurrency == users
        return found.tokens_per_second

    assert rate("int4_awq", 1) > 1.2 * rate("bf16", 1)
    for users in (8, 64):
        assert rate("int4_awq", users) < rate("bf16", users) < rate("fp8", users)


@given(
    st.sampled_from([LLAMA_8B, QWEN3_06B, LLAMA_70B]),
    st.sampled_from(["l4", "a100-80g", "h100-sxm", "b200"]),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1024, 8192]),
)
def test_terms_add_up_and_capacity_is_what_is_left(
    config: dict[str, Any], board: str, tp_size: int, tokens: int
) -> None:
    spec, workload = PlanSpec(tp_size=tp_size, max_num_tokens=tokens), load(500, 300)
    found = memory(shape(config), gpu(board), spec, workload)
    assert found.total + found.free == pytest.approx(gpu(board).memory_bytes)
    assert found.total == pytest.approx(found.fixed + found.kv_capacity * found.kv_per_token)
    assert found.kv_capacity % spec.tokens_per_block == 0
    left = gpu(board).memory_bytes - found.fixed
    if left > 0:
        block = spec.tokens_per_block * found.kv_per_token
        assert 0 <= left * spec.free_gpu_memory_fraction - found.kv_capacity * found.kv_per_token < block
    assert sequences(found, spec, workload) * 800 <= max(0, found.kv_capacity)


def test_what_does_not_fit_comes_with_changes_that_do(tmp_path: Path) -> None:
    spec, workload, board = PlanSpec(), load(500, 300, concurrency=8), gpu("h100-sxm")
    assert not fits(memory(shape(LLAMA_70B), board, spec, workload), spec, workload)
    found = changes(shape(LLAMA_70B), board, spec, workload)
    assert len(found) == 3
    for change in found:
        changed = spec.model_copy(update=change.settings)
        assert fits(memory(shape(LLAMA_70B), board, changed, workload), changed, workload)
        # None of it is in vain.
        for name in change.settings if len(change.settings) > 1 else ():
            fewer = spec.model_copy(update={key: value for key, value in change.settings.items() if key != name})
            assert not fits(memory(shape(LLAMA_70B), board, fewer, workload), fewer, workload)


@pytest.mark.parametrize(
    ("config", "board", "requests", "limit"),
    [
        (LLAMA_70B, "h100-sxm", (500, 300), "one request of 800 tokens: the KV cache holds 0"),
        (
            SMOLLM2 | {"max_position_embeddings": 8192},
            "h100-sxm",
            (9000, 300),
            "context: the longest request has 9,300",
        ),
        (SMOLLM2, "h200", (100, 20), "max_batch_size=2048 requests"),
        (LLAMA_8B, "l4", (500, 300), "the KV cache, at "),
    ],
)
def test_what_gives_out_first(config: dict[str, Any], board: str, requests: tuple[int, int], limit: str) -> None:
    spec, workload = PlanSpec(), load(*requests)
    found = memory(shape(config), gpu(board), spec, workload)
    assert first_limit(found, spec, workload, shape(config).positions).startswith(limit)


def test_a_gpu_offers_what_it_computes_in() -> None:
    assert set(supported(gpu("a100-80g"))) == {"bf16", "int8", "int8_sq", "int4_awq"}
    assert "fp8" in supported(gpu("l4")) and "nvfp4" not in supported(gpu("h200"))
    assert "nvfp4" in supported(gpu("b200"))
    assert options(shape(LLAMA_8B), gpu("h200"), PlanSpec(precision="fp8"), load(500, 300))[0].precision == "fp8"


def config_for(tmp_path: Path, values: Any, *overrides: str) -> plan.Config:
    (tmp_path / "config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return app.to_schema(app.compose("plan", [f"config={tmp_path}", *overrides]), plan.Config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no JSON object"),
        (LLAMA_8B | {"model_type": "mamba"}, r"cannot be planned.*model_type.*mamba"),
        ({key: value for key, value in LLAMA_8B.items() if key != "hidden_size"}, r"lacks a size.*hidden_size"),
        (LLAMA_8B | {"num_hidden_layers": "32"}, r"lacks a size.*num_hidden_layers.*'32'"),
        (LLAMA_8B | {"num_key_value_heads": "two"}, r"lacks a size.*num_key_value_heads.*'two'"),
        (LLAMA_8B | {"num_key_value_heads": 7}, r"do not divide the query heads.*7 of 32"),
        (LLAMA_8B | {"model_type": "mistral", "sliding_window": "wide"}, r"window of no size.*sliding_window.*'wide'"),
    ],
)
def test_a_config_that_cannot_be_planned_names_its_key(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan.make(config_for(tmp_path, values))


def test_other_bad_input(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model config to plan from"):
        read_shape(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no model to plan for.*config=…"):
        _ = app.to_schema(app.compose("plan", []), plan.Config).path
    with pytest.raises(EngineError, match=r"no arithmetic for this precision.*fp8 on NVIDIA A100.*bf16"):
        plan.make(config_for(tmp_path, LLAMA_8B, "gpu=a100-80g", "plan.precision=fp8"))
    with pytest.raises(ConfigError, match="shorter than the mean"):
        config_for(tmp_path, LLAMA_8B, "workload.longest_input_tokens=10")


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recipes.plan", f"config={tmp_path}/config.json", f"paths.home={tmp_path}/home"]
    command += arguments
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_json_and_says_why_it_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    done = run(tmp_path, "plan.precision=fp8", "format=json")
    values = json.loads(done.stdout)
    assert done.returncode == 0 and values["fits"]
    assert values["kv_bytes_per_token"] == 65536 and values["recommended"]["precision"] == "fp8"
    assert values["estimate"]["tokens_per_second"] == values["precisions"]["fp8"]["estimate"]["tokens_per_second"]
    parts = ("weights", "activation", "logits", "lora", "other")
    assert values["total_bytes"] == pytest.approx(
        sum(values[f"{name}_bytes"] for name in parts) + 65536 * values["kv_token_capacity"], abs=8
    )
    shown = run(tmp_path).stdout
    assert "tokens of 128 KiB" in shown and "8,030,261,248 parameters" in shown
    assert "take     precision=fp8" in shown
    page = Path(next(line for line in shown.splitlines() if line.startswith("page ")).split()[-1])
    assert page.is_relative_to(tmp_path) and "<svg" in page.read_text() and "Memory on each GPU" in page.read_text()
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    done = run(tmp_path, "gpu=l4")
    assert done.returncode == 2
    assert "does not fit" in done.stderr and "GiB weights +" in done.stderr and "plan.tp_size=" in done.stderr
    assert "Traceback" not in done.stderr
