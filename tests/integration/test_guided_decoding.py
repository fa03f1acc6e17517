"""Guided decoding of a real engine: a random model writes what the grammar allows, its neighbours what they would."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from throughline import engines
from throughline.contracts.engine import EngineRuntime, GuidedDecodingParams, SamplingParams
from throughline.contracts.guided import tool_call_guide, tool_calls_guide
from throughline.contracts.tool_calls import parse_tool_calls

pytestmark = pytest.mark.integration
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "severity": {"type": "string", "enum": ["low", "high"]},
        "action": {"type": "string", "enum": ["investigate", "restart"]},
        "gpu_model": {"type": "string", "pattern": "^[A-Z][0-9]{2,4}$"},
        "users": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["severity", "action", "gpu_model", "users"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "open_ticket", "parameters": SCHEMA}}]
PROMPT = [5, 6, 7]


@pytest.fixture(scope="module")
def runtime(tiny_engine: Path) -> Iterator[EngineRuntime]:
    loaded = engines.load(tiny_engine)
    yield loaded
    loaded.close()


def texts(runtime: EngineRuntime, **requests: SamplingParams) -> dict[str, str]:
    """Answers to requests that run together; the reason of one that fails."""
    for name, params in requests.items():
        runtime.submit(name, PROMPT, params)
    found = dict.fromkeys(requests, "")
    while runtime.has_work():
        for output in runtime.step():
            found[output.request_id] += output.text or output.error or ""
    return found


def guided(tokens: int = 200, **guide: str) -> SamplingParams:
    return SamplingParams(max_tokens=tokens, guided_decoding=GuidedDecodingParams(**guide))


def test_endless_white_space_is_stopped(runtime: EngineRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON allows any amount of it between two parts, and a random model likes to stay there."""
    from throughline.engines.cpu import runtime as module

    monkeypatch.setattr(module, "MOST_BLANKS", 4)
    schema = json.dumps(SCHEMA)
    ends: dict[str, tuple[str, str]] = {}
    for start in range(3, 60, 3):
        runtime.submit(str(start), [start, start + 1], guided(120, json=schema))
    while runtime.has_work():
        for output in runtime.step():
            text, _ = ends.get(output.request_id, ("", ""))
            ends[output.request_id] = (text + output.text, output.error or output.finish_reason or "")
    stopped = {name: text for name, (text, reason) in ends.items() if "white space" in reason}
    assert stopped
    for name, (text, _) in ends.items():
        runs = [len(run) for run in re.findall(r"\s+", text)]
        # A run is as long as the limit and the token that crossed it, and only in what was stopped.
        assert (max(runs, default=0) > 4) == (name in stopped), repr(text)


def test_a_tool_call_is_in_the_wire_form_and_satisfies_its_schema(runtime: EngineRuntime) -> None:
    from jsonschema import Draft202012Validator

    alone = texts(runtime, free=SamplingParams(max_tokens=30, ignore_eos=True))["free"]
    found = texts(
        runtime,
        free=SamplingParams(max_tokens=30, ignore_eos=True),
        call=SamplingParams(max_tokens=300, guided_decoding=tool_call_guide(TOOLS)),
    )
    assert found["free"] == alone
    single = parse_tool_calls(found["call"]).single
    assert single is not None and single.arguments is not None
    Draft202012Validator(SCHEMA).validate(single.arguments)
    # The same bytes as the chat template would write, but for the list, whose white space is the engine's own.
    flat = {name: value for name, value in single.arguments.items() if name != "users"}
    start = '<tool_call>\n{"name": "open_ticket", "arguments": ' + json.dumps(flat, ensure_ascii=False)[:-1]
    assert found["call"].startswith(start + ', "users": [')
    assert found["call"].endswith("}}\n</tool_call>")


def test_calls_within_text_follow_their_schemas(runtime: EngineRuntime) -> None:
    """A random model calls nothing by itself, so one guide asks for a call at once; the other leaves it free."""
    from jsonschema import Draft202012Validator

    strict = [{"type": "function", "function": {**tool["function"], "strict": True}} for tool in TOOLS]
    tag = json.loads(tool_calls_guide(strict).structural_tag or "")
    called = {**tag, "format": {**tag["format"], "at_least_one": True, "stop_after_first": True}}
    found = texts(
        runtime,
        free=SamplingParams(max_tokens=30, ignore_eos=True),
        guided=SamplingParams(max_tokens=30, ignore_eos=True, guided_decoding=tool_calls_guide(strict)),
        call=guided(300, structural_tag=json.dumps(called)),
    )
    assert found["guided"] and not found["guided"].startswith("<tool_call>")
    single = parse_tool_calls(found["call"]).single
    assert single is not None and single.arguments is not None
    Draft202012Validator(SCHEMA).validate(single.arguments)


def test_bad_words_are_kept_out_however_they_are_cut_into_tokens(runtime: EngineRuntime) -> None:
    free = SamplingParams(max_tokens=40, ignore_eos=True)
    alone = texts(runtime, free=free)["free"]
    # Of an answer of a random model's every third pair of characters, so most from two tokens.
    words = tuple(dict.fromkeys(alone[start : start + 2] for start in range(0, 60, 3)))
    found = texts(
        runtime,
        free=free,
        without=dataclasses.replace(free, bad_words=words),
        strange=dataclasses.replace(free, bad_words=("]", "^-", '"', "\\", "\n", "é", "😀")),
        drawn=dataclasses.replace(free, bad_words=words, temperature=1.0, seed=3),
    )
    assert found["free"] == alone
    for name in ("without", "drawn"):
        assert found[name] and not [word for word in words if word in found[name]], name
    assert found["strange"] and not set(found["strange"]) & set(']"\\\né😀')


def test_bad_words_that_are_not_said_change_nothing(runtime: EngineRuntime) -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True, logprobs=True)
    found = texts(runtime, free=params, banned=dataclasses.replace(params, bad_words=("never said",)))
    assert found["banned"] == found["free"]


def test_an_answer_may_end_wherever_bad_words_leave_it(runtime: EngineRuntime) -> None:
    """Of all that is no ASCII, drawn evenly, the end of the answer is one token in a hundred."""
    ascii_letters = tuple(chr(number) for number in range(128))
    reasons, text = [], ""
    for start in range(3, 33, 3):
        params = SamplingParams(max_tokens=120, temperature=100.0, seed=start, bad_words=ascii_letters)
        runtime.submit(str(start), [start], params)
    while runtime.has_work():
        for output in runtime.step():
            text += output.text
            reasons.append(output.finish_reason)
    assert {"stop"} <= {reason for reason in reasons if reason} <= {"stop", "length"}
    assert text and not text.isascii() and not set(text) & set(ascii_letters)


def test_each_kind_of_guide_is_obeyed(runtime: EngineRuntime) -> None:
    found = texts(
        runtime,
        regex=guided(regex="[ab]{3}-(yes|no)"),
        grammar=guided(grammar='root ::= "x" digit digit\ndigit ::= [0-9]'),
        json=guided(json=json.dumps({"enum": ["low", "high"]})),
    )
    assert re.fullmatch("[ab]{3}-(yes|no)", found["regex"])
    assert re.fullmatch("x[0-9]{2}", found["grammar"])
    assert json.loads(found["json"]) in ("low", "high")


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        ({}, "exactly one description — guided_decoding — seen: none"),
        ({"regex": "a", "json": "{}"}, "seen: json, regex"),
        ({"regex": "("}, "guided_decoding.regex"),
        ({"grammar": "x ::= y"}, "no rule 'root ::= …'"),
        ({"json": "{"}, "guided_decoding.json"),
        ({"json": '{"type": "strin"}'}, "'strin' is not valid"),
        ({"structural_tag": "{}"}, "guided_decoding.structural_tag"),
        ({"structural_tag": '{"type": "structural_tag", "format": {"type": "nothing"}}'}, "unknown type 'nothing'"),
        (
            {"structural_tag": '{"type": "structural_tag", "format": {"type": "sequence", "elements": [{}]}}'},
            "a part has a type",
        ),
    ],
)
def test_a_guide_that_cannot_be_compiled_never_reaches_the_pipeline(
    runtime: EngineRuntime, guide: dict[str, str], words: str
) -> None:
    found = texts(runtime, bad=guided(**guide), good=SamplingParams(max_tokens=3, ignore_eos=True))
    assert words in found["bad"]
    assert found["good"] and "restarted" not in found["good"]


def test_an_engine_without_the_vocabulary_refuses(tiny_engine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    shutil.copytree(tiny_engine, folder)
    (folder / "openvino_detokenizer.xml").unlink()
    loaded = engines.load(folder)
    try:
        assert "engine was built without guided decoding" in texts(loaded, bad=guided(regex="a"))["bad"]
    finally:
        loaded.close()
