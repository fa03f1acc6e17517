"""Guided decoding on the CPU: OpenVINO GenAI's xgrammar, the vocabulary it needs, and what we check before it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.contracts.errors import EngineError
from throughline.contracts.text import shorten
from throughline.engines.cpu.bad_words import grammar_without
from throughline.engines.cpu.guide_cost import regex_states, schema_states
from throughline.engines.cpu.openvino_env import openvino
from throughline.vocabulary import Vocabulary

DETOKENIZER_FILE = "openvino_detokenizer.xml"
MOST_CHARACTERS = 65_536
# 15 ms a state with 49,152 tokens on an AVX2 core (docs/log.md): two seconds.
MOST_STATES = 128
_COUNTED = re.compile(r"\{(\d+)(?:,(\d*))?\}")
# A request is added within a step, and clients send the same words each time.
_grammar = functools.lru_cache(maxsize=64)(grammar_without)
# How GenAI names what TensorRT-LLM calls …
_NAMES = {"json": "json_schema", "regex": "regex", "grammar": "grammar", "structural_tag": "structural_tags_config"}


def save_detokenizer(vocabulary: Vocabulary, control_token_ids: Iterable[int], folder: Path) -> None:
    """Writes the detokenizer model, whose vocabulary GenAI compiles grammars against.

    Nothing else of a tokenizer is needed, and transformers is not imported for it. Control tokens have no
    bytes, so that no string of a grammar can hold one.

    Args:
        vocabulary: The bytes of every token id, none for control tokens.
        control_token_ids: At least one; GenAI fails on a detokenizer that skips none.
        folder: The engine directory.
    """
    ov = openvino()
    from openvino_tokenizers.tokenizer_pipeline import FuseStep, TokenizerPipeline, UTF8ValidateStep, VocabDecoderStep
    from openvino_tokenizers.utils import change_inputs_type

    skipped = sorted(control_token_ids)
    pipeline = TokenizerPipeline(skip_tokens=skipped)
    pipeline.add_steps([VocabDecoderStep(vocab=list(vocabulary.pieces), skip_tokens=skipped)])
    pipeline.add_steps([FuseStep(), UTF8ValidateStep()])
    model = pipeline.get_detokenizer_ov_subgraph()
    # GenAI feeds int64.
    change_inputs_type(model, ov.Type.i64)
    ov.save_model(model, str(folder / DETOKENIZER_FILE))


def is_guided(params: SamplingParams) -> bool:
    """Whether tokens are masked for a request."""
    return params.guided_decoding is not None or bool(params.bad_words)


def structured_output(genai: Any, params: SamplingParams) -> Any:
    """Returns GenAI's `StructuredOutputConfig` of a guided request that `check_guide` has passed."""
    if params.guided_decoding is None:
        return genai.StructuredOutputConfig(grammar=_grammar(params.bad_words))
    name, value = _given(params.guided_decoding)
    return genai.StructuredOutputConfig(**{_NAMES[name]: value})


def check_guide(params: SamplingParams) -> None:
    """Refuses what xgrammar could not compile, as far as that can be told from outside.

    GenAI compiles a grammar within `step()`, where a fault costs every live request.

    Raises:
        EngineError: Naming the field and what is wrong with it.
    """
    if params.bad_words:
        _check_bad_words(params)
    if params.guided_decoding is not None:
        _check_description(params.guided_decoding)


def _check_bad_words(params: SamplingParams) -> None:
    if params.guided_decoding is not None:
        raise EngineError(
            "bad words beside guided decoding",
            where="bad_words",
            seen="both",
            fix="leave one out, or describe an answer that cannot have the words",
        )
    for word in params.bad_words:
        if not word or word != word.encode(errors="ignore").decode():
            raise EngineError("no text to ban", where="bad_words", seen=repr(word), fix="send texts of valid Unicode")
    length = sum(map(len, params.bad_words))
    if length > MOST_STATES:
        raise EngineError(
            "bad words take too long to compile, while every other request waits",
            where="bad_words",
            seen=f"{length} characters together",
            fix=f"keep them to {MOST_STATES}: often the beginning of a word is enough",
        )


def _check_description(guide: GuidedDecodingParams) -> None:
    name, value = _given(guide)
    if len(value) > MOST_CHARACTERS:
        raise EngineError(
            "guided decoding's description is too long",
            where=f"guided_decoding.{name}",
            seen=f"{len(value)} characters",
            fix=f"describe the answer in at most {MOST_CHARACTERS}",
        )
    try:
        _check_states(name, _checked(name, value))
    except (ValueError, TypeError, re.error, RecursionError) as error:
        raise EngineError(
            "guided decoding cannot be compiled",
            where=f"guided_decoding.{name}",
            seen=str(error) or shorten(value),
            fix="correct it as xgrammar wants it",
        ) from None


def _checked(name: str, value: str) -> float:
    """Checks a guide's form and returns how many dear states it has, as far as its text says."""
    if name == "regex":
        return regex_states(value)
    if name == "grammar":
        if not re.search(r"^\s*root\s*::=", value, re.MULTILINE):
            raise ValueError("no rule 'root ::= …'")
        return sum(min(int(high or low), 256) for low, high in _COUNTED.findall(value))
    parsed = json.loads(value)
    if name == "json":
        _check_schema(parsed)
    else:
        _check_tag(parsed)
    return schema_states(parsed)


def _check_states(name: str, states: float) -> None:
    if states > MOST_STATES:
        raise EngineError(
            "guided decoding takes too long to compile, while every other request waits",
            where=f"guided_decoding.{name}",
            seen=f"lengths and repetitions of characters that come to {states:.0f} states",
            fix=f"keep them to {MOST_STATES} together: leave maxLength, minLength and counted patterns out of the "
            "schema and check the answer's lengths after it has come",
        )


def _given(guide: GuidedDecodingParams) -> tuple[str, str]:
    given = [(name, getattr(guide, name)) for name in _NAMES if getattr(guide, name) is not None]
    if len(given) != 1:
        raise EngineError(
            "guided decoding needs exactly one description",
            where="guided_decoding",
            seen=", ".join(name for name, _ in given) or "none",
            fix=f"give one of {', '.join(_NAMES)}",
        )
    return given[0]


def _check_schema(schema: Any) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, dict | bool):
        raise ValueError("a JSON schema is an object")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(error.message) from None


def _check_tag(tag: Any) -> None:
    if not isinstance(tag, dict) or tag.get("type") != "structural_tag" or not isinstance(tag.get("format"), dict):
        raise ValueError('a structural tag is {"type": "structural_tag", "format": {…}}')
    _check_format(tag["format"])


def _check_format(item: Any) -> None:
    """Walks the parts of a structural tag and checks those that we know the insides of."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise ValueError(f"a part has a type, seen {shorten(item)}")
    kind = item["type"]
    if kind == "const_string":
        if not isinstance(item.get("value"), str):
            raise ValueError("const_string has a value")
    elif kind == "json_schema":
        _check_schema(item.get("json_schema"))
    elif kind == "regex":
        if not isinstance(item.get("pattern"), str):
            raise ValueError("regex has a pattern")
        re.compile(item["pattern"])
    elif kind in ("sequence", "or"):
        for element in item.get("elements") or [None]:
            _check_format(element)
    elif kind == "tag":
        _check_format(item.get("content"))
    elif kind in ("triggered_tags", "tags_with_separator"):
        for element in item.get("tags") or [None]:
            _check_format({"type": "tag"} | element if isinstance(element, dict) else element)
    elif kind not in ("any_text", "grammar"):
        raise ValueError(f"unknown type {kind!r}")
