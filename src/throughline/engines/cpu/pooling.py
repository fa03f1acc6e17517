"""How a checkpoint wants its vectors made, from the files that sentence-transformers keeps beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from throughline.checkpoints import read_json
from throughline.contracts.embedding import EmbeddingInfo, EmbeddingSpec, Pooling
from throughline.contracts.errors import CheckpointError, EngineError

MODULES = "modules.json"
_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
T = TypeVar("T")


def read_embedding_info(folder: Path, config: Mapping[str, Any], spec: EmbeddingSpec, dimensions: int) -> EmbeddingInfo:
    """Puts together what the spec and the checkpoint say.

    Args:
        folder: The checkpoint.
        config: Its parsed `config.json`.
        spec: What was asked for.
        dimensions: Size of the hidden states.

    Raises:
        EngineError: If the spec contradicts the checkpoint, or neither says how to pool.
        CheckpointError: If the files cannot be read, or name a step that the engine does not have.
    """
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise EngineError(
            "attention to later tokens is not supported",
            where="config.json:is_causal",
            seen="false",
            fix="choose a checkpoint whose attention is causal",
        )
    modules = _modules(folder)
    pooling = _agreed("pooling", spec.pooling, _pooling(folder, modules))
    if pooling is None:
        raise EngineError(
            "the checkpoint does not say how its vectors are made",
            where="engine.embedding.pooling",
            seen=f"null, and no Pooling in {folder / MODULES}",
            fix="set it to what the model's card says: last, mean or cls",
        )
    # Without the files of sentence-transformers nothing says; vectors of length 1 are what clients compare.
    found = None if modules is None else "Normalize" in modules
    normalize = _agreed("normalize", spec.normalize, found)
    sizes = config.get("matryoshka_dimensions")
    return EmbeddingInfo(
        pooling=pooling,
        normalize=True if normalize is None else normalize,
        dimensions=dimensions,
        is_matryoshka=_is_matryoshka(spec, config),
        matryoshka_dimensions=spec.matryoshka_dimensions or (tuple(sizes) if sizes else None),
    )


def check_end_token(folder: Path) -> None:
    """Checks that `tokenizer.json` ends a text as `tokenizer_config.json` asks, since vectors hang on that token.

    transformers adds it when it loads such a tokenizer; what reads `tokenizer.json` alone does not.

    Raises:
        CheckpointError: If it does not.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer_config.json"
    values = read_json(path) if path.is_file() else {}
    if not values.get("add_eos_token"):
        return
    end = values.get("eos_token")
    end = end.get("content") if isinstance(end, Mapping) else end
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").tokens
    if tokens[-1:] != [end]:
        raise CheckpointError(
            "tokenizer.json does not end a text as tokenizer_config.json asks",
            where=f"{path}:add_eos_token",
            seen=f"a text's tokens {tokens}, eos_token {end}",
            fix="load the tokenizer with transformers and save it again",
        )


def _is_matryoshka(spec: EmbeddingSpec, config: Mapping[str, Any]) -> bool:
    if spec.is_matryoshka is not None:
        return spec.is_matryoshka
    return bool(spec.matryoshka_dimensions or config.get("is_matryoshka") or config.get("matryoshka_dimensions"))


def _agreed(name: str, asked: T | None, found: T | None) -> T | None:
    if asked is not None and found is not None and asked != found:
        raise EngineError(
            "the checkpoint says otherwise",
            where=f"engine.embedding.{name}",
            seen=f"{asked}, and {found} in the checkpoint's {MODULES}",
            fix=f"set it to {found}, or leave it out",
        )
    return found if asked is None else asked


def _modules(folder: Path) -> dict[str, str] | None:
    """Kind → folder of the steps in `modules.json`; None without the file."""
    path = folder / MODULES
    if not path.is_file():
        return None
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        found = {str(item["type"]).rpartition(".")[2]: str(item["path"]) for item in items}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{MODULES} cannot be read", where=str(path), seen=repr(error), fix="copy it again"
        ) from None
    unknown = [kind for kind in found if kind not in _KNOWN_MODULES]
    if unknown:
        raise CheckpointError(
            "the checkpoint makes its vectors in a step that engines do not have",
            where=str(path),
            seen=", ".join(unknown),
            fix=f"choose one with {', '.join(_KNOWN_MODULES)} alone",
        )
    return found


def _pooling(folder: Path, modules: Mapping[str, str] | None) -> Pooling | None:
    place = (modules or {}).get("Pooling", "1_Pooling")
    path = folder / place / "config.json"
    if modules is not None and "Pooling" not in modules:
        return None
    if not path.is_file():
        return None
    values = read_json(path)
    modes = [name for name, value in values.items() if name.startswith("pooling_mode") and value]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise CheckpointError(
            "pooling is not supported",
            where=str(path),
            seen=", ".join(modes) or "no pooling_mode",
            fix=f"choose a checkpoint with one of {', '.join(_MODES)}",
        )
    return _MODES[modes[0]]
