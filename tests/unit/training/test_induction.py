"""The induction circuit copies what it has never seen, before any training."""

from __future__ import annotations

from typing import Any

import pytest

from throughline.contracts.errors import ConfigError
from throughline.training.induction import check_shape, induction_init


def model(heads: int = 4) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=256,
            intermediate_size=384,
            num_hidden_layers=3,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            vocab_size=512,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        )
    ).float()


def copy_accuracy(net: Any) -> float:
    import torch

    generator = torch.Generator().manual_seed(1)
    text = torch.stack([torch.randperm(500, generator=generator)[:40] for _ in range(16)])
    tokens = torch.cat([text, text], dim=1)
    with torch.inference_mode():
        guess = net(tokens).logits[:, 42:79].argmax(-1)
    return float((guess == tokens[:, 43:80]).float().mean())


def test_copies_unseen_sequences_where_random_weights_do_not() -> None:
    net = model()
    assert copy_accuracy(net) < 0.02
    induction_init(net, seed=0)
    assert copy_accuracy(net) > 0.3


def test_the_same_seed_gives_the_same_weights() -> None:
    import torch

    one, two = model(), model()
    induction_init(one, seed=3)
    induction_init(two, seed=3)
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("hidden", "heads", "groups", "layers"), [(256, 4, 4, 6), (256, 2, 1, 6), (256, 4, 2, 1)])
def test_a_shape_without_room_is_refused(hidden: int, heads: int, groups: int, layers: int) -> None:
    with pytest.raises(ConfigError, match="no room for the induction circuit"):
        check_shape(hidden, heads, groups, layers)
