"""`/tokenize` counts what the engine gets, `/detokenize` says it back; both in vLLM's shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.unit.gateway.fake_triton import FakeTriton
from throughline.gateway import GatewayProcess

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|> é"}]
TOOL = {"type": "function", "function": {"name": "find"}}


def ask(gateway: GatewayProcess, path: str, **body: Any) -> httpx.Response:
    # As JSON's escapes, which can spell what UTF-8 cannot.
    return httpx.post(f"{gateway.url}/{path}", content=json.dumps(body), timeout=20)


@pytest.fixture(scope="module")
def tokenizer(engine_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(engine_dir / "tokenizer.json"))


@pytest.mark.parametrize("special", [None, True, False])
def test_a_prompt(gateway: GatewayProcess, tokenizer: Tokenizer, special: bool | None) -> None:
    fields = {} if special is None else {"add_special_tokens": special}
    answer = ask(gateway, "tokenize", prompt="Say é again", return_token_strs=True, **fields).json()
    expected = tokenizer.encode("Say é again", add_special_tokens=special is not False)
    assert answer == {
        "count": len(expected.ids),
        "max_model_len": 256,
        "tokens": expected.ids,
        "token_strs": expected.tokens,
    }


@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_messages_are_what_the_engine_gets(
    gateway: GatewayProcess, triton: FakeTriton, tools: list[dict[str, Any]] | None
) -> None:
    fields: dict[str, Any] = {"messages": MESSAGES} | ({} if tools is None else {"tools": tools})
    counted = ask(gateway, "tokenize", model="lab", **fields).json()
    assert ask(gateway, "v1/chat/completions", model="lab", **fields).status_code == 200
    assert counted["tokens"] == triton.seen[-1].prompt
    assert counted["token_strs"] is None
    closed = ask(gateway, "tokenize", add_generation_prompt=False, **fields).json()["tokens"]
    assert counted["tokens"][: len(closed)] == closed
    assert len(closed) < counted["count"]


def test_a_text_beyond_the_context_is_counted(gateway: GatewayProcess, tokenizer: Tokenizer) -> None:
    text = "word " * 20_000
    assert ask(gateway, "tokenize", prompt=text).json()["count"] == len(tokenizer.encode(text).ids) > 256
    chat = ask(gateway, "tokenize", messages=[{"role": "user", "content": text}])
    assert chat.json()["count"] > 256


def test_detokenize_says_it_back(gateway: GatewayProcess) -> None:
    tokens = ask(gateway, "tokenize", messages=MESSAGES).json()["tokens"]
    text = ask(gateway, "detokenize", tokens=tokens).json()
    assert list(text) == ["prompt"]
    # Special tokens with it.
    assert "<|im_start|>" in text["prompt"] and "Hi <|im_end|> é" in text["prompt"]
    assert ask(gateway, "detokenize", model="lab", tokens=[]).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("tokenize", {}, 400, "prompt"),
        ("tokenize", {"prompt": "a", "messages": MESSAGES}, 400, "prompt"),
        ("tokenize", {"prompt": "a", "model": "other"}, 404, "model"),
        ("tokenize", {"prompt": "a", "return_token_str": True}, 400, "return_token_str"),
        ("tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("tokenize", {"prompt": "\ud800"}, 400, None),
        ("tokenize", {"messages": MESSAGES, "add_special_tokens": True}, 400, "add_special_tokens"),
        ("tokenize", {"messages": MESSAGES, "continue_final_message": True}, 400, "continue_final_message"),
        ("tokenize", {"messages": MESSAGES, "chat_template": "x"}, 400, "chat_template"),
        ("tokenize", {"messages": MESSAGES, "tools": [{}]}, 400, "tools[0]"),
        ("detokenize", {"prompt": "a"}, 400, "prompt"),
        ("detokenize", {"tokens": [5, 10**6]}, 400, "tokens[1]"),
        ("detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
    ],
)
def test_refusals(gateway: GatewayProcess, path: str, body: dict[str, Any], status: int, param: str | None) -> None:
    answer = ask(gateway, path, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
