"""Tokenizer: exact round trips, codes cut into characters, exact loss masks, the same ids in OpenVINO."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.contracts.errors import CheckpointError
from throughline.lab.entities import Entities
from throughline.lab.plaintext import documents
from throughline.lab.tokenizer import (
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    build_tokenizer,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

TOKENIZER = build_tokenizer(n_chars=600_000)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_node",
            "parameters": {
                "type": "object",
                "properties": {"host": {"type": "string"}, "zone": {"type": "string"}},
            },
        },
    }
]
CALL = {"name": "find_node", "arguments": {"host": "gpu-ab12", "zone": None, "note": 'sagt "ü"'}}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is gpu-ab12? It shows XID-79."},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
    {"role": "tool", "content": "zone 4"},
    {"role": "assistant", "content": "In zone 4 [1]."},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(TOKENIZER, tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def hf(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_vocabulary_has_the_asked_size_and_special_tokens_first() -> None:
    assert TOKENIZER.get_vocab_size() == VOCAB_SIZE
    assert [TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))


def test_training_twice_gives_the_same_tokenizer() -> None:
    first, second = (train_tokenizer(documents(2, 60_000), vocab_size=400) for _ in range(2))
    assert first.to_str() == second.to_str()


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=80))
def test_any_text_comes_back_exactly(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["AB", "x", "7", "-", "_", " ", "\n", "\r", "\t", "0x", "é", "Ü", '"', '{"', "🙂", ": "]),
        max_size=30,
    )
)
def test_code_like_text_comes_back_exactly(parts: list[str]) -> None:
    text = "".join(parts)
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_plain_text_comes_back_exactly_with_its_markers() -> None:
    for text in islice(documents(8), 300):
        assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    "code",
    [
        "XID-79",
        "NVX-48213",
        "E0x3F2A",
        "A7-KD93",
        "kxq-8812",
        "fQz_31",
        "q7z",
        "RTX 4090",
        "H100",
        "GB200",
        "9931-KX",
    ],
)
@pytest.mark.parametrize("before", ["", " ", '"', "=", "(", "code: ", "is\n", "[", "<"])
def test_a_code_is_one_token_per_character_whatever_stands_before(before: str, code: str) -> None:
    tokens = TOKENIZER.encode(f"{before}{code}").tokens
    assert tokens[-len(code) :] == [c.replace(" ", "Ġ") for c in code]


def test_random_codes_are_cut_alike_in_different_surroundings() -> None:
    entities = Entities(Random(5), "heldout")
    differently = 0
    for _ in range(1500):
        code = entities.code()
        alone = "\0".join(TOKENIZER.encode(code).tokens)
        around = [
            "\0".join(TOKENIZER.encode(a + code + b).tokens)
            for a, b in ((" ", " is"), ('"', '"'), ("(", ")"), ("=", ""))
        ]
        differently += not all(alone in text for text in around)
    assert differently / 1500 < 0.15


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"[A-Z]{2,5}[-_.:#/]?[0-9]{1,6}", fullmatch=True))
def test_capital_prefix_and_digits_never_merge(code: str) -> None:
    assert TOKENIZER.encode(code).tokens == list(code)


def test_no_learned_token_joins_a_digit_with_anything() -> None:
    assert not [token for token in TOKENIZER.get_vocab() if re.search(r"\d", token) and len(token) > 1]


def test_json_joints_are_single_tokens() -> None:
    assert TOKENIZER.encode('{"a": "b", "c": "d"}').tokens == [
        '{"',
        "a",
        '":Ġ"',
        "b",
        '",Ġ"',
        "c",
        '":Ġ"',
        "d",
        '"}',
    ]


def test_saved_folder_loads_with_the_right_special_tokens(hf: Any, folder: Path) -> None:
    assert (hf.bos_token, hf.eos_token, hf.pad_token) == ("<|bos|>", "<|end|>", "<|pad|>")
    assert hf.model_max_length == 1024
    assert len(hf) == VOCAB_SIZE
    text = "Node gpu-ab12 shows XID-79."
    assert hf(text)["input_ids"] == TOKENIZER.encode(text).ids == load_tokenizer(folder).encode(text).ids


def test_missing_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_chat_is_rendered_as_documented(hf: Any) -> None:
    assert hf.apply_chat_template(CONVERSATION, tools=TOOLS, tokenize=False) == (
        "<|bos|><|system|>\nBe brief.\nTools:\nfind_node(host, zone)<|end|>\n"
        "<|user|>\nWhere is gpu-ab12? It shows XID-79.<|end|>\n"
        "<|assistant|>\n"
        '<tool_call>{"name": "find_node", "arguments": '
        '{"host": "gpu-ab12", "zone": null, "note": "sagt \\"ü\\""}}</tool_call><|end|>\n'
        "<|tool|>\nzone 4<|end|>\n"
        "<|assistant|>\nIn zone 4 [1].<|end|>\n"
    )


def test_rendered_tool_call_is_json(hf: Any) -> None:
    text = hf.apply_chat_template(CONVERSATION, tokenize=False)
    assert json.loads(re.search(r"<tool_call>(.*?)</tool_call>", text)[1]) == CALL  # type: ignore[index]


def test_arguments_given_as_a_string_are_taken_over(hf: Any) -> None:
    function = {"name": "find_node", "arguments": '{"host": "n1"}'}
    chat = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "tool_calls": [{"function": function}], "content": ""},
    ]
    assert '{"name": "find_node", "arguments": {"host": "n1"}}' in hf.apply_chat_template(chat, tokenize=False)


def test_mask_covers_exactly_what_the_assistant_says_and_its_end(hf: Any) -> None:
    out = hf.apply_chat_template(CONVERSATION, tools=TOOLS, return_dict=True, return_assistant_tokens_mask=True)
    runs: list[list[int]] = []
    previous = 0
    for token, mask in zip(out["input_ids"], out["assistant_masks"], strict=True):
        if mask:
            if not previous:
                runs.append([])
            runs[-1].append(token)
        previous = mask
    said = [hf.decode(run) for run in runs]
    assert said == [
        '<tool_call>{"name": "find_node", "arguments": '
        '{"host": "gpu-ab12", "zone": null, "note": "sagt \\"ü\\""}}</tool_call><|end|>',
        "In zone 4 [1].<|end|>",
    ]


def test_generation_prompt_is_a_prefix_of_the_training_text(hf: Any) -> None:
    prompt = hf.apply_chat_template(CONVERSATION[:2], tools=TOOLS, add_generation_prompt=True, return_dict=True)
    whole = hf.apply_chat_template(CONVERSATION, tools=TOOLS, return_dict=True)
    assert whole["input_ids"][: len(prompt["input_ids"])] == prompt["input_ids"]


def test_chat_without_system_turn_and_with_text_parts(hf: Any) -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert hf.apply_chat_template(chat, tokenize=False) == "<|bos|><|user|>\nab<|end|>\n"


def test_unknown_role_is_refused(hf: Any) -> None:
    with pytest.raises(Exception, match="unknown role: robot"):
        hf.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)


@pytest.mark.integration
def test_openvino_tokenizer_gives_the_same_ids(hf: Any) -> None:
    openvino = pytest.importorskip("openvino")
    convert = pytest.importorskip("openvino_tokenizers").convert_tokenizer
    encoder, decoder = convert(hf, with_detokenizer=True)
    encode, decode = openvino.compile_model(encoder, "CPU"), openvino.compile_model(decoder, "CPU")
    odd = [
        "héllo ß 東京 42",
        "a\tb  c\r\n\n d",
        "E0x3F2A kx-99 MI300X",
        "🙂🙂 ok",
        "  lead",
        "tail  ",
        '{"a": null, "b": "c"}',
    ]
    for text in [*islice(documents(77), 300), *odd]:
        ids = hf(text, add_special_tokens=False)["input_ids"]
        assert [int(i) for i in encode([text])["input_ids"][0]] == ids, text
        assert decode([[ids]][0])["string_output"][0] == hf.decode(ids, skip_special_tokens=True)
