"""`tokenizer.json` and the files beside it from the vocabulary in a GGUF file's metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.contracts.errors import CheckpointError
from throughline.conversion.gguf_file import GgufFile
from throughline.conversion.pretokenizers import NAMES, looks_up_whole_words, normalizer, pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# `tokenizer.ggml.token_type`, as ggml's `llama_token_type` numbers them.
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a GGUF file.

    Attributes:
        tokens: Text of each id; None where the id is padding that stands for nothing.
        special: Ids that steer the model and never stand for text.
        added: Ids found whole in text before anything else, but text all the same.
        roles: Text by role: `bos_token`, `eos_token`, `unk_token`, `pad_token`.
        add_bos: Whether a text begins with the bos token.
        pre: Name of the pre-tokenizer; empty for SentencePiece.
    """

    tokens: tuple[str | None, ...]
    special: tuple[int, ...]
    added: tuple[int, ...]
    roles: dict[str, str]
    add_bos: bool
    pre: str

    def id_of(self, text: str) -> int | None:
        """Returns the id of a special token, or None."""
        return next((number for number in self.special if self.tokens[number] == text), None)


def read_vocabulary(source: GgufFile) -> Vocabulary:
    """Reads the vocabulary.

    Raises:
        CheckpointError: If the kind of tokenizer or its pre-tokenizer is unknown.
    """
    kind = source.require("tokenizer.ggml.model", str)
    if kind not in {"gpt2", "llama"}:
        raise CheckpointError(
            "kind of tokenizer is not supported",
            where=f"{source.path}:tokenizer.ggml.model",
            seen=kind,
            fix="choose a model with a byte-level (gpt2) or SentencePiece (llama) BPE tokenizer",
        )
    tokens = source.require("tokenizer.ggml.tokens", list)
    types = source.find("tokenizer.ggml.token_type", list, [1] * len(tokens))
    roles = {role: source.metadata.get(f"tokenizer.ggml.{key}") for role, key in _ROLES.items()}
    return Vocabulary(
        tokens=tuple(None if kind_ == _UNUSED else token for token, kind_ in zip(tokens, types, strict=True)),
        special=tuple(number for number, kind_ in enumerate(types) if kind_ == _CONTROL),
        added=tuple(number for number, kind_ in enumerate(types) if kind_ == _USER_DEFINED),
        roles={role: tokens[number] for role, number in roles.items() if number is not None},
        add_bos=source.find("tokenizer.ggml.add_bos_token", bool, kind == "llama"),
        pre=_pre(source) if kind == "gpt2" else "",
    )


def _pre(source: GgufFile) -> str:
    name = source.find("tokenizer.ggml.pre", str, "")
    if name in NAMES:
        return name
    raise CheckpointError(
        "pre-tokenizer is unknown, and a wrong one gives wrong token ids without a word",
        where=f"{source.path}:tokenizer.ggml.pre",
        seen=name or "nothing",
        fix=f"choose a model with one of {', '.join(NAMES)}, or give its Hugging Face folder: model=hf model.path=…",
    )


def build_tokenizer(source: GgufFile, vocabulary: Vocabulary) -> Tokenizer:
    """Returns the fast tokenizer that gives the original's token ids."""
    from tokenizers import AddedToken

    tokenizer = _byte_level(source, vocabulary) if vocabulary.pre else _sentence_piece(source, vocabulary)
    # In the order of their ids, and all of them in the model's vocabulary already, so that none gets a new id.
    for number in sorted({*vocabulary.special, *vocabulary.added}):
        token = AddedToken(str(vocabulary.tokens[number]), normalized=False, special=number in vocabulary.special)
        if number in vocabulary.special:
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])
    if vocabulary.add_bos and "bos_token" in vocabulary.roles:
        _begin_with(tokenizer, vocabulary.roles["bos_token"])
    return tokenizer


def _byte_level(source: GgufFile, vocabulary: Vocabulary) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    pairs = [_pair(merge) for merge in source.require("tokenizer.ggml.merges", list)]
    model = models.BPE(_ids(vocabulary), pairs, ignore_merges=looks_up_whole_words(vocabulary.pre))
    tokenizer = Tokenizer(model)
    unicode_form = normalizer(vocabulary.pre)
    if unicode_form is not None:
        tokenizer.normalizer = unicode_form
    tokenizer.pre_tokenizer = pre_tokenizer(vocabulary.pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(source: GgufFile, vocabulary: Vocabulary) -> Tokenizer:
    """SentencePiece's BPE: the piece with the best score is merged first, so the scores give the merges."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    ids = _ids(vocabulary)
    scores = source.require("tokenizer.ggml.scores", list)
    merges = _merges(ids, scores, skip={str(vocabulary.tokens[number]) for number in vocabulary.special})
    unknown = vocabulary.roles.get("unk_token")
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefixed = source.find("tokenizer.ggml.add_space_prefix", bool, True)
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if prefixed else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    undo: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)] if prefixed else undo)
    return tokenizer


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {token: number for number, token in enumerate(vocabulary.tokens) if token is not None}


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right


def _merges(ids: dict[str, int], scores: Sequence[float], skip: set[str]) -> list[tuple[str, str]]:
    """Every way to build a piece from two others, best score first, then as transformers orders them."""
    found = [
        (-scores[number], len(piece[:cut]), len(piece[cut:]), ids[piece[:cut]], ids[piece[cut:]], piece, cut)
        for piece, number in ids.items()
        if piece not in skip
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return [(piece[:cut], piece[cut:]) for *_, piece, cut in sorted(found)]


def _begin_with(tokenizer: Tokenizer, bos: str) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], pair=[bos, "$A", f"{bos}:1", "$B:1"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def write_tokenizer(tokenizer: Tokenizer, vocabulary: Vocabulary, folder: Path, *, context_length: int) -> None:
    """Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.

    The second is what transformers 4 wrote: the keys that transformers 5 adds (`backend`, `is_local`, …) make
    older tools fail, and it reads its own older form as well.

    Args:
        tokenizer: The tokenizer.
        vocabulary: What it was built from.
        folder: Where to write; exists.
        context_length: Longest text of the model, in tokens.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    named = set(vocabulary.roles.values())
    others = [vocabulary.tokens[number] for number in vocabulary.special if vocabulary.tokens[number] not in named]
    special: dict[str, Any] = {**vocabulary.roles, **({"additional_special_tokens": others} if others else {})}
    decoder = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": decoder,
        **special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
