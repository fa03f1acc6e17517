"""A tiny byte-level tokenizer in ChatML, made in a moment and the same at every run; stands in for a real model's."""

from __future__ import annotations

from pathlib import Path
from random import Random

from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.conversion.chatml import TURN_END, TURN_START, chatml
from throughline.conversion.tokenizer import Vocabulary, write_tokenizer

VOCAB_SIZE = 2048
DEFAULT_SYSTEM = "You are a helpful assistant."
SPECIAL = ("<|endoftext|>", TURN_START, TURN_END)
TOOL_TAGS = ("<tool_call>", "</tool_call>")


def save_tiny_tokenizer(folder: Path, *, tool_tags: bool = False) -> Path:
    """Writes tokenizer.json and its companions, with chat template; returns the folder.

    Args:
        folder: Made if it is not there.
        tool_tags: Whether `TOOL_TAGS` are tokens (ids 3 and 4), as in Qwen, or plain text, as in SmolLM2.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, trainers

    from throughline.conversion.pretokenizers import pre_tokenizer

    whole = SPECIAL + TOOL_TAGS if tool_tags else SPECIAL
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer("smollm")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, normalized=False, special=token in SPECIAL) for token in whole],
        initial_alphabet=_bytes(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    vocabulary = Vocabulary(
        tokens=tuple(str(tokenizer.id_to_token(number)) for number in range(VOCAB_SIZE)),
        special=(0, 1, 2),
        added=(3, 4) if tool_tags else (),
        roles={"bos_token": TURN_START, "eos_token": TURN_END, "pad_token": TURN_END, "unk_token": SPECIAL[0]},
        add_bos=False,
        pre="smollm",
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, vocabulary, folder, context_length=512)
    (folder / "chat_template.jinja").write_text(chatml(DEFAULT_SYSTEM), encoding="utf-8")
    return folder


def _bytes() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def _texts() -> list[str]:
    """Made-up words, enough of them to fill the vocabulary, between words that chats and JSON need."""
    rng = Random(7)
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in ("", "n", "r", "s")]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(2500)]
    known = 'system user assistant tool type object string\n{"name": "find", "arguments": {"id": "x", "count": true}}'
    return [f"{known} {' '.join(words[at : at + 20])}" for at in range(0, len(words), 5)]


def write_engine_info(folder: Path, *, max_seq_len: int, embedding: EmbeddingInfo | None = None) -> None:
    """Writes the `engine.json` that the gateway reads beside a tiny tokenizer; there is no engine."""
    EngineInfo(
        name="lab",
        spec=EngineSpec(precision="f32", max_seq_len=max_seq_len),
        architecture="llama",
        precision="f32",
        vocab_size=VOCAB_SIZE,
        eos_token_ids=(2,),
        control_token_ids=(0, 1, 2),
        max_position_embeddings=512,
        parameters=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=1,
        hidden_size=1,
        checkpoint_digest="0123456789abcdef",
        weight_bytes=1,
        versions={},
        embedding=embedding,
    ).write(folder)
