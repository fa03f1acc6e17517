"""Converted GGUF files against the model they were written from and against transformers' own loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.conversion.gguf_files import Contents, contents
from throughline.contracts.errors import CheckpointError
from throughline.conversion import Conversion, TemplateSpec, convert_gguf, own_file

torch = pytest.importorskip("torch")
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def convert(made: Contents, folder: Path, **options: Any) -> tuple[Path, Conversion]:
    path = made.write(folder / "model.gguf")
    out = folder / "checkpoint"
    out.mkdir()
    return out, convert_gguf(own_file(path), out, TemplateSpec("chatml"), **options)


def state(model: Any) -> dict[str, Any]:
    return {name: tensor.float() for name, tensor in model.state_dict().items()}


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize(
    ("architecture", "tied", "config"),
    [("llama", True, {}), ("llama", False, {"attention_bias": True}), ("qwen2", True, {}), ("qwen3", False, {})],
)
def test_weights_are_the_models_own_and_what_transformers_reads(
    architecture: str, tied: bool, config: dict[str, Any], tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    made, model = contents(architecture, tiny_tokenizer_dir, tied=tied, **config)
    if config:
        # llama.cpp's o_proj of Llama may have a bias; transformers' loading of GGUF does not know of any.
        assert "blk.0.attn_output.bias" in made.tensors
    folder, report = convert(made, tmp_path, dtype="float32")
    found = load(folder)
    assert_same(state(found), state(model))
    if not config:
        assert_same(state(found), state(load(tmp_path, gguf_file="model.gguf")))
    ids = torch.tensor([[1, 5, 900, 17, 2, 44]])
    with torch.inference_mode():
        assert torch.equal(found(ids).logits, model(ids).logits)
    assert (report.architecture, report.largest_rounding) == (architecture, 0.0)
    assert report.parameters == sum(tensor.numel() for tensor in model.parameters())


def test_quantised_tensors_are_what_transformers_dequantises(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    made, _ = contents("llama", tiny_tokenizer_dir)
    made.quantised = True
    folder, report = convert(made, tmp_path)
    expected = state(load(tmp_path, gguf_file="model.gguf"))
    assert_same(state(load(folder)), {name: tensor.bfloat16().float() for name, tensor in expected.items()})
    assert report.grid_bits == 8
    assert 0 < report.largest_rounding <= 2**-8
    assert "8-bit grid" in (folder / "README.md").read_text()


def test_the_config_says_what_the_file_says(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    made, _ = contents("llama", tiny_tokenizer_dir)
    made.metadata |= {"general.name": "Tiny", "general.license": "mit"}
    folder, report = convert(made, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    # Stored in float32, where it reads 9.999999747378752e-06.
    assert config["rms_norm_eps"] == 1e-5
    assert config["rope_theta"] == 10000.0
    assert "rope_scaling" not in config
    assert (config["torch_dtype"], config["vocab_size"], config["head_dim"]) == ("bfloat16", 2048, 16)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert report.licence == "mit"
    card = (folder / "README.md").read_text()
    assert "license: mit" in card
    assert own_file(tmp_path / "model.gguf").sha256 in card


def test_mistral_is_told_by_its_window(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    made, _ = contents("llama", tiny_tokenizer_dir)
    made.metadata["llama.attention.sliding_window"] = 64
    folder, report = convert(made, tmp_path)
    assert report.architecture == "mistral"
    assert json.loads((folder / "config.json").read_text())["sliding_window"] == 64
    assert type(load(folder)).__name__ == "MistralForCausalLM"


def test_llama3_scaling_comes_back_from_the_factors(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    made, _ = contents("llama", tiny_tokenizer_dir)
    scaled = LlamaConfig(head_dim=16, rope_parameters={"rope_theta": 10000.0, **LLAMA3_ROPE})
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, torch.device("cpu"))
    plain = 1.0 / 10000.0 ** (torch.arange(0, 16, 2).double() / 16)
    made.tensors["rope_freqs.weight"] = (plain / frequencies.double()).float().numpy()
    folder, _ = convert(made, tmp_path)
    assert json.loads((folder / "config.json").read_text())["rope_scaling"] == LLAMA3_ROPE
    made.tensors["rope_freqs.weight"] = np.linspace(1, 8, 8, dtype=np.float32)
    with pytest.raises(CheckpointError, match="RoPE factors are not Llama 3's"):
        convert_gguf(own_file(made.write(tmp_path / "other.gguf")), folder, TemplateSpec("chatml"))


def test_large_models_are_cut_into_shards(
    tmp_path: Path, tiny_tokenizer_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("throughline.conversion.weights._SHARD_BYTES", 200_000)
    made, model = contents("qwen3", tiny_tokenizer_dir)
    folder, _ = convert(made, tmp_path, dtype="float32")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    assert_same(state(load(folder)), state(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "gpt2"}, r"architecture is not supported.*gpt2.*choose a dense model"),
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, r"RoPE scaling is not supported.*yarn"),
        ({"tokenizer.ggml.model": "t5"}, r"kind of tokenizer is not supported.*t5"),
        ({"tokenizer.ggml.pre": "brand-new"}, r"pre-tokenizer is unknown.*brand-new.*model=hf"),
        ({"tokenizer.ggml.pre": None}, "pre-tokenizer is unknown.*seen: nothing"),
        ({"llama.block_count": None}, r"no llama\.block_count of type int"),
        ({"+blk.0.ffn_gate_inp.weight": None}, r"1 tensor\(s\) that a dense decoder has not.*ffn_gate_inp"),
        ({"-blk.1.attn_v.weight": None}, r"lacks 1 tensor\(s\).*v_proj.*gguf-split"),
    ],
)
def test_what_cannot_be_converted_is_named(
    change: dict[str, Any], message: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    made, _ = contents("llama", tiny_tokenizer_dir)
    for key, value in change.items():
        if key == "general.architecture":
            made.architecture = value
        elif key.startswith("+"):
            made.tensors[key[1:]] = np.zeros((4, 64), dtype=np.float32)
        elif key.startswith("-"):
            del made.tensors[key[1:]]
        elif value is None:
            del made.metadata[key]
        else:
            made.metadata[key] = value
    with pytest.raises(CheckpointError, match=message):
        convert(made, tmp_path)


def test_files_that_are_no_gguf(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    with pytest.raises(CheckpointError, match=r"base checkpoint is missing.*nowhere"):
        own_file(tmp_path / "nowhere.gguf")
    (tmp_path / "text.gguf").write_text("not a model")
    with pytest.raises(CheckpointError, match=r"not a GGUF file.*first bytes b'not '"):
        convert_gguf(own_file(tmp_path / "text.gguf"), tmp_path, TemplateSpec("chatml"))
    made, _ = contents("llama", tiny_tokenizer_dir)
    whole = made.write(tmp_path / "whole.gguf").read_bytes()
    for name, size in (("header", 20), ("metadata", 5000), ("tensors", len(whole) - 1000)):
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="GGUF file cannot be read"):
            convert_gguf(own_file(path), tmp_path, TemplateSpec("chatml"))
