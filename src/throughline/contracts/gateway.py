"""The OpenAI-compatible gateway: where it listens, who may use it, which models it serves, its limits and timeouts."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel
from throughline.contracts.tracing import GatewayTracing

# Steps of priority in each direction, as the engine model takes them.
MAX_PRIORITY = 100


ContractName = Literal["throughline", "bls", "llmapi"]


class ModelRoute(StrictModel):
    """One model that clients can name.

    Attributes:
        id: The name in OpenAI requests.
        upstream: `host:port` of Triton's gRPC endpoint.
        triton_model: Name of the engine model on Triton.
        engine_dir: Engine folder with `engine.json`, `tokenizer.json` and the chat template. For the contracts `bls`
            and `llmapi` a folder without `engine.json` does: a checkpoint's, or any with the tokenizer's files and
            the `config.json` of the checkpoint or of TensorRT-LLM's engine.
        contract: What the engine model speaks: ours (token ids in, counts out), that of TensorRT-LLM's
            `tensorrt_llm_bls` and `ensemble`, or that of its `llmapi` layout. The last two read and write text alone.
        add_special_tokens: Whether such an engine's tokenizer puts its own tokens around the text; None for what the
            layout does by default, which is no for `bls` as we render it and yes for `llmapi`.
        max_seq_len: Prompt plus output tokens of one request; None for what the folder says.

    Whether a model makes text or embeddings its `engine.json` says; `contract` is of the former alone.
    """

    id: str = Field(min_length=1)
    upstream: str = Field(default="127.0.0.1:8001", pattern=r"^[^/\s]+:\d+$")
    triton_model: str = Field(min_length=1)
    engine_dir: Path
    contract: ContractName = "throughline"
    add_special_tokens: bool | None = None
    max_seq_len: int | None = Field(default=None, ge=2)


class GatewayLimits(StrictModel):
    """What the gateway takes on at a time; beyond it a request is refused at once.

    Attributes:
        max_body_bytes: Largest request body (413 beyond).
        max_body_depth: Deepest nesting of arrays and objects in a body, told before it is parsed (400 beyond).
        max_unread_bytes: Bytes of all bodies that have come and are not parsed yet; beyond it one that is larger than
            an equal share gets a 429.
        max_concurrent_requests: Requests in the engine at a time (429 beyond); each choice is one.
        max_concurrent_tokens: Prompt plus requested output tokens of all choices in the engine at a time (429 beyond).
        max_choices: Choices of one request: `n`, over all its prompts (400 beyond).
        max_inputs: Texts to embed of one request (400 beyond).
        max_header_bytes: Largest path and headers of a request, 32 bytes added for each header (431 beyond).
        max_connections: Open connections of each worker. For one more, that one is closed which has waited longest
            for a request; where all are busy the new one gets a 429.
    """

    max_body_bytes: int = Field(default=4 * 2**20, ge=1024)
    max_body_depth: int = Field(default=64, ge=4, le=500)
    max_unread_bytes: int = Field(default=64 * 2**20, ge=1024)
    max_concurrent_requests: int = Field(default=256, ge=1)
    max_concurrent_tokens: int = Field(default=262_144, ge=1)
    max_choices: int = Field(default=8, ge=1)
    max_inputs: int = Field(default=2048, ge=1)
    max_header_bytes: int = Field(default=32 * 2**10, ge=1024)
    max_connections: int = Field(default=4096, ge=1)


class GatewayTimeouts(StrictModel):
    """Seconds that each hop may take.

    Attributes:
        header_seconds: Until the head of a request has come, from its first byte or from the connection (408 beyond).
        unread_seconds: For a client that reads nothing of what waits for it; then its connection and its request end.
        body_seconds: Until the whole request body has come (408 beyond).
        ready_seconds: For the upstream's answer to a readiness question.
        first_token_seconds: From sending the request upstream to its first token, or a text to its embedding (504
            beyond).
        inter_token_seconds: Between two upstream messages of a stream.
        total_seconds: For a whole request.
        drain_seconds: For running requests after SIGTERM.
        keep_alive_seconds: For an idle client connection.
        sse_keep_alive_seconds: Without a token, after which a stream sends a comment, so that proxies keep it open; 0
            for never. The status is 200 from the first one on, and a later error is the stream's last event.
    """

    header_seconds: float = Field(default=10.0, gt=0)
    unread_seconds: float = Field(default=30.0, gt=0)
    body_seconds: float = Field(default=30.0, gt=0)
    ready_seconds: float = Field(default=2.0, gt=0)
    first_token_seconds: float = Field(default=60.0, gt=0)
    inter_token_seconds: float = Field(default=30.0, gt=0)
    total_seconds: float = Field(default=600.0, gt=0)
    drain_seconds: float = Field(default=30.0, gt=0)
    keep_alive_seconds: int = Field(default=75, ge=1)
    sse_keep_alive_seconds: float = Field(default=15.0, ge=0)


StreamUse = Literal["request", "multiplexed"]


class UpstreamSettings(StrictModel):
    """How Triton is asked, and what is done about a deployment that fails.

    Attributes:
        stream: Whether each request has a gRPC stream of its own, or all requests to a Triton share one, as far as
            their models can (contract `throughline`) and they are not traced.
        stream_whole_answers: Whether engines in TensorRT-LLM's contracts stream answers that their clients get whole:
            the limits for a first and a next token hold for them then, at the cost of a message a token. Engines of
            ours say in few messages that such an answer goes on.
        max_retries: How often a request that has shown nothing yet is sent again while the engine is away; within a
            budget of a tenth of the traffic.
        breaker_failures: Failures in a row after which requests are refused at once (503).
        breaker_seconds: Time between two requests that find out whether it is back.
    """

    stream: StreamUse = "request"
    stream_whole_answers: bool = False
    max_retries: int = Field(default=2, ge=0)
    breaker_failures: int = Field(default=10, ge=1)
    breaker_seconds: float = Field(default=1.0, gt=0)


class KeySettings(StrictModel):
    """Who may use the gateway: API keys, what each has used, and answers kept for `Idempotency-Key`.

    Attributes:
        store: `sqlite:///FILE` (relative; `sqlite:////FILE` is absolute) for the gateways of one machine,
            `redis://[user:password@]host:port/db` (`rediss://` with TLS) for those of many. Not in `repr`. None asks
            nobody for a key, and then nothing below counts.
        lease_seconds: How long a request of a gateway that died holds its place among its key's concurrent ones.
        idempotency_seconds: How long an answer is given again for the same `Idempotency-Key`.
        max_kept_answer_bytes: Answers larger than this are not kept.
    """

    store: str | None = Field(default=None, repr=False, pattern=r"^(sqlite:///.+|rediss?://[^/\s]+(/\d+)?)$")
    lease_seconds: float = Field(default=30.0, ge=1)
    idempotency_seconds: int = Field(default=24 * 3600, ge=1)
    max_kept_answer_bytes: int = Field(default=2**20, ge=0)


class GatewaySpec(StrictModel):
    """Everything that `throughline.gateway.serve` needs.

    Attributes:
        host: Address to listen on; one beyond loopback needs `keys.store`, or `allow_open`.
        port: Port; 0 takes a free one.
        workers: Processes that share the port, for more than one core can do; every limit is that of all together.
        keys: See `KeySettings`.
        allow_open: Lets anyone who reaches `host` use the gateway without a key.
        models: At least one, with distinct ids.
        unknown_fields: Whether a field that we do not know is a 400 or passes unseen.
        limits: See `GatewayLimits`.
        timeouts: See `GatewayTimeouts`.
        upstream: See `UpstreamSettings`.
        tracing: See `GatewayTracing`.
        log_format: One JSON object a line, or lines for people.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    workers: int = Field(default=1, ge=1, le=64)
    keys: KeySettings = KeySettings()
    allow_open: bool = False
    models: tuple[ModelRoute, ...] = Field(min_length=1)
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    limits: GatewayLimits = GatewayLimits()
    timeouts: GatewayTimeouts = GatewayTimeouts()
    upstream: UpstreamSettings = UpstreamSettings()
    tracing: GatewayTracing = GatewayTracing()
    log_format: Literal["human", "json"] = "human"

    @model_validator(mode="after")
    def _ids_are_distinct(self) -> Self:
        ids = [model.id for model in self.models]
        if len(set(ids)) != len(ids):
            raise ValueError(f"two models share an id: {', '.join(ids)}")
        return self

    @model_validator(mode="after")
    def _open_only_on_loopback(self) -> Self:
        check_open(self.host, self.keys, allow_open=self.allow_open)
        return self


def check_open(host: str, keys: KeySettings, *, allow_open: bool) -> None:
    """Refuses an address beyond loopback where nobody is asked for a key.

    Raises:
        ValueError: Saying what to do.
    """
    if keys.store is None and not allow_open and not _is_loopback(host):
        raise ValueError(
            f"anyone who reaches {host!r} could use the gateway: set keys.store and create keys with "
            "`python -m recipes.keys action=create`, listen on 127.0.0.1, or set allow_open=true"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
