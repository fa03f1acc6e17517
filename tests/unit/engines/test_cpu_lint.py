"""What the CPU back end cannot do is refused by the field's name; what it can is planned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from throughline.contracts.engine import EngineInfo, EngineSpec, SamplingParams
from throughline.contracts.errors import CheckpointError, EngineError, EngineLintError
from throughline.engines.cpu.lint import (
    ComputePlan,
    check_spec,
    kv_block_bytes,
    kv_blocks,
    plan_compute,
    with_overrides,
)
from throughline.engines.cpu.model_config import eos_token_ids, read_decoder_config
from throughline.engines.cpu.pipeline import weight_pass_bytes
from throughline.engines.cpu.quantize import check_group_size
from throughline.engines.cpu.requests import check_length, check_params, check_prompt

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
INFO = EngineInfo(
    name="x",
    spec=EngineSpec(precision="f32", max_seq_len=256),
    architecture="llama",
    precision="f32",
    vocab_size=100,
    eos_token_ids=(2,),
    control_token_ids=(0, 1, 2),
    max_position_embeddings=512,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    hidden_size=64,
    parameters=1,
    checkpoint_digest="",
    weight_bytes=0,
    versions={},
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("precision", "nvfp4"),
        ("precision", "int4_awq"),
        ("precision", "int8_sq"),
        ("kv_cache_dtype", "fp8"),
        ("max_beam_width", 2),
        ("tokens_per_block", 64),
    ],
)
def test_what_is_not_there_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(EngineError, match="CPU back end does not have") as caught:
        check_spec(EngineSpec.model_validate({field: value}))
    assert caught.value.where == f"engine.{field}"
    assert caught.value.fix


def test_a_prompt_must_fit_an_iteration_unless_it_may_be_cut() -> None:
    spec = EngineSpec(enable_chunked_context=False, max_num_tokens=128, max_seq_len=256)
    with pytest.raises(EngineLintError, match="enable_chunked_context"):
        check_spec(spec)
    check_spec(spec.model_copy(update={"max_num_tokens": 256}))


@pytest.mark.parametrize(
    ("values", "has_bf16", "expected"),
    [
        ({"precision": "f32"}, True, ("f32", "f32")),
        ({"precision": "bf16"}, True, ("bf16", "bf16")),
        ({"precision": "int8"}, False, ("f32", "f16")),
        ({"precision": "int8", "kv_cache_dtype": "u8"}, True, ("bf16", "u8")),
        ({"precision": "bf16", "dtype": "f32"}, True, ("f32", "f16")),
    ],
)
def test_auto_types_follow_the_processor(values: dict[str, Any], has_bf16: bool, expected: tuple[str, str]) -> None:
    assert plan_compute(EngineSpec(**values), has_bf16=has_bf16, has_f16=False) == ComputePlan(*expected)


@pytest.mark.parametrize(
    ("precision", "dtype", "times"),
    [("bf16", "f32", 2.0), ("bf16", "bf16", 1.0), ("f32", "bf16", 0.5), ("f32", "f32", 1.0), ("int8", "f32", 1.0)],
)
def test_floating_point_weights_are_read_in_the_type_of_the_arithmetic(
    precision: Any, dtype: str, times: float
) -> None:
    info = INFO.model_copy(update={"weight_bytes": 1000})
    assert weight_pass_bytes(info, EngineSpec(precision=precision), dtype) == 1000 * times


def test_types_that_the_processor_lacks_or_that_disagree_are_refused() -> None:
    with pytest.raises(EngineError, match="bf16 arithmetic on this processor"):
        plan_compute(EngineSpec(dtype="bf16"), has_bf16=False, has_f16=False)
    with pytest.raises(EngineLintError, match="bf16 KV cache needs bf16 arithmetic"):
        plan_compute(EngineSpec(dtype="f32", kv_cache_dtype="bf16"), has_bf16=True, has_f16=True)


def test_kv_blocks_are_counted_from_the_bytes_of_keys_and_values() -> None:
    # 2 (keys, values) · 2 layers · 2 heads · 32 tokens · 16 numbers of 4 bytes.
    assert kv_block_bytes(INFO, "f32") == 2 * 2 * 2 * 32 * 16 * 4
    assert kv_block_bytes(INFO, "f16") == kv_block_bytes(INFO, "f32") // 2
    assert kv_blocks(INFO, EngineSpec(kv_cache_bytes=2**20, max_seq_len=256), "f32") == 64
    with pytest.raises(EngineError, match="does not hold one sequence"):
        kv_blocks(INFO, EngineSpec(kv_cache_bytes=2**20, max_seq_len=2048), "f32")


def test_overrides_are_checked_as_the_spec_is() -> None:
    assert with_overrides(INFO, {"max_batch_size": 3}).max_batch_size == 3
    cases: tuple[tuple[dict[str, object], str], ...] = (
        ({"precision": "int8"}, "fixed when the engine is built"),
        ({"max_seq_lenn": 5}, "did you mean 'max_seq_len'"),
        ({"max_seq_len": 257}, "beyond what the engine was built for"),
    )
    for overrides, words in cases:
        with pytest.raises(EngineError, match=words):
            with_overrides(INFO, overrides)


def test_int4_groups_must_tile_every_layer() -> None:
    config = read_decoder_config(CONFIG, 128)
    check_group_size(32, config)
    with pytest.raises(EngineError, match=r"intermediate_size=96.*use 32 or 16"):
        check_group_size(64, config)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mixtral"}, "model family is not supported"),
        ({"sliding_window": 64, "model_type": "mistral"}, "sliding-window attention"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer type is not supported.*linear_attention"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rotary scaling is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"max_position_embeddings": 64}, "longer than the model's context"),
    ],
)
def test_unknown_architectures_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineError, match=words):
        read_decoder_config({**CONFIG, **values}, 128)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden_size": None}, "lacks a size.*hidden_size.*None"),
        ({"num_key_value_heads": "two"}, "lacks a size.*num_key_value_heads.*'two'"),
        ({"num_key_value_heads": 3}, "do not divide the query heads.*3 of 4"),
        ({"rope_scaling": {"type": "linear"}}, "makes no sense.*'factor'"),
        ({"model_type": "mistral", "sliding_window": "wide"}, "makes no sense.*'wide'"),
    ],
)
def test_a_config_that_makes_no_sense_is_damaged(values: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_decoder_config({**CONFIG, **values}, 128)


def test_a_window_that_makes_no_difference_is_accepted() -> None:
    assert read_decoder_config({**CONFIG, "model_type": "mistral", "sliding_window": 128}, 128).head_dim == 16
    off = {**CONFIG, "model_type": "qwen2", "sliding_window": 8, "use_sliding_window": False}
    assert read_decoder_config(off, 128).architecture == "qwen2"


@pytest.mark.parametrize("kind", ["default", "linear", "llama3"])
def test_rope_tables_are_those_of_transformers(kind: str) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {"rope_type": kind, "rope_theta": 5000.0, "factor": 4.0}
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
    values = {**CONFIG, "rope_parameters": rope}
    expected = LlamaRotaryEmbedding(LlamaConfig(**values)).inv_freq.numpy()
    np.testing.assert_allclose(read_decoder_config(values, 128).inverse_frequencies, expected, rtol=1e-6)


def test_end_ids_come_from_the_generation_config_first() -> None:
    assert eos_token_ids({"eos_token_id": 2}, {"eos_token_id": [7, 8]}) == (7, 8)
    assert eos_token_ids({"eos_token_id": 0}, {}) == (0,)
    with pytest.raises(EngineError, match="names no end-of-sequence token"):
        eos_token_ids({}, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("min_tokens", 17),
        ("min_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 2.1),
        ("frequency_penalty", math.nan),
        ("seed", 2**64),
    ],
)
def test_sampling_parameters_out_of_range_are_named(field: str, value: float) -> None:
    check_params(SamplingParams())
    with pytest.raises(EngineError, match="out of range") as caught:
        check_params(SamplingParams(**{field: value}))  # type: ignore[arg-type]
    assert caught.value.where == field


def test_prompts_are_integers_of_the_vocabulary() -> None:
    assert check_prompt([0, 99], INFO).tolist() == [[0, 99]]
    for prompt, words in (([], "no list of token ids"), ([100], "outside"), ([-1], "outside"), ([0.5], "no list")):
        with pytest.raises(EngineError, match=words):
            check_prompt(prompt, INFO)  # type: ignore[arg-type]


def test_prompt_and_output_share_the_context() -> None:
    check_length(200, 56, 256)
    with pytest.raises(EngineError, match="ask for at most 56 tokens"):
        check_length(200, 57, 256)
    with pytest.raises(EngineError, match="shorten the prompt below 256"):
        check_length(256, 1, 256)
