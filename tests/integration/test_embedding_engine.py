"""Embedding engines give the vectors that transformers' hidden states give, pooled in float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from throughline import engines
from throughline.contracts.embedding import EmbeddingInfo, VectorReport
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import CheckpointError, EngineError, EngineLintError

pytestmark = pytest.mark.integration

PROMPTS = ([5], [7, 300, 12, 2047, 9, 9, 9], list(range(3, 150)), [1, 1000, 2, 40], [17] * 33)


def build(checkpoint: Path, out_dir: Path, embedding: dict[str, Any] | None = None, **values: object) -> EngineInfo:
    settings = {"max_seq_len": 256, "precision": "f32", "num_threads": 1, **values, "embedding": embedding or {}}
    return engines.build(checkpoint, EngineSpec.model_validate(settings), out_dir).info


def embed(engine: Path, prompts: Sequence[Sequence[int]], **overrides: object) -> Any:
    runtime = engines.load_embedding(engine, **overrides)
    try:
        return runtime.embed(prompts)
    finally:
        runtime.close()


def oracle(folder: Path, prompts: Sequence[Sequence[int]], pooling: str, *, normalize: bool = True) -> Any:
    """Each sequence alone, in float32."""
    import torch
    from transformers import AutoModel

    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.inference_mode():
        for prompt in prompts:
            states = model(torch.tensor([list(prompt)])).last_hidden_state[0]
            row = {"last": states[-1], "cls": states[0], "mean": states.mean(0)}[pooling]
            rows.append(torch.nn.functional.normalize(row, dim=0) if normalize else row)
    return torch.stack(rows).numpy()


def cosines(left: Any, right: Any) -> Any:
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def sentence_transformers(folder: Path, pooling: str, *, normalize: bool = True, dense: bool = False) -> None:
    """Writes the files that say how a checkpoint's vectors are made."""
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if normalize else [])]
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": "" if not at else f"{at}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {
        f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **modes}))


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    """A random Qwen3 as embedding checkpoints are: saved without a head, so that its tensors have the stack's names."""
    import torch
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(3)
    config = Qwen3Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=2048,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    folder = tmp_path_factory.mktemp("embedding") / "tiny-qwen3"
    Qwen3Model(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_tokenizer_dir / name, folder / name)
    sentence_transformers(folder, "lasttoken")
    return folder


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_a_float32_engine_pools_as_transformers_does(pooling: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    build(tiny_checkpoint, tmp_path / "engine", {"pooling": pooling})
    found = embed(tmp_path / "engine", PROMPTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(tiny_checkpoint, PROMPTS, pooling), atol=2e-5)


def test_the_checkpoint_says_how_and_its_tensors_may_have_the_stack_s_names(qwen3: Path, tmp_path: Path) -> None:
    info = build(qwen3, tmp_path / "engine")
    assert info.embedding == EmbeddingInfo(pooling="last", normalize=True, dimensions=64)
    assert info == EngineInfo.read(tmp_path / "engine")
    np.testing.assert_allclose(embed(tmp_path / "engine", PROMPTS), oracle(qwen3, PROMPTS, "last"), atol=2e-5)
    assert "64 dimensions, the last token's state, length 1" in (tmp_path / "engine" / "ENGINE_CARD.md").read_text()


def test_vectors_keep_their_length_where_nothing_scales_them(qwen3: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(qwen3, tmp_path / "plain", ignore=shutil.ignore_patterns("modules.json", "1_*")))
    sentence_transformers(checkpoint, "mean_tokens", normalize=False)
    assert build(checkpoint, tmp_path / "engine").embedding == EmbeddingInfo(
        pooling="mean", normalize=False, dimensions=64
    )
    expected = oracle(checkpoint, PROMPTS, "mean", normalize=False)
    np.testing.assert_allclose(embed(tmp_path / "engine", PROMPTS), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("int8", 0.99)])
def test_other_precisions_point_the_same_way_and_are_verified(
    precision: str, least: float, qwen3: Path, tmp_path: Path
) -> None:
    build(qwen3, tmp_path / "engine", precision=precision)
    assert cosines(embed(tmp_path / "engine", PROMPTS), oracle(qwen3, PROMPTS, "last")).min() >= least
    report = engines.verify(tmp_path / "engine")
    assert isinstance(report, VectorReport)
    assert report.ok and report.same_machine_kind and len(report.results) == 4


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_company_changes_no_vector(pooling: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """One by one, all together, and in batches of two: padding and neighbours are unseen."""
    build(tiny_checkpoint, tmp_path / "engine", {"pooling": pooling})
    alone = np.concatenate([embed(tmp_path / "engine", [prompt]) for prompt in PROMPTS[:3]])
    together = embed(tmp_path / "engine", PROMPTS[:3])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    twos = embed(tmp_path / "engine", PROMPTS, max_batch_size=2)
    np.testing.assert_allclose(twos, embed(tmp_path / "engine", PROMPTS), atol=1e-5)


def test_damaged_weights_fail_the_verification(qwen3: Path, tmp_path: Path) -> None:
    build(qwen3, tmp_path / "engine")
    path = tmp_path / "engine" / "openvino_model.bin"
    weights = bytearray(path.read_bytes())
    weights[-len(weights) // 4 :] = bytes(len(weights) // 4 + (len(weights) % 4 > 0))
    path.write_bytes(weights)
    assert not engines.verify(tmp_path / "engine").ok


def test_what_an_engine_refuses(qwen3: Path, tiny_engine: Path, tmp_path: Path) -> None:
    build(qwen3, tmp_path / "engine")
    for prompts, words in (([[]], "empty or too long"), ([[5] * 257], "257 tokens"), ([[2048]], "not in the vocab")):
        with pytest.raises(EngineError, match=words):
            embed(tmp_path / "engine", prompts)
    with pytest.raises(EngineError, match="makes vectors, no tokens"):
        engines.load(tmp_path / "engine")
    with pytest.raises(EngineError, match="makes tokens, no vectors"):
        engines.load_embedding(tiny_engine)


@pytest.mark.parametrize(
    ("embedding", "values", "words"),
    [
        ({"pooling": "mean"}, {}, r"the checkpoint says otherwise.*mean, and last"),
        ({"normalize": False}, {}, "the checkpoint says otherwise"),
        ({}, {"enable_block_reuse": False}, "no tokens and have no KV cache"),
        ({}, {"max_num_tokens": 128}, "must fit one iteration"),
        ({}, {"precision": "int4", "calibration": "awq"}, r"engine\.calibration"),
    ],
)
def test_settings_that_contradict_are_refused(
    embedding: dict[str, Any], values: dict[str, Any], words: str, qwen3: Path, tmp_path: Path
) -> None:
    with pytest.raises((EngineError, EngineLintError), match=words):
        build(qwen3, tmp_path / "engine", embedding, **values)
    assert not (tmp_path / "engine").exists()


def test_checkpoints_that_are_refused(qwen3: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not say how its vectors are made"):
        build(tiny_checkpoint, tmp_path / "engine")
    dense = Path(shutil.copytree(qwen3, tmp_path / "dense", ignore=shutil.ignore_patterns("modules.json", "1_*")))
    sentence_transformers(dense, "lasttoken", dense=True)
    with pytest.raises(CheckpointError, match=r"a step that engines do not have.*Dense"):
        build(dense, tmp_path / "engine")
    pooled = Path(shutil.copytree(qwen3, tmp_path / "max", ignore=shutil.ignore_patterns("modules.json", "1_*")))
    sentence_transformers(pooled, "max_tokens")
    with pytest.raises(CheckpointError, match=r"pooling is not supported.*pooling_mode_max_tokens"):
        build(pooled, tmp_path / "engine")
    both = Path(shutil.copytree(qwen3, tmp_path / "both"))
    values = json.loads((both / "config.json").read_text())
    (both / "config.json").write_text(json.dumps({**values, "is_causal": False}))
    with pytest.raises(EngineError, match="attention to later tokens"):
        build(both, tmp_path / "engine")
    ended = Path(shutil.copytree(qwen3, tmp_path / "ended"))
    values = json.loads((ended / "tokenizer_config.json").read_text())
    (ended / "tokenizer_config.json").write_text(json.dumps({**values, "add_eos_token": True}))
    with pytest.raises(CheckpointError, match=r"does not end a text as tokenizer_config\.json asks"):
        build(ended, tmp_path / "engine")


def test_fewer_dimensions_are_what_the_checkpoint_allows(qwen3: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(qwen3, tmp_path / "nested"))
    values = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**values, "matryoshka_dimensions": [16, 32]}))
    embedding = build(checkpoint, tmp_path / "engine").embedding
    assert embedding is not None
    assert [size for size in (1, 16, 24, 32, 64, 65) if embedding.allows(size)] == [16, 32, 64]
    anything = EmbeddingInfo(pooling="last", normalize=True, dimensions=64, is_matryoshka=True)
    assert [size for size in (0, 1, 16, 64, 65) if anything.allows(size)] == [1, 16, 64]
