"""A service that runs already, as a benchmark's target: any server of OpenAI's chat completions, by its address.

vLLM, SGLang, TensorRT-LLM's own server, NIM, a gateway of ours on another machine: what is read of it are its streams,
`/v1/models`, and `/metrics` where it has the names of vLLM or SGLang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
import yaml
from pydantic import Field, model_validator

from recipes.opening import LOOPBACK, Opened, Pids, process_tree
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError, DeployError
from throughline.contracts.text import shorten

_ANSWER_SECONDS = 10.0
# Of vLLM (docs.vllm.ai, "Production Metrics"), ours too, with older names behind newer ones, and of SGLang.
_NAMES = {
    "scheduled": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "kv_cache_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "prompt_tokens": ("vllm:prompt_tokens_total", "sglang:prompt_tokens_total"),
    # In tokens, as their documentation has it.
    "reused_tokens": (
        "vllm:prefix_cache_hits_total",
        "vllm:gpu_prefix_cache_hits_total",
        "sglang:cached_tokens_total",
    ),
    "paused_requests": ("vllm:num_preemptions_total", "sglang:num_retracted_requests_total"),
}


class Endpoint(StrictModel):
    """Where a service is, and what it cannot say of itself.

    Attributes:
        url: `http://host:port`, with the path before `/v1` if there is one, and without a password, since reports show
            it; None to start the targets instead.
        model: Name of the model there; None where it serves one only.
        tokenizer: Folder of the model's tokenizer and chat template: an engine, a checkpoint.
        max_seq_len: Prompt plus output tokens of one request; None for what `/v1/models` says (`max_model_len`).
        api_keys: YAML file of bearer tokens by tenant of the workload, `""` for requests without one.
        body: Fields of every request, over ours; one that is null is left out. `ignore_eos`, by which answers get the
            length that the workload asks for, is no field of OpenAI's: a server without it needs `ignore_eos: null`.
    """

    url: str | None = Field(default=None, pattern=r"^https?://[^/\s@]+(/[^\s@]*)?$")
    model: str | None = None
    tokenizer: Path | None = None
    max_seq_len: int | None = Field(default=None, ge=2)
    api_keys: Path | None = None
    body: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.url is not None and self.tokenizer is None:
            raise ValueError(
                "prompts are counted in the model's tokens: give endpoint.tokenizer=<folder of checkpoint or engine>"
            )
        return self

    @property
    def address(self) -> str:
        """The address without `/v1`.

        Raises:
            ConfigError: If there is none.
        """
        if self.url is None:
            raise ConfigError(
                "no endpoint", where="endpoint.url", fix="give its address: endpoint.url=http://host:8000"
            )
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return urlsplit(self.address).hostname in LOOPBACK

    def keys(self) -> dict[str, str]:
        """Reads the bearer tokens.

        Raises:
            ConfigError: If the file has none.
        """
        if self.api_keys is None:
            return {}
        try:
            found = yaml.safe_load(self.api_keys.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            # Without what stands there: it is secret.
            raise ConfigError(
                "keys cannot be read",
                where=f"endpoint.api_keys={self.api_keys}",
                seen=type(error).__name__,
                fix='write a line a tenant, `support: sk-…`, and `"": sk-…` for requests without one',
            ) from None
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found.values()):
            raise ConfigError(
                "file is no mapping of tenants to keys",
                where=f"endpoint.api_keys={self.api_keys}",
                seen=type(found).__name__,
                fix='write a line a tenant, `support: sk-…`, and `"": sk-…` for requests without one',
            )
        return {str(tenant): key for tenant, key in found.items()}


@contextlib.contextmanager
def attached(endpoint: Endpoint, *, timeout_seconds: float, web_port: int | None = None) -> Iterator[Opened]:
    """Attaches to a service for the length of the block; it is the target `gateway`.

    Raises:
        ConfigError: If it is not said which of its models is meant, or how long its context is.
        DeployError: If it cannot be reached.
    """
    from throughline.benchmarking.targets import LocustTarget

    keys = endpoint.keys()
    model, max_seq_len = _model(endpoint, keys)
    groups: dict[str, Pids] = {}
    if endpoint.here:
        groups["server"] = partial(_listening, urlsplit(endpoint.address).port or 80)
    with LocustTarget(
        endpoint.address,
        model,
        ignore_eos=True,
        timeout_seconds=timeout_seconds,
        api_keys=keys,
        web_port=web_port,
        body=endpoint.body,
    ) as target:
        groups["generator"] = lambda: target.processes.generators
        yield Opened(
            "gateway",
            target,
            groups,
            _gauges(endpoint.address, model),
            {"max_seq_len": max_seq_len},
            {"endpoint.url": endpoint.address, "endpoint.model": model, "endpoint.body": endpoint.body},
            Path(str(endpoint.tokenizer)),
            here=endpoint.here,
        )


def _model(endpoint: Endpoint, keys: Mapping[str, str]) -> tuple[str, int]:
    """Returns the model's name, and its context in tokens."""
    if endpoint.model is not None and endpoint.max_seq_len is not None:
        # A server that lists no models is none to refuse.
        return endpoint.model, endpoint.max_seq_len
    cards = _cards(endpoint, next(iter(keys.values()), ""))
    names = [str(card.get("id")) for card in cards]
    if endpoint.model is None and len(names) != 1:
        raise ConfigError(
            "it is not said which model is meant",
            where=f"{endpoint.address}/v1/models",
            seen=shorten(", ".join(names)) or "no model",
            fix="name one: endpoint.model=…",
        )
    name = endpoint.model or names[0]
    card = next((card for card in cards if card.get("id") == name), None)
    if card is None:
        raise ConfigError(
            "service has no such model",
            where=f"endpoint.model={name}",
            seen=shorten(", ".join(names)) or "no model",
            fix="name one that it has",
        )
    length = endpoint.max_seq_len or card.get("max_model_len")
    if not length:
        raise ConfigError(
            "service does not say how long its context is",
            where=f"{endpoint.address}/v1/models",
            seen=f"no max_model_len of {name}",
            fix="say it: endpoint.max_seq_len=4096",
        )
    return name, int(length)


def _cards(endpoint: Endpoint, key: str) -> list[dict[str, Any]]:
    import httpx

    url = f"{endpoint.address}/v1/models"
    try:
        answer = httpx.get(
            url, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=_ANSWER_SECONDS
        ).raise_for_status()
        found = answer.json()["data"]
        return [dict(card) for card in found]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise DeployError(
            "service cannot be asked for its models",
            where=url,
            seen=shorten(str(error)) or type(error).__name__,
            fix="is it up, and does it want a key (endpoint.api_keys=…)? Else give endpoint.model and "
            "endpoint.max_seq_len",
        ) from None


def _listening(port: int) -> list[int]:
    """Processes that listen on a port, and what they have started; none of another user's unless we are root."""
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return []
    # An address is host and port.
    listeners = {each.pid for each in found if each.status == psutil.CONN_LISTEN and port in each.laddr[1:]}
    return sorted({pid for listener in listeners if listener for pid in process_tree(listener)})


def _gauges(address: str, model: str) -> Callable[[], Mapping[str, float]] | None:
    """Returns what reads the service's gauges and counters; None where its page has none that we know."""
    import httpx

    from throughline.diagnosis.exposition import Page

    url = f"{address}/metrics"

    def read() -> dict[str, float]:
        try:
            page = Page(httpx.get(url, timeout=_ANSWER_SECONDS).raise_for_status().text, url)
        except (httpx.HTTPError, DeployError):
            # Not all servers have one, and one that is dying has none any more; the requests say so.
            return {}
        named = (
            (ours, page.total(theirs, model_name=model)) for ours, names in _NAMES.items() for theirs in reversed(names)
        )
        return {name: value for name, value in named if value is not None}

    return read if read() else None
