"""Starts a small Llama with a working induction circuit, so that copying has not to be discovered by chance."""

from __future__ import annotations

import math
from typing import Any

from throughline.contracts.errors import ConfigError

# Chosen on a 5M model by the accuracy of copying unseen codes before any training (0.45) and after 250 steps.
_STD = 0.02
_OFFSET_SCORE, _MATCH_SCORE, _COPY_GAIN = 8.0, 30.0, 12.0
_FAST, _SLOW = 0.03, 0.012


def check_shape(hidden_size: int, heads: int, key_value_heads: int, layers: int) -> None:
    """Checks that a model has room for the circuit.

    Raises:
        ConfigError: If it has not.
    """
    head_dim = hidden_size // heads
    if layers < 2 or heads // key_value_heads < 2 or 4 * head_dim > hidden_size:
        raise ConfigError(
            "model shape has no room for the induction circuit",
            where="pretrain.initialisation",
            seen=f"{layers} layers, {heads}/{key_value_heads} heads of {head_dim}, hidden {hidden_size}",
            fix="use 2 or more layers, 2 or more heads a key/value head and 4 or more heads, or initialisation=random",
        )


def induction_init(model: Any, seed: int) -> None:
    """Overwrites a freshly made `LlamaForCausalLM` in place.

    The circuit is that of Olsson et al., "In-context Learning and Induction Heads" (2022), over two tokens:
    in layer 0 two heads attend one and two positions back (by RoPE's fast frequencies alone) and write what
    they see into two subspaces; in layer 1 every head looks for a place whose two predecessors are the
    present token and the one before it (by RoPE's slow frequencies), and writes that place's token to the
    output. Token embeddings take the first half of the residual stream, dimension 0 is a constant. All other
    weights are random and small; training may change everything.

    Args:
        model: Model in float32 with tied embeddings.
        seed: Seed of the random parts.

    Raises:
        ConfigError: If the model is too small; see `check_shape`.
    """
    import torch

    config = model.config
    hidden, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    check_shape(hidden, heads, groups, config.num_hidden_layers)
    dim, half, repeat = hidden // heads, hidden // 2, heads // groups
    pairs = dim // 2
    frequencies = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(pairs) / pairs)
    generator = torch.Generator().manual_seed(seed)
    unit = math.sqrt(half) * _STD

    def random(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        tokens = random(embedding.shape[0], half - 1)
        embedding.zero_()
        embedding[:, 1:half] = tokens / tokens.norm(dim=1, keepdim=True) * unit
        embedding[:, 0] = unit
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(0.1)
            layer.self_attn.o_proj.weight.mul_(0.3)
        first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
        for attention in (first, second):
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                weight = getattr(attention, name).weight
                weight.copy_(random(*weight.shape) * 0.1 * _STD)

        # Layer 0: the constant dimension turned by RoPE tells distance and nothing else.
        norm = math.sqrt(hidden) / (unit * math.sqrt(2))
        fast = torch.arange(pairs)[frequencies > _FAST]
        gap = min(float(len(fast) - torch.cos(frequencies[fast] * distance).sum()) for distance in range(1, 8))
        alpha = math.sqrt(_OFFSET_SCORE * math.sqrt(dim) / gap) / (unit * norm)
        compress = torch.zeros(dim, hidden)
        compress[:, 1:half] = torch.linalg.qr(random(half - 1, dim))[0].T * math.sqrt((half - 1) / dim)
        for group in range(groups):
            first.k_proj.weight[group * dim + fast, 0] += alpha
        first.v_proj.weight[:dim] = compress
        for head in range(2):
            angle = -(head + 1) * frequencies[fast]
            first.q_proj.weight[head * dim + fast, 0] += alpha * torch.cos(angle)
            first.q_proj.weight[head * dim + pairs + fast, 0] += alpha * torch.sin(angle)
            start = half + head * dim
            first.o_proj.weight[start : start + dim, head * dim : (head + 1) * dim] += torch.eye(dim) / norm

        # Layer 1: the residual is now the token, the one before it and the one before that, each of norm `unit`.
        norm = math.sqrt(hidden) / (unit * 2)
        slow = torch.arange(pairs)[frequencies < _SLOW]
        slots = torch.cat([slow, slow + pairs])
        scale = math.sqrt(_MATCH_SCORE * math.sqrt(dim) / 2) / (unit * norm)
        before, before_that = slice(half, half + dim), slice(half + dim, half + 2 * dim)
        for group in range(groups):
            one, two = (random(len(slots), dim) / math.sqrt(len(slots)) for _ in range(2))
            key = torch.zeros(len(slots), hidden)
            key[:, before], key[:, before_that] = one, two
            query = one @ compress
            query[:, before] += two
            second.k_proj.weight[group * dim + slots] += scale * key
            low, high = 1 + group * dim, min(half, 1 + (group + 1) * dim)
            if low >= high:
                continue
            width = high - low
            second.v_proj.weight[group * dim : group * dim + width, low:high] += torch.eye(width)
            for head in range(group * repeat, (group + 1) * repeat):
                second.q_proj.weight[head * dim + slots] += scale * query
                copy = torch.eye(width) * _COPY_GAIN / repeat / norm
                second.o_proj.weight[low:high, head * dim : head * dim + width] += copy
