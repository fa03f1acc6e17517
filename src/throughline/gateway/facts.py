"""What the gateway needs to know of an engine, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from throughline.contracts.engine import ENGINE_FILE, EngineInfo
from throughline.contracts.errors import EngineError, GatewayError
from throughline.gateway.logprobs import TokenScorer
from throughline.vocabulary import Vocabulary

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "repetition_penalty")


@dataclass(frozen=True)
class EngineFacts:
    """Facts of one engine.

    Attributes:
        name: The engine's own name.
        precision: Weight precision.
        digest: Digest of the checkpoint behind it.
        engine_digest: Digest of the engine, as the artifact store and `recipes.deploy action=status` name it; the
            checkpoint's for a folder that is no artifact.
        max_seq_len: Prompt plus output tokens of one request.
        vocab_size: Token ids are below it.
        created: Unix seconds of `engine.json`.
        sampling_defaults: The checkpoint's own values for requests that name none.
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


def load_facts(engine_dir: Path) -> EngineFacts:
    """Reads `engine.json` and, if there, `generation_config.json`.

    Raises:
        EngineError: If the folder is no engine.
        ConfigError: If `engine.json` does not validate.
        GatewayError: If `generation_config.json` is no JSON object.
    """
    info = EngineInfo.read(engine_dir)
    return EngineFacts(
        name=info.name,
        precision=info.precision,
        digest=info.checkpoint_digest,
        engine_digest=_engine_digest(engine_dir) or info.checkpoint_digest,
        max_seq_len=min(info.spec.max_seq_len, info.max_position_embeddings),
        vocab_size=info.vocab_size,
        created=int((engine_dir / ENGINE_FILE).stat().st_mtime),
        sampling_defaults=_sampling_defaults(engine_dir / "generation_config.json"),
        scorer=_scorer(engine_dir / "tokenizer.json", info),
    )


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
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GatewayError(
            "file is not valid JSON", where=str(path), seen=str(error), fix="build the engine again"
        ) from None
    if not isinstance(data, dict) or not data.get("do_sample"):
        return {}
    return {key: float(data[key]) for key in _SAMPLING_DEFAULTS if isinstance(data.get(key), int | float)}
