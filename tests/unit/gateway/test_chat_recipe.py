"""`recipes.chat` against the real gateway before a scripted Triton."""

from __future__ import annotations

import codecs
import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recipes import chat
from tests.unit.gateway.fake_triton import Fail, FakeTriton, Say, Seen, say
from throughline.contracts.errors import ConfigError, GatewayError
from throughline.gateway import GatewayProcess

ROOT = Path(__file__).resolve().parents[3]
CALL = '<tool_call>{"name": "find", "arguments": {"id": "A-7", "deep": true}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {"id": {}}}}}]


@pytest.fixture
def talk_to(gateway: GatewayProcess, triton: FakeTriton) -> Callable[..., chat.Conversation]:
    """Connects to the gateway with the given settings."""

    def connect(**values: object) -> chat.Conversation:
        return chat.connect(chat.ChatSpec.model_validate({"url": gateway.url, **values}))

    return connect


def command(gateway: GatewayProcess, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "recipes.chat", f"chat.url={gateway.url}", *arguments]


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"THROUGHLINE_HOME": str(tmp_path), "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "TERM": "dumb"}


def test_an_answer_comes_in_parts_and_joins_the_conversation(talk_to: Callable[..., chat.Conversation]) -> None:
    conversation = talk_to()
    parts = list(conversation.ask("Hi"))
    assert "".join(parts) == "Hello there" and len(parts) > 2
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert conversation.pace is not None
    assert conversation.pace.completion_tokens == 4
    assert (conversation.pace.time_to_first_token or 0) > 0


def test_without_a_system_prompt_none_is_sent(talk_to: Callable[..., chat.Conversation], triton: FakeTriton) -> None:
    conversation = talk_to()
    list(conversation.ask("Hi"))
    plain = triton.seen[-1].prompt
    conversation.reset("Be brief.")
    list(conversation.ask("Hi"))
    assert triton.seen[-1].prompt != plain
    assert conversation.messages[0] == {"role": "system", "content": "Be brief."}


def test_tool_calls_are_readable_and_kept(
    talk_to: Callable[..., chat.Conversation], triton: FakeTriton, tmp_path: Path
) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    triton.script = say(CALL)
    conversation = talk_to(tools=str(tmp_path / "tools.json"))
    assert "".join(conversation.ask("Find A-7")) == "→ find\n    id    A-7\n    deep  true"
    (call,) = conversation.messages[-1]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"id": "A-7", "deep": True}
    triton.script = say("Found.")
    assert "".join(conversation.ask("And?")) == "Found."


def test_the_lab_s_tool_comes_with_its_system_prompt(talk_to: Callable[..., chat.Conversation]) -> None:
    conversation = talk_to(tools="lab")
    assert conversation.tools[0]["function"]["name"] == "open_ticket"
    assert conversation.messages[0]["role"] == "system"


def test_a_refused_message_is_forgotten(talk_to: Callable[..., chat.Conversation]) -> None:
    conversation = talk_to()
    with pytest.raises(GatewayError, match="no answer"):
        list(conversation.ask("far too long " * 2000))
    assert conversation.messages == []


def test_a_long_conversation_forgets_its_oldest_messages(talk_to: Callable[..., chat.Conversation]) -> None:
    conversation = talk_to(system="Be brief.")
    for number in range(12):
        assert "".join(conversation.ask(f"Question {number}: " + "word " * 20)) == "Hello there"
    assert conversation.messages[0]["role"] == "system"
    assert conversation.messages[1]["role"] == "user"
    assert 4 < len(conversation.messages) < 24
    assert conversation.messages[-2]["content"].startswith("Question 11")


def test_an_answer_that_breaks_off_is_kept(talk_to: Callable[..., chat.Conversation], triton: FakeTriton) -> None:
    def endless(seen: Seen) -> Iterator[Say | Fail]:
        for number in range(1, 10_000):
            if seen.cancelled.is_set():
                return
            yield Say("and ", number)

    triton.script = endless
    conversation = talk_to()
    stream = conversation.ask("Count")
    next(stream)
    stream.close()
    assert conversation.messages[-1]["content"].startswith("and ")
    assert triton.seen[-1].cancelled.wait(10)


def test_no_gateway_names_the_command_that_starts_one() -> None:
    with pytest.raises(GatewayError, match="`make serve`"):
        chat.connect(chat.ChatSpec(url="http://127.0.0.1:9"))


def test_an_unknown_model_gets_the_nearest_name(talk_to: Callable[..., chat.Conversation]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lab'"):
        talk_to(model="lba")


def test_one_message_from_the_command_line_and_from_a_pipe(gateway: GatewayProcess, tmp_path: Path) -> None:
    for arguments, text in ((["chat.message=What is 2?"], ""), ([], "two\nlines\n")):
        done = subprocess.run(
            command(gateway, *arguments),
            cwd=ROOT,
            env=environment(tmp_path),
            input=text,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == "Hello there\n"
        assert "tokens/s" in done.stderr


def test_the_prompt_takes_commands_and_pasted_lines(
    gateway: GatewayProcess, triton: FakeTriton, tmp_path: Path
) -> None:
    own, other = pty.openpty()
    process = subprocess.Popen(
        command(gateway),
        start_new_session=True,
        cwd=ROOT,
        env=environment(tmp_path),
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    seen = ""
    # A terminal's output ends anywhere, within a character too.
    decoder = codecs.getincrementaldecoder("utf-8")()

    def read_until(mark: str) -> None:
        nonlocal seen
        while mark not in seen:
            assert select.select([own], [], [], 60)[0], seen
            seen += decoder.decode(os.read(own, 65536))
        seen = seen.partition(mark)[2]

    read_until("> ")
    for line, mark in (
        ("/help", "/reset"),
        ("/system Be brief.", "system prompt set"),
        ('"""one', "… "),
        ('two"""', "4 tokens"),
        ("/reset", "forgotten"),
    ):
        os.write(own, f"{line}\r".encode())
        read_until(mark)
        if mark != "… ":
            read_until("> ")
    os.write(own, b"/quit\r")
    assert process.wait(60) == 0
    os.close(own)
    assert len(triton.seen) == 1
