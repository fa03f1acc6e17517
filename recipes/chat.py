"""Talks to a served model in the terminal, streaming; `/help` lists what can be typed.

python -m recipes.chat
python -m recipes.chat chat.system="Answer in one sentence." chat.message="Why is the sky blue?"
python -m recipes.chat chat.tools=lab < ticket.txt
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from recipes import app
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError, GatewayError
from throughline.contracts.text import did_you_mean, shorten

if TYPE_CHECKING:
    from openai import OpenAI

HELP = """/system TEXT   set the system prompt and start again; without TEXT the model's own
/reset         forget the conversation
/quit          end, as does Ctrl-D; Ctrl-C stops an answer
Text of several lines can be pasted, or typed between two lines of three quotes (\"\"\")."""
QUOTES = '"""'


class ChatSpec(StrictModel):
    """Whom to talk to and how.

    Attributes:
        url: The gateway's address.
        model: Name of the model there; empty takes the only one, or the first.
        system: System prompt; empty leaves the model's own.
        message: Sends this one message, prints the answer and ends.
        tools: JSON file with a list of OpenAI tools to offer; `lab` offers the lab's, with its system prompt.
        max_tokens: Length limit of an answer; None leaves it what the context has room for.
        temperature: 0 always answers the same.
        api_key: Sent as bearer token.
        timeout_seconds: Longest wait for the next part of an answer.
    """

    url: str = "http://127.0.0.1:8080"
    model: str = ""
    system: str = ""
    message: str = ""
    tools: str = ""
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.2, ge=0)
    api_key: str = "none"
    timeout_seconds: float = Field(default=120.0, gt=0)


class Config(app.RecipeConfig):
    """Settings of `recipes.chat`."""

    chat: ChatSpec = ChatSpec()


@dataclass
class Pace:
    """Seconds to the first token and tokens a second after it, of one answer; None where it had none."""

    time_to_first_token: float | None
    tokens_per_second: float | None
    completion_tokens: int

    def __str__(self) -> str:
        from throughline.reporting import format as fmt

        parts = []
        if self.time_to_first_token is not None:
            parts.append(f"first token after {fmt.seconds(self.time_to_first_token)}")
        if self.tokens_per_second is not None:
            parts.append(f"{fmt.number(self.tokens_per_second)} tokens/s")
        return ", ".join([*parts, f"{self.completion_tokens} tokens"])


@dataclass
class Conversation:
    """What was said so far, and the client that asks on."""

    client: OpenAI
    model: str
    spec: ChatSpec
    tools: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    pace: Pace | None = None

    def reset(self, system: str) -> None:
        """Forgets everything but the system prompt; an empty one leaves the model's own."""
        self.messages = [{"role": "system", "content": system}] if system else []

    def ask(self, text: str) -> Generator[str, None, None]:
        """Sends a message and yields the answer's text as it comes, tool calls last.

        When the conversation outgrows the model's context its oldest messages are forgotten. The answer joins
        the conversation when it ends, and what came of it when it is broken off.

        Raises:
            GatewayError: If the gateway refuses the message, which then is forgotten.
        """
        import openai

        self.messages.append({"role": "user", "content": text})
        answer = _Answer()
        try:
            yield from answer.read(self._fitting_stream())
        except openai.APIError as error:
            self.messages.pop()
            raise GatewayError(
                "no answer", where=self.spec.url, seen=shorten(str(error)), fix="/reset starts again"
            ) from error
        except GeneratorExit:
            self.messages.append(answer.message())
            raise
        self.pace = answer.pace()
        self.messages.append(answer.message())
        yield answer.readable_calls()

    def _fitting_stream(self) -> Any:
        import openai

        while True:
            try:
                return self._stream()
            except openai.BadRequestError as error:
                if error.code != "context_length_exceeded" or not self._forget_oldest():
                    raise

    def _forget_oldest(self) -> bool:
        """Drops the first question with its answer; False if there is only the newest question."""
        first = 1 if self.messages[0]["role"] == "system" else 0
        found = len(self.messages) > first + 1
        del self.messages[first : first + 2 if found else first]
        return found

    def _stream(self) -> Any:
        offered: dict[str, Any] = {"tools": self.tools} if self.tools else {}
        if self.spec.max_tokens is not None:
            offered["max_tokens"] = self.spec.max_tokens
        messages: Any = self.messages
        return self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            temperature=self.spec.temperature,
            stream=True,
            stream_options={"include_usage": True},
            **offered,
        )


class _Answer:
    """Collects a stream: text, tool calls by index, usage and times."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[int, dict[str, str]] = {}
        self.tokens = 0
        self.started = time.perf_counter()
        self.first = self.last = 0.0

    def read(self, stream: Any) -> Iterator[str]:
        with stream:
            for chunk in stream:
                self.tokens = chunk.usage.completion_tokens if chunk.usage else self.tokens
                delta = chunk.choices[0].delta if chunk.choices else None
                if delta is None or not (delta.content or delta.tool_calls):
                    continue
                self.last = time.perf_counter()
                self.first = self.first or self.last
                for part in delta.tool_calls or ():
                    call = self.calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                    call["id"] += part.id or ""
                    call["name"] += part.function.name or ""
                    call["arguments"] += part.function.arguments or ""
                if delta.content:
                    self.text += delta.content
                    yield delta.content

    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.calls:
            found["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": call["arguments"]},
                }
                for call in self.calls.values()
            ]
        return found

    def pace(self) -> Pace:
        took = self.last - self.first
        rate = (self.tokens - 1) / took if took > 0 and self.tokens > 1 else None
        return Pace(self.first - self.started if self.first else None, rate, self.tokens)

    def readable_calls(self) -> str:
        lines = []
        for call in self.calls.values():
            lines.append(f"→ {call['name']}")
            try:
                arguments = json.loads(call["arguments"])
            except ValueError:
                arguments = call["arguments"]
            if isinstance(arguments, dict):
                width = max(map(len, arguments), default=0)
                lines += [f"    {key:<{width}}  {_shown(value)}" for key, value in arguments.items()]
            else:
                lines.append(f"    {arguments}")
        return "\n".join(["", *lines] if self.text and lines else lines)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def connect(spec: ChatSpec) -> Conversation:
    """Finds the model behind the gateway.

    Raises:
        GatewayError: If nothing answers there.
        ConfigError: If it does not serve the model, or the tools are not a list of tools.
    """
    import openai

    client = openai.OpenAI(
        base_url=f"{spec.url.rstrip('/')}/v1", api_key=spec.api_key, timeout=spec.timeout_seconds, max_retries=0
    )
    try:
        served = [model.id for model in client.models.list()]
    except openai.APIConnectionError as error:
        raise GatewayError(
            "no gateway answers",
            where=spec.url,
            seen=str(error.__cause__ or error),
            fix="start it with `make serve` in another terminal, or give its address with chat.url=…",
        ) from error
    except openai.APIError as error:
        raise GatewayError("the gateway refuses", where=spec.url, seen=shorten(str(error))) from error
    if spec.model and spec.model not in served:
        raise ConfigError(
            "the gateway does not serve this model",
            where="chat.model",
            seen=spec.model,
            fix=did_you_mean(spec.model, served),
        )
    tools, system = _tools(spec.tools)
    conversation = Conversation(client, spec.model or served[0], spec, tools)
    conversation.reset(spec.system or system)
    return conversation


def _tools(name: str) -> tuple[list[dict[str, Any]], str]:
    """Returns the tools to offer, and the system prompt that goes with them."""
    if not name:
        return [], ""
    if name == "lab":
        from throughline.lab.task_schema import SYSTEM_PROMPTS, open_ticket

        return [open_ticket()], SYSTEM_PROMPTS["triage"]
    try:
        found = json.loads(Path(name).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError("the tools cannot be read", where="chat.tools", seen=str(error)) from error
    if not isinstance(found, list):
        raise ConfigError("the tools are no list", where=f"chat.tools: {name}", fix="give a JSON list of OpenAI tools")
    return found, ""


def answer(conversation: Conversation, text: str) -> None:
    """Asks and prints the answer as it comes, then its pace; Ctrl-C stops it and keeps what came."""
    from throughline.reporting import console
    from throughline.reporting.terminal import make_console

    out = console.out()
    stream = conversation.ask(text)
    try:
        for part in stream:
            console.write(out, part)
        console.write(out, "\n")
        make_console(console.err()).print(f"({conversation.pace})", style="dim")
    except KeyboardInterrupt:
        stream.close()
        console.write(out, " …\n")


def talk(conversation: Conversation) -> None:
    """Reads messages from the terminal until `/quit` or Ctrl-D."""
    import readline  # noqa: F401 - gives `input` a line to edit, a history and pasting of several lines

    app.echo(f"{conversation.model} at {conversation.spec.url}; /help lists the commands, /quit ends")
    while True:
        try:
            text = _read_message()
        except (EOFError, KeyboardInterrupt):
            app.echo()
            return
        if text == "/quit":
            return
        if text.startswith("/"):
            _command(conversation, text)
        elif text:
            try:
                answer(conversation, text)
            except GatewayError as error:
                app.echo(str(error))


def _read_message() -> str:
    text = input("> ").strip()
    if text.startswith(QUOTES):
        lines = [text.removeprefix(QUOTES)]
        while not lines[-1].rstrip().endswith(QUOTES):
            lines.append(input("… "))
        text = "\n".join(lines).rstrip().removesuffix(QUOTES).strip()
    return text


def _command(conversation: Conversation, text: str) -> None:
    name, _, rest = text.partition(" ")
    if name == "/system":
        conversation.reset(rest.strip())
        app.echo("system prompt set" if rest.strip() else "the model's own system prompt")
    elif name == "/reset":
        system = [message["content"] for message in conversation.messages if message["role"] == "system"]
        conversation.reset(system[0] if system else "")
        app.echo("forgotten")
    else:
        app.echo(HELP)


@app.recipe(Config, capture=False)
def main(config: Config) -> None:
    """Runs the recipe."""
    conversation = connect(config.chat)
    if config.chat.message:
        answer(conversation, config.chat.message)
    elif not sys.stdin.isatty():
        answer(conversation, sys.stdin.read().strip())
    else:
        talk(conversation)


if __name__ == "__main__":
    main()
