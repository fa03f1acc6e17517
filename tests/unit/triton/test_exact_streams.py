"""What a client of the engine model hears is the whole text cut at its first stop string, however it comes about.

Scheduler, messages, frames, the CPU engine's runtime and its detokenizer are real; the pipeline below plays tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streamed_text import cut, decode
from throughline.contracts.engine import EngineInfo, EngineSpec, SamplingParams, StepOutput
from throughline.engines import Vocabulary
from throughline.engines.cpu.runtime import CpuEngineRuntime
from throughline.triton.batching import Scheduler, SchedulerSettings, Snapshot
from throughline.triton.frames import Step, from_engine
from throughline.triton.requests import GenerateRequest
from throughline.triton.streaming import FlushPolicy, Message

EXAMPLES = int(os.environ.get("THROUGHLINE_STREAM_EXAMPLES", "120"))
EOS, EOS_TEXT = 0, b"</s>"
NONE, STOP, LENGTH = 0, 1, 2


@dataclass(frozen=True)
class Answer:
    """What the model says to one request, in pieces of bytes, and what the client asked for.

    `steps` are the numbers of pieces after which a step ends; None for one piece a step.
    """

    pieces: tuple[bytes, ...]
    steps: tuple[int, ...] | None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    stream: bool = True
    echo: str = ""


def scored(count: int) -> tuple[float, ...]:
    return tuple(-index / 8 for index in range(count))


class Handle:
    """Gives the tokens of one request, as many at a time as its steps say."""

    def __init__(self, tokens: Sequence[int], steps: Sequence[int], reason: int) -> None:
        self._tokens, self._reason = list(tokens), reason
        self._edges = list(pairwise([0, *steps, len(tokens)]))
        self._ready: tuple[int, int] | None = None
        self.open = True

    def step(self) -> None:
        start, end = self._edges.pop(0)
        self._ready = (start, end) if end > start or not self._edges else None
        self.open = self.open and bool(self._edges)

    def can_read(self) -> bool:
        return self._ready is not None

    def read(self) -> dict[int, Any]:
        assert self._ready is not None
        (start, end), self._ready = self._ready, None
        reason = NONE if self._edges else self._reason
        probabilities = scored(end)[start:]
        return {
            0: SimpleNamespace(
                generated_ids=self._tokens[start:end], generated_log_probs=probabilities, finish_reason=reason
            )
        }

    def get_status(self) -> Any:
        import openvino_genai

        return openvino_genai.GenerationStatus.RUNNING

    def stop(self) -> None:
        self.open = False


class Pipeline:
    """Plays answers; the prompt of a request is the number of its answer."""

    def __init__(self, answers: Sequence[Answer], ids: dict[bytes, int]) -> None:
        self._answers, self._ids = answers, ids
        self._handles: list[Handle] = []

    def add_request(self, number: int, prompt: Any, config: Any) -> Handle:
        answer = self._answers[int(prompt.data[0][0])]
        tokens = [self._ids[piece] for piece in answer.pieces]
        ended = EOS in tokens and not answer.ignore_eos
        if ended:
            tokens = tokens[: tokens.index(EOS) + 1]
        steps = range(1, len(tokens)) if answer.steps is None else sorted({s for s in answer.steps if s < len(tokens)})
        self._handles.append(Handle(tokens, steps, STOP if ended else LENGTH))
        return self._handles[-1]

    def has_non_finished_requests(self) -> bool:
        return any(handle.open for handle in self._handles)

    def step(self) -> None:
        for handle in self._handles:
            if handle.open:
                handle.step()

    def get_metrics(self) -> Any:
        return SimpleNamespace(scheduled_requests=0, cache_usage=0.0, kv_cache_size_in_bytes=1)


class Framed(CpuEngineRuntime):
    """Gives its outputs as they come out of the engine's own process."""

    def step(self) -> list[StepOutput]:
        step = Step(super().step(), self.stats(), 0, self.has_work())
        frame = from_engine.decode(msgspec.msgpack.encode(step))
        assert isinstance(frame, Step)
        return frame.outputs


class Client:
    """A `Channel` that writes down what it is told."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.error = ""

    def send(self, message: Message, *, final: bool) -> None:
        assert bool(message.finish_reason) == final and not self.ended
        # As it goes over the wire.
        message.text.encode()
        self.messages.append(message)

    def fail(self, code: str, text: str) -> None:
        self.error = f"{code}: {text}"

    def close(self) -> None:
        self.error = "closed"

    def is_cancelled(self) -> bool:
        return False

    @property
    def ended(self) -> bool:
        return bool(self.error or (self.messages and self.messages[-1].finish_reason))


class NoMetrics:
    def update(self, snapshot: Snapshot) -> None:
        pass

    def observe(self, prompt_tokens: int, completion_tokens: int) -> None:
        pass


def serve(answers: Sequence[Answer], policy: FlushPolicy, pauses: Sequence[float]) -> list[Client]:
    """Every answer to a client of its own, all together; the pauses are those between steps, over and over."""
    pieces = [EOS_TEXT, *sorted({piece for answer in answers for piece in answer.pieces} - {EOS_TEXT})]
    info = EngineInfo.model_construct(
        name="scripted", vocab_size=len(answers), eos_token_ids=(EOS,), spec=EngineSpec(max_seq_len=10**6)
    )
    now = 0.0
    scheduler = Scheduler(
        lambda: Framed(
            info,
            info.spec,
            Vocabulary(pieces),
            lambda: Pipeline(answers, {piece: token for token, piece in enumerate(pieces)}),
            kv_blocks=10**9,
        ),
        SchedulerSettings(flush=policy),
        metrics=NoMetrics(),
        fatal=lambda: None,
        clock=lambda: now,
    )
    clients = []
    for number, answer in enumerate(answers):
        clients.append(Client())
        params = SamplingParams(
            max_tokens=10**5,
            stop=answer.stop,
            ignore_eos=answer.ignore_eos,
            min_tokens=answer.min_tokens,
            logprobs=True,
        )
        scheduler.put(clients[-1], GenerateRequest((number,), params, answer.stream, answer.echo))
    for turn in range(10**4):
        if all(client.ended for client in clients):
            break
        now += pauses[turn % len(pauses)]
        scheduler.take(block=False)
        scheduler.iterate()
    return clients


def expected(answer: Answer) -> tuple[str, str, int]:
    """The oracle: text, finish reason and number of tokens, from all bytes at once."""
    pieces = list(answer.pieces)
    ended = EOS_TEXT in pieces and not answer.ignore_eos
    if ended:
        pieces = pieces[: pieces.index(EOS_TEXT)]
    free = min(answer.min_tokens, len(pieces)) if answer.min_tokens else 0
    begun = decode(b"".join(pieces[:free]))
    for count in range(free, len(pieces) + 1):
        text, stopped = cut(decode(b"".join(pieces[:count]))[len(begun) :], answer.stop)
        if stopped:
            return begun + text, "stop", count
    return decode(b"".join(pieces)), "stop" if ended else "length", len(pieces) + ended


CHARACTERS = st.one_of(
    st.sampled_from(list("abc\n ")),
    st.characters(codec="utf-8"),
    st.sampled_from(
        ["👩‍👩‍👧‍👦", "🏳️‍🌈", "e\u0301", "\u0000", "\u2028", "\x85", "\ufeff", "\u202e", "\r\n", "\U0010ffff", "\ufffd"]
    ),
)
BYTES = st.lists(st.one_of(CHARACTERS.map(str.encode), st.binary(min_size=1, max_size=4)), max_size=24).map(b"".join)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    data = draw(BYTES)
    text = decode(data)
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=16))
    pieces = [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        pieces.insert(draw(st.integers(0, len(pieces))), EOS_TEXT)
    if not draw(st.booleans()) or not pieces:
        pieces.append(b"")

    def stop() -> str:
        start = draw(st.integers(0, len(text)))
        return text[start : start + draw(st.integers(0, 5))] + draw(st.sampled_from(("", "", "a", "\n")))

    return Answer(
        tuple(pieces),
        tuple(draw(st.lists(st.integers(0, len(pieces)), max_size=8))) if draw(st.booleans()) else None,
        tuple(
            stop() if draw(st.booleans()) else draw(st.text("abc\n", max_size=3))
            for _ in range(draw(st.integers(0, 4)))
        ),
        ignore_eos=draw(st.booleans()),
        min_tokens=draw(st.sampled_from((0, 0, 1, 4))),
        stream=draw(st.booleans()),
        echo=draw(st.sampled_from(("", "> ", "a"))),
    )


POLICIES = st.builds(
    FlushPolicy, st.integers(1, 8), st.sampled_from((0.0, 0.02, 0.1)), st.sampled_from((1.0, 20.0, 400.0, 1e9))
)


@settings(max_examples=EXAMPLES)
@given(
    st.lists(answers(), min_size=1, max_size=3),
    POLICIES,
    st.lists(st.sampled_from((0.0, 0.001, 0.05, 0.3)), min_size=1, max_size=5),
)
def test_a_stream_is_the_whole_answer(said: list[Answer], policy: FlushPolicy, pauses: list[float]) -> None:
    for answer, client in zip(said, serve(said, policy, pauses), strict=True):
        text, reason, tokens = expected(answer)
        assert not client.error
        assert "".join(message.text for message in client.messages) == answer.echo + text
        last = client.messages[-1]
        assert (last.finish_reason, last.completion_tokens) == (reason, tokens)
        assert sum(len(message.token_ids) for message in client.messages) == tokens
        assert sum((message.log_probs for message in client.messages), ()) == scored(tokens)
        assert answer.stream or len(client.messages) == 1
