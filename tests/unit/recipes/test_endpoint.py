"""What is asked of a service that runs already, before any load."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recipes.bench import Config
from recipes.endpoint import Endpoint, attached
from throughline.contracts.errors import ConfigError, DeployError

WORKLOAD = {"input_tokens": 8, "output_tokens": 4, "longest_input_tokens": 16, "longest_output_tokens": 8}
METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{model_name="llama"} 3
vllm:num_requests_running{model_name="other"} 5
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{model_name="llama"} 2
# TYPE vllm:gpu_cache_usage_perc gauge
vllm:gpu_cache_usage_perc{model_name="llama"} 0.25
"""


class Service(ThreadingHTTPServer):
    """Says what models it has to whoever has the key, and how busy it is."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cards: list[dict[str, Any]] = [{"id": "llama", "max_model_len": 4096}]
        self.key = ""
        self.metrics = METRICS

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_GET(self) -> None:
        pages = {"/v1/models": json.dumps({"data": self.server.cards}), "/metrics": self.server.metrics}
        refused = self.server.key and self.headers.get("authorization") != f"Bearer {self.server.key}"
        text = pages.get(self.path, "")
        self.send_response(401 if refused else 200 if text else 404)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


def endpoint(service: Service, **more: Any) -> Endpoint:
    return Endpoint(url=service.url, tokenizer=Path("llama"), **more)


def test_it_says_its_model_its_context_and_how_busy_it_is(service: Service) -> None:
    with attached(endpoint(service), timeout_seconds=5) as found:
        assert found.settings["endpoint.model"] == "llama"
        assert found.spec == {"max_seq_len": 4096}
        assert found.gauges is not None
        assert found.gauges() == {"scheduled": 3, "waiting": 2, "kv_cache_usage": 0.25}
        assert found.here
        # This process listens, and is the service's.
        assert list(found.groups["server"]()) != []
        service.metrics = "no page of Prometheus {"
        assert found.gauges() == {}


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (
            "vllm:prompt_tokens_total 500\nvllm:prefix_cache_hits_total 120\nvllm:num_preemptions_total 3\n",
            {"prompt_tokens": 500, "reused_tokens": 120, "paused_requests": 3},
        ),
        (
            "sglang:num_running_reqs 4\nsglang:num_queue_reqs 1\nsglang:token_usage 0.5\n"
            'sglang:prompt_tokens_total 80\nsglang:cached_tokens_total{cache_source="device"} 30\n'
            'sglang:cached_tokens_total{cache_source="host"} 10\n',
            {"scheduled": 4, "waiting": 1, "kv_cache_usage": 0.5, "prompt_tokens": 80, "reused_tokens": 40},
        ),
    ],
)
def test_counters_in_the_names_of_its_server(service: Service, page: str, expected: dict[str, float]) -> None:
    lines = [
        line.replace("{", '{model_name="llama",') if "{" in line else line.replace(" ", '{model_name="llama"} ')
        for line in page.splitlines()
    ]
    service.metrics = "\n".join([*lines, ""])
    with attached(endpoint(service), timeout_seconds=5) as found:
        assert found.gauges is not None
        assert found.gauges() == expected


def test_one_without_gauges_is_measured_without(service: Service) -> None:
    service.metrics = ""
    with attached(endpoint(service), timeout_seconds=5) as found:
        assert found.gauges is None


@pytest.mark.parametrize(
    ("cards", "settings", "message"),
    [
        ([{"id": "a"}, {"id": "b"}], {}, r"which model is meant.*a, b.*endpoint.model"),
        ([{"id": "a"}, {"id": "b"}], {"model": "c"}, r"no such model.*a, b"),
        ([{"id": "a"}], {}, r"how long its context is.*endpoint.max_seq_len"),
    ],
)
def test_what_it_does_not_say_is_asked_of_the_user(
    service: Service, cards: list[dict[str, Any]], settings: dict[str, Any], message: str
) -> None:
    service.cards = cards
    with pytest.raises(ConfigError, match=message), attached(endpoint(service, **settings), timeout_seconds=5):
        pass


def test_settings_stand_for_what_it_does_not_say(service: Service) -> None:
    service.cards = [{"id": "a"}]
    with attached(endpoint(service, model="a", max_seq_len=512), timeout_seconds=5) as found:
        assert found.spec == {"max_seq_len": 512}


def test_keys_are_read_from_a_file_and_shown_nowhere(service: Service, tmp_path: Path) -> None:
    service.key = "sk-secret"
    with pytest.raises(DeployError, match=r"asked for its models.*401.*endpoint.api_keys"):
        attached(endpoint(service), timeout_seconds=5).__enter__()
    path = tmp_path / "keys.yaml"
    path.write_text('support: sk-secret\n"": sk-other\n')
    given = endpoint(service, api_keys=path)
    assert given.keys() == {"support": "sk-secret", "": "sk-other"}
    assert "sk-" not in repr(given)
    with attached(given, timeout_seconds=5) as found:
        assert "sk-" not in repr(found.settings)
    for text in ("sk-secret: [", "- sk-secret", "support: 3"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"support: sk-…") as caught:
            given.keys()
        assert "sk-secret" not in str(caught.value)


def test_one_that_is_not_there_is_said_so() -> None:
    given = Endpoint(url="http://127.0.0.1:9", tokenizer=Path("llama"))
    with pytest.raises(DeployError, match=r"127.0.0.1:9/v1/models.*is it up"):
        attached(given, timeout_seconds=5).__enter__()


@pytest.mark.parametrize("url", ["gpu-1:8000", "ftp://gpu-1", "http://me:secret@gpu-1:8000", "http://gpu-1/a b"])
def test_an_address_is_one_that_reports_may_show(url: str) -> None:
    with pytest.raises(ValidationError, match=r"url"):
        Endpoint(url=url, tokenizer=Path("llama"))


def test_prompts_are_counted_in_somebody_s_tokens() -> None:
    with pytest.raises(ValidationError, match=r"endpoint\.tokenizer"):
        Endpoint(url="http://127.0.0.1:8000")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give an endpoint a workload"),
        ({"workload": WORKLOAD, "settings": ["engine.max_num_tokens=2"]}, "an endpoint has its own"),
    ],
)
def test_an_endpoint_takes_a_workload_and_no_settings(settings: dict[str, Any], message: str) -> None:
    found = {"url": "http://127.0.0.1:8000", "tokenizer": "llama"}
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"profile": "laptop", "bench": {}, "endpoint": found, **settings})
