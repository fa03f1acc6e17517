"""What the gateway needs to know of an engine, read from its folder, or from that of its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import ENGINE_FILE, EngineInfo
from throughline.contracts.errors import EngineError, GatewayError
from throughline.contracts.gateway import ModelRoute
from throughline.gateway.logprobs import TokenScorer
from throughline.vocabulary import Vocabulary

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True)
class EngineFacts:
    """Facts of one engine.

    Attributes:
        name: The engine's own name; the route's where the folder says none.
        precision: Weight precision; empty where the folder does not say it.
        digest: Digest of the checkpoint behind it; that of `config.json` where there is no `engine.json`.
        engine_digest: Digest of the engine, as the artifact store and `recipes.deploy action=status` name it; the
            checkpoint's for a folder that is no artifact.
        max_seq_len: Prompt plus output tokens of one request.
        vocab_size: Token ids are below it; 0 if the folder does not say it.
        created: Unix seconds of `engine.json`, or of `config.json`.
        sampling_defaults: The checkpoint's own values for requests that name none.
        embedding: What its vectors are; None for an engine that makes tokens.
        scorer: Gives log-probabilities their tokens' bytes; None where its tokenizer has no form that says them.
    """

    name: str
    precision: str
    digest: str
    engine_digest: str
    max_seq_len: int
    vocab_size: int
    created: int
    sampling_defaults: Mapping[str, float]
    scorer: TokenScorer | None
    embedding: EmbeddingInfo | None = None


def load_facts(route: ModelRoute) -> EngineFacts:
    """Reads `engine.json` (or `config.json`, see `ModelRoute.engine_dir`) and, if there, `generation_config.json`.

    Raises:
        EngineError: If the folder is no engine and the contract needs one.
        ConfigError: If `engine.json` does not validate.
        GatewayError: If there is no folder or no context length, or a file is no JSON object.
    """
    if route.contract != "throughline" and not (route.engine_dir / ENGINE_FILE).exists():
        return _facts_of_elsewhere(route)
    engine_dir = route.engine_dir
    info = EngineInfo.read(engine_dir)
    return EngineFacts(
        name=info.name,
        precision=info.precision,
        digest=info.checkpoint_digest,
        engine_digest=_engine_digest(engine_dir) or info.checkpoint_digest,
        max_seq_len=route.max_seq_len or min(info.spec.max_seq_len, info.max_position_embeddings),
        vocab_size=info.vocab_size,
        created=int((engine_dir / ENGINE_FILE).stat().st_mtime),
        sampling_defaults=_sampling_defaults(engine_dir / "generation_config.json"),
        scorer=_scorer(engine_dir / "tokenizer.json", info) if info.embedding is None else None,
        embedding=info.embedding,
    )


def _facts_of_elsewhere(route: ModelRoute) -> EngineFacts:
    """Facts of an engine that lies on another machine, from its checkpoint's or TensorRT-LLM's `config.json`."""
    if not route.engine_dir.is_dir():
        raise GatewayError(
            "the folder of the tokenizer is not there",
            where=str(route.engine_dir),
            fix="name that of the checkpoint, which has tokenizer.json",
        )
    path = route.engine_dir / "config.json"
    values = _read_object(path) if path.is_file() else {}
    built, model = _part(values, "build_config"), _part(values, "pretrained_config") or values
    # Models that see and hear have their text part apart.
    model = {**_part(model, "text_config"), **model}
    longest = route.max_seq_len or built.get("max_seq_len") or model.get("max_position_embeddings")
    if not isinstance(longest, int):
        raise GatewayError(
            "the context length of the engine is not known",
            where=str(path),
            seen="no max_seq_len and no max_position_embeddings" if values else "no such file",
            fix="set max_seq_len of the model's route (gateway.max_seq_len=… of recipes.serve) to the engine's",
        )
    vocabulary = model.get("vocab_size")
    digest = hashlib.sha256(path.read_bytes() if values else b"").hexdigest()
    return EngineFacts(
        name=route.id,
        precision="",
        digest=digest,
        engine_digest=_engine_digest(route.engine_dir) or digest,
        max_seq_len=longest,
        vocab_size=vocabulary if isinstance(vocabulary, int) else 0,
        created=int((path if values else route.engine_dir).stat().st_mtime),
        sampling_defaults=_sampling_defaults(route.engine_dir / "generation_config.json"),
        scorer=None,
    )


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatewayError(
            "file is not valid JSON", where=str(path), seen=str(error), fix="bring it anew from where it was made"
        ) from None
    if not isinstance(values, dict):
        raise GatewayError("file is no JSON object", where=str(path), seen=type(values).__name__)
    return values


def _engine_digest(engine_dir: Path) -> str:
    path = engine_dir / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    digest = values.get("digest") if isinstance(values, dict) else None
    return digest if isinstance(digest, str) else ""


def _scorer(path: Path, info: EngineInfo) -> TokenScorer | None:
    try:
        return TokenScorer(Vocabulary.from_tokenizer(path), frozenset(info.eos_token_ids))
    except EngineError:
        # Not every engine's tokenizer has this form; that there is one at all is the prompt encoder's affair.
        return None


def _sampling_defaults(path: Path) -> dict[str, float]:
    """As in transformers, `do_sample: false` (or nothing) means that the other values do not count."""
    if not path.is_file():
        return {}
    data = _read_object(path)
    if not data.get("do_sample"):
        return {}
    return {key: float(data[key]) for key in _SAMPLING_DEFAULTS if isinstance(data.get(key), int | float)}
