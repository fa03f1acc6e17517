"""When a streamed token leaves: alone while messages are few, coalesced when they would be many."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from throughline.contracts.engine import StepOutput

_DECAY = 0.9


@dataclass(frozen=True)
class FlushPolicy:
    """See `ServeSpec`; the interval is in seconds."""

    stream_interval_tokens: int = 8
    flush_interval_seconds: float = 0.1
    max_responses_per_second: float = 400.0


@dataclass
class RateMeter:
    """Tokens a second over the last ten steps or so, forgotten when the engine goes idle."""

    _tokens: float = 0.0
    _seconds: float = 0.0
    _last: float | None = None

    def add(self, tokens: int, now: float) -> None:
        """Counts one step that ended at `now`."""
        if self._last is not None:
            self._tokens = self._tokens * _DECAY + tokens
            self._seconds = self._seconds * _DECAY + max(now - self._last, 1e-6)
        self._last = now

    def reset(self) -> None:
        """Forgets everything; the next step has no predecessor."""
        self._tokens = self._seconds = 0.0
        self._last = None

    def per_second(self) -> float:
        """Returns the rate, 0 before the second step."""
        return self._tokens / self._seconds if self._seconds else 0.0


def tokens_per_message(policy: FlushPolicy, tokens_per_second: float) -> int:
    """Returns how many tokens of one stream share a message so that all streams stay in the budget."""
    wanted = math.ceil(tokens_per_second / policy.max_responses_per_second)
    return min(max(wanted, 1), policy.stream_interval_tokens)


@dataclass(frozen=True)
class TokenTimes:
    """When a request came, went into the engine and had its tokens, in seconds of the scheduler's clock."""

    arrival: float
    first_scheduled: float
    first_token: float
    last_token: float


@dataclass(frozen=True)
class Message:
    """What one response carries; see the outputs in `model_config`.

    `finish_reason` is empty until the last message; the token counts and `cum_log_prob` are cumulative. `log_probs`
    are those of `token_ids`; both are None and empty where nobody asked for them, and `times` is None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    log_probs: tuple[float, ...] = ()
    cum_log_prob: float | None = None
    times: TokenTimes | None = None


@dataclass
class Outbox:
    """Output of one request that its client has not seen yet; `now` is when it came.

    With `interval_seconds` messages go no more often than that, whatever the policy.
    """

    echo: str
    now: float
    wants_log_probs: bool = False
    wants_times: bool = False
    interval_seconds: float | None = None
    _text: list[str] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _log_probs: list[float] = field(default_factory=list)
    _cum_log_prob: float = 0.0
    _sent: bool = False
    _prompt_tokens: int = 0
    _completion_tokens: int = 0
    _times: TokenTimes | None = None

    def __post_init__(self) -> None:
        self._arrival = self._scheduled = self.now

    def scheduled(self, now: float) -> None:
        """The engine has got the request."""
        self._scheduled = now

    def add(self, output: StepOutput, now: float) -> None:
        """Takes the output of a step that ended at `now`."""
        if self.wants_times and output.token_ids:
            first = now if self._times is None else self._times.first_token
            self._times = TokenTimes(self._arrival, self._scheduled, first, now)
        self._text.append(output.text)
        self._ids.extend(output.token_ids)
        self._log_probs.extend(output.logprobs)
        self._prompt_tokens = output.prompt_tokens
        self._completion_tokens = output.completion_tokens

    @property
    def completion_tokens(self) -> int:
        """Tokens so far, sent or not."""
        return self._completion_tokens

    def due(self, policy: FlushPolicy, tokens: int, now: float) -> bool:
        """Returns whether a message should go: the first token, `tokens` of them, or one that is old."""
        if not self._ids:
            return False
        if self.interval_seconds is not None:
            return now - self.now >= self.interval_seconds
        return not self._sent or len(self._ids) >= tokens or now - self.now >= policy.flush_interval_seconds

    def take(self, now: float, finish_reason: str = "") -> Message:
        """Empties the box into a message."""
        text = "".join(self._text)
        if not self._sent:
            text = self.echo + text
        log_probs = tuple(self._log_probs)
        self._cum_log_prob += sum(log_probs)
        message = Message(
            text,
            tuple(self._ids),
            finish_reason,
            self._prompt_tokens,
            self._completion_tokens,
            log_probs,
            self._cum_log_prob if self.wants_log_probs else None,
            self._times,
        )
        self._text.clear()
        self._ids.clear()
        self._log_probs.clear()
        self._sent = True
        self.now = now
        return message
