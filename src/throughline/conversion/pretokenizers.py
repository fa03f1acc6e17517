"""How text is cut before the merges, by the name that GGUF gives it (`tokenizer.ggml.pre`).

The patterns are those of the original checkpoints' `tokenizer.json`; llama.cpp lists which name means which
(`src/llama-vocab.cpp`). A wrong one gives other token ids without any error, so an unknown name is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import normalizers, pre_tokenizers

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-2's own pattern is built into ByteLevel; these cut every digit off first.
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais")
_SPLITS = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez", "kormo"), _QWEN2),
    "tekken": _TEKKEN,
}
# Their vocabularies hold words that no sequence of merges builds: a whole word is looked up first.
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
NAMES = (*_DIGITS, *_GPT2, *_SPLITS)


def pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    """Returns the pre-tokenizer of one of `NAMES`, byte level included."""
    from tokenizers import Regex, pre_tokenizers

    if name in _SPLITS:
        cut = pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated", invert=False)
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
        return pre_tokenizers.Sequence([cut, last])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    if name in _DIGITS:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    return byte_level


def normalizer(name: str) -> normalizers.Normalizer | None:
    """Returns the normalizer that belongs to a pre-tokenizer: Qwen composes characters (NFC)."""
    from tokenizers import normalizers

    return normalizers.NFC() if _SPLITS.get(name) is _QWEN2 else None


def looks_up_whole_words(name: str) -> bool:
    """Whether a word that is in the vocabulary is taken as it is, without merges."""
    return name in _WHOLE_WORDS
