"""The model card of the lab's base checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from throughline.contracts.training import PretrainSpec


def write_model_card(folder: Path, spec: PretrainSpec, loss: float) -> None:
    """Writes `README.md` beside the weights.

    Args:
        folder: Checkpoint folder with `config.json` and `model.safetensors`.
        spec: How it was trained.
        loss: Training loss of the last step, in nats a token.
    """
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as weights:
        parameters = sum(_size(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    config = json.loads((folder / "config.json").read_text())
    tokens = spec.max_steps * spec.global_batch_size * spec.seq_len
    (folder / "README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
---
# Throughline lab base

A Llama of {parameters:,} parameters ({spec.num_hidden_layers} layers, hidden {spec.hidden_size}, intermediate
{spec.intermediate_size}, {spec.num_attention_heads} heads, {spec.num_key_value_heads} key/value heads, tied
embeddings, vocabulary {config["vocab_size"]}, context {spec.max_position_embeddings}), weights in bfloat16.

It exists so that every stage of Throughline runs for real on a laptop. It knows the words, codes and logs of a
made-up GPU platform and copies what stands in its context. It does not know the lab's tasks: that is what
fine-tuning teaches. It is of no use for anything else.

## Training data

{tokens / 1e6:.1f} million tokens of text that `throughline.lab.plaintext` generates (seed {spec.documents_seed}):
prose, logs, dialogues, tables, code, copying and look-up patterns. No record of the lab's tasks with its answer,
and none of the names, codes and documents of the held-out sets.

## Training

`python -m recipes.pretrain` (NeMo AutoModel): {spec.max_steps} steps of {spec.global_batch_size} sequences of
{spec.seq_len} tokens, AdamW, peak learning rate {spec.lr}, cosine decay, seed {spec.seed},
torch_dtype {spec.torch_dtype}. Loss of the last step:
{loss:.3f} nats a token.

## Tokenizer

Byte-level BPE of its own; digits, capitals in codes and letters next to digits are tokens of their own, so that an
unseen code is always cut the same way. The chat template has tool calls and generation markers.
""",
        encoding="utf-8",
    )


def _size(shape: list[int]) -> int:
    size = 1
    for dimension in shape:
        size *= dimension
    return size
