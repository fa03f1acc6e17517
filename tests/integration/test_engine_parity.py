"""A float32 engine says token for token what transformers says in float32, for every family that it builds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from throughline import engines
from throughline.contracts.engine import EngineSpec, SamplingParams

pytestmark = pytest.mark.integration

TOKENS = 64
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Wide enough that a random model has clear favourites and does not only repeat one token.
    "initializer_range": 0.2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-untied-rope3": ("Llama", {"tie_word_embeddings": False, "rope_parameters": LLAMA3_ROPE}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2-bias": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3-norms": ("Qwen3", {"tie_word_embeddings": False, "head_dim": 16}),
}
PROMPTS = ([5], [7, 300, 12, 2047, 9, 9, 9], list(range(3, 150)), [1, 1000, 2, 40])


def make_checkpoint(folder: Path, family: str, tokenizer_dir: Path, values: dict[str, Any]) -> Any:
    """Saves a random model in float32 and returns it; biases and norms are made unlike their defaults."""
    import torch
    import transformers

    torch.manual_seed(11)
    config = getattr(transformers, f"{family}Config")(**SIZES, **values)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith(".bias"):
                tensor.add_(0.3 * torch.randn_like(tensor))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_dir / name, folder / name)
    return model


def greedy(model: Any, prompt: list[int], length: int = TOKENS) -> list[int]:
    """The oracle: transformers' own greedy search, never ended by an end-of-sequence token."""
    import torch

    torch.set_num_threads(1)
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=length,
            eos_token_id=-1,
        )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


@pytest.mark.parametrize("case", FAMILIES)
def test_float32_engine_gives_the_same_greedy_tokens_as_transformers(
    case: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    family, values = FAMILIES[case]
    model = make_checkpoint(tmp_path / "checkpoint", family, tiny_tokenizer_dir, values)
    check_parity(tmp_path / "checkpoint", model, PROMPTS, tmp_path / "engine")


def test_a_real_model_gives_the_same_greedy_tokens_as_transformers(tmp_path: Path, smollm2_checkpoint: Path) -> None:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    tokenizer = Tokenizer.from_file(str(smollm2_checkpoint / "tokenizer.json"))
    texts = ("The capital of France is", "def add(a, b):\n    return")
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_checkpoint, dtype=torch.float32)
    model.eval()
    check_parity(smollm2_checkpoint, model, [tokenizer.encode(text).ids for text in texts], tmp_path / "engine", 16)


def check_parity(
    checkpoint: Path, model: Any, prompts: Sequence[list[int]], engine: Path, length: int = TOKENS
) -> None:
    # 64 tokens an iteration: the longest prompt is prefilled in chunks.
    spec = EngineSpec(precision="f32", max_seq_len=256, max_num_tokens=64, kv_cache_bytes=16 * 2**20, num_threads=1)
    engines.build(checkpoint, spec, engine)
    runtime = engines.load(engine)
    try:
        # All at once, so the prompts also share their iterations.
        for index, prompt in enumerate(prompts):
            runtime.submit(str(index), prompt, SamplingParams(max_tokens=length, ignore_eos=True))
        found: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        while runtime.has_work():
            for output in runtime.step():
                assert output.finish_reason != "error", output.error
                found[output.request_id] += output.token_ids
    finally:
        runtime.close()
    assert found == {str(index): greedy(model, prompt, length) for index, prompt in enumerate(prompts)}
    assert all(len(tokens) == length for tokens in found.values())
