"""Tensors of one Triton request become a checked request, or an error that names the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from throughline.contracts.engine import GuidedDecodingParams, SamplingParams
from throughline.triton.requests import (
    GenerateRequest,
    RequestDefaults,
    RequestError,
    StopRequest,
    parse_request,
    stop_request,
)


def parse(tokenizer: bool = True, **inputs: Any) -> GenerateRequest:
    """Words are tokens: `w7 w8` is [7, 8]."""
    arrays = {
        name: np.array([item.encode() if isinstance(item, str) else item for item in value], dtype=kind(value))
        for name, value in ((n, v if isinstance(v, list) else [v]) for n, v in inputs.items())
    }
    return parse_request(
        arrays,
        encode=(lambda text: [int(word[1:]) for word in text.split()]) if tokenizer else None,
        decode=(lambda ids: " ".join(f"w{token}" for token in ids)) if tokenizer else None,
        defaults=RequestDefaults(max_tokens=16),
    )


def kind(values: list[Any]) -> Any:
    first = values[0] if values else 0
    if isinstance(first, (str, bytes)):
        return np.object_
    return {bool: np.bool_, int: np.int64, float: np.float32}[type(first)]


def test_what_is_absent_takes_the_defaults() -> None:
    assert parse(text_input="w7 w8") == GenerateRequest((7, 8), SamplingParams(max_tokens=16), False, "")


def test_every_input_arrives() -> None:
    request = parse(
        input_ids=[7, 8],
        max_tokens=5,
        stream=True,
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        seed=9,
        random_seed=10,
        stop_words=["a", "", "é"],
        bad_words=["", "b"],
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        min_tokens=2,
        ignore_eos=True,
        return_log_probs=True,
        guided_decoding_guide_type="regex",
        guided_decoding_guide="[a-c]+",
        exclude_input_in_output=False,
    )
    params = SamplingParams(
        max_tokens=5,
        temperature=0.5,
        top_k=3,
        top_p=0.75,
        seed=9,
        stop=("a", "é"),
        bad_words=("b",),
        ignore_eos=True,
        min_tokens=2,
        repetition_penalty=1.5,
        presence_penalty=0.25,
        frequency_penalty=-0.5,
        logprobs=True,
        guided_decoding=GuidedDecodingParams(regex="[a-c]+"),
    )
    assert request == GenerateRequest((7, 8), params, True, "w7 w8")


@pytest.mark.parametrize(
    ("kind", "guide", "expected"),
    [
        ("json", "", GuidedDecodingParams(json='{"type": "object"}')),
        ("json_schema", "{}", GuidedDecodingParams(json="{}")),
        ("ebnf_grammar", "root ::= x", GuidedDecodingParams(grammar="root ::= x")),
        ("structural_tag", "{}", GuidedDecodingParams(structural_tag="{}")),
        ("", "", None),
    ],
)
def test_guides_have_tensorrt_llms_names(kind: str, guide: str, expected: GuidedDecodingParams | None) -> None:
    request = parse(text_input="w7", guided_decoding_guide_type=kind, guided_decoding_guide=guide)
    assert request.params.guided_decoding == expected


@pytest.mark.parametrize(
    ("inputs", "where", "words"),
    [
        ({}, "text_input, input_ids", "neither"),
        ({"text_input": "w1", "input_ids": [1]}, "text_input, input_ids", "both"),
        ({"text_input": ""}, "text_input", "empty prompt"),
        ({"text_input": " "}, "text_input", "no tokens"),
        ({"text_input": ["w1", "w2"]}, "text_input", "2 values"),
        ({"text_input": b"\xff"}, "text_input", "no UTF-8"),
        ({"input_ids": []}, "input_ids", "no ids"),
        ({"input_ids": [1, -4]}, "input_ids", "-4"),
        ({"text_input": "w1", "max_tokens": 0}, "max_tokens", "at least 1"),
        ({"text_input": "w1", "max_tokens": -5}, "max_tokens", "-5"),
        ({"text_input": "w1", "min_tokens": 9, "max_tokens": 8}, "min_tokens", "between 0 and 8"),
        ({"text_input": "w1", "temperature": -1.0}, "temperature", "at least 0"),
        ({"text_input": "w1", "temperature": float("inf")}, "temperature", "finite"),
        ({"text_input": "w1", "top_p": 0.0}, "top_p", "more than 0"),
        ({"text_input": "w1", "top_p": 1.5}, "top_p", "at most 1"),
        ({"text_input": "w1", "top_k": -1}, "top_k", "at least 0"),
        ({"text_input": "w1", "repetition_penalty": 0.0}, "repetition_penalty", "more than 0"),
        ({"text_input": "w1", "stop_words": ["x"] * 65}, "stop_words", "65 words"),
        ({"text_input": "w1", "bad_words": ["x"] * 65}, "bad_words", "65 words"),
        ({"text_input": "w1", "guided_decoding_guide": "x"}, "guided_decoding_guide_type", "no value beside"),
        ({"text_input": "w1", "guided_decoding_guide_type": "xml"}, "guided_decoding_guide_type", "send json, json_s"),
        ({"text_input": "w1", "guided_decoding_guide_type": "regex"}, "guided_decoding_guide", "send the guide"),
    ],
)
def test_what_cannot_be_served_is_named(inputs: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(RequestError, match="invalid input") as caught:
        parse(**inputs)
    assert caught.value.where == where
    assert words in str(caught.value)


def test_an_engine_without_tokenizer_takes_ids_only() -> None:
    assert parse(tokenizer=False, input_ids=[3]).prompt_token_ids == (3,)
    with pytest.raises(RequestError, match="no tokenizer: send input_ids"):
        parse(tokenizer=False, text_input="w3")
    with pytest.raises(RequestError, match="no tokenizer: leave it at true"):
        parse(tokenizer=False, input_ids=[3], exclude_input_in_output=False)


def paced(value: Any) -> float | None:
    return parse_request(
        {"input_ids": np.array([3])},
        encode=None,
        decode=None,
        defaults=RequestDefaults(),
        parameters={"stream_interval_ms": value, "another": 1},
    ).interval_seconds


def test_the_distance_of_messages_is_a_request_parameter() -> None:
    assert (paced(250), paced(None)) == (0.25, None)
    for value in (0, -1, 2**31, True, "250", 1.5):
        with pytest.raises(RequestError, match="send an integer") as caught:
            paced(value)
        assert caught.value.where == "stream_interval_ms"


def test_a_stop_names_a_request_and_nothing_else_counts() -> None:
    stop = {"stop": np.array([True]), "max_tokens": np.array([-1])}
    assert stop_request(stop, "mine") == StopRequest("mine")
    assert stop_request({"stop": np.array([False])}, "mine") is stop_request({}, "mine") is None
    with pytest.raises(RequestError, match="send the id of the request that is to end"):
        stop_request(stop, "")
