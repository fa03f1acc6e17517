"""The lab's byte-level BPE tokenizer, in which every character of a code is a token of its own.

A tiny model can copy a code it has never seen only if the code is always cut the same way, whatever stands
before it; the split pattern below therefore isolates digits, runs of capitals and letters next to digits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.contracts.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
SPECIAL_TOKENS: tuple[str, ...] = (
    PAD,
    BOS,
    END,
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<tool_call>",
    "</tool_call>",
)
VOCAB_SIZE = 2048
MODEL_MAX_LENGTH = 1024
CHAT_TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")

_SEP = r"[-_.:#/]"
# Look-behinds of fixed lengths only: Oniguruma (tokenizers) and PCRE2 (openvino_tokenizers) both accept them.
_AFTER_DIGIT = "|".join(
    [rf"(?<=\p{{N}}\p{{L}}{{{n}}})" for n in range(6)] + [rf"(?<=\p{{N}}{_SEP}\p{{L}}{{{n}}})" for n in range(6)]
)
_CODE_LETTER = "|".join(
    (
        r"\p{Lu}(?=[\p{Lu}\p{N}])",
        r"(?<=[\p{Lu}\p{N}])\p{Lu}",
        rf"\p{{L}}(?=\p{{L}}{{0,7}}{_SEP}?\p{{N}})",
        rf"(?:{_AFTER_DIGIT})\p{{L}}",
    )
)
SPLIT_PATTERN = "|".join(
    (
        r"\p{N}",
        _CODE_LETTER,
        rf" ?(?:(?!{_CODE_LETTER})\p{{L}})+",
        r'"[:,] "|\{"|"\}',  # JSON's joints: always the same neighbours, so they may be one token
        r" ?[^\s\p{L}\p{N}]",
        r" +(?= )|\n+|\s",
    )
)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Trains the tokenizer; the same texts in the same order give the same vocabulary.

    Markers such as `<|user|>` in the texts are taken out, since they are tokens already.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without_markers(text) for text in texts), trainer)
    return tokenizer


def build_tokenizer(*, seed: int = 11, n_chars: int = 6_000_000) -> Tokenizer:
    """The lab's own tokenizer, trained on plain text of the seed; the defaults give the shipped one."""
    from throughline.lab.plaintext import documents

    return train_tokenizer(documents(seed, n_chars))


def _without_markers(text: str) -> str:
    for token in SPECIAL_TOKENS:
        if token in text:
            text = text.replace(token, "\n")
    return text


def save_tokenizer(tokenizer: Tokenizer, directory: Path | str) -> Path:
    """Writes tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja.

    `transformers.AutoTokenizer` loads the folder; bos, eos and pad are set; encoding adds nothing unasked.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": list(SPECIAL_TOKENS[3:]),
        "model_max_length": MODEL_MAX_LENGTH,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "added_tokens_decoder": {
            str(i): {
                "content": t,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for i, t in enumerate(SPECIAL_TOKENS)
        },
    }
    names = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "additional_special_tokens")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE_PATH.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


def load_tokenizer(directory: Path | str) -> Tokenizer:
    """Reads a saved tokenizer without transformers; raises `CheckpointError` if the folder has none."""
    from tokenizers import Tokenizer

    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            "the folder holds no tokenizer",
            where=str(path),
            seen="no such file",
            fix="run `python -m recipes.pretrain` or give another folder",
        )
    return Tokenizer.from_file(str(path))
