"""Locust in a process of its own: reads one cell a line from stdin, writes its records as one line.

Run by `throughline.benchmarking.targets.LocustTarget`. Locust must be the first import that opens sockets.
"""

from __future__ import annotations

from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

import json  # isort: skip  Locust patches the standard library first
import time  # isort: skip
from typing import Any  # isort: skip

from geventhttpclient import HTTPClient  # isort: skip
from geventhttpclient.url import URL  # isort: skip

from throughline.benchmarking.child import Answers  # isort: skip


class CellEnvironment(Environment):
    """Locust's environment with the requests of one cell and what came of them."""

    def __init__(self, cell: dict[str, Any]) -> None:
        super().__init__(user_classes=[StreamingUser], host=cell["url"])
        self.cell = cell
        self.waiting: list[dict[str, Any]] = list(reversed(cell["requests"]))
        self.records: list[dict[str, Any]] = []


class StreamingUser(User):
    """Sends chat completions with `stream=true`, one after another, and records when tokens came."""

    wait_time = staticmethod(lambda: 0)
    environment: CellEnvironment

    def on_start(self) -> None:
        """Opens this user's keep-alive connection."""
        cell = self.environment.cell
        self.client = HTTPClient.from_url(
            URL(cell["url"]),
            concurrency=1,
            connection_timeout=cell["timeout_seconds"],
            network_timeout=cell["timeout_seconds"],
        )

    def on_stop(self) -> None:
        """Closes the connection."""
        self.client.close()

    @task
    def chat(self) -> None:
        """Takes the next request of the cell, or ends this user when none is left."""
        waiting = self.environment.waiting
        if not waiting:
            raise StopUser
        record = self._one(waiting.pop())
        self.environment.records.append(record)
        self.environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="CHAT",
            name=record["scenario"],
            response_time=(record["end"] - record["start"]) * 1000,
            response_length=record["completion_tokens"],
            exception=None if record["ok"] else RuntimeError(record["error"]),
            context={},
        )

    def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        cell = self.environment.cell
        body: dict[str, Any] = {
            "model": cell["model"],
            "messages": request["messages"],
            "max_tokens": request["max_tokens"],
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request["tools"]:
            body["tools"] = request["tools"]
        if cell["ignore_eos"]:
            body["ignore_eos"] = True
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        if cell["api_key"]:
            headers["authorization"] = f"Bearer {cell['api_key']}"
        payload = json.dumps(body).encode()
        start = time.perf_counter()
        seen = _Stream()
        error = ""
        try:
            response = self.client.post("/v1/chat/completions", payload, headers)
            if response.status_code != 200:
                error = f"HTTP {response.status_code}: {bytes(response.read())[:200]!r}"
            else:
                # `read` would wait for a full buffer, and first tokens would look as late as last ones.
                while event := response.readline(b"\n\n"):
                    seen.feed(bytes(event))
                    if seen.done:
                        response.read()
                        break
                error = seen.error if seen.done else "stream ended without [DONE]"
        except Exception as problem:
            # Whatever it is, the request has failed, and a user that died of it would leave the cell waiting for ever.
            error = f"{type(problem).__name__}: {problem}"
        end = seen.last or time.perf_counter()
        return {
            "scenario": request["scenario"],
            "start": start,
            "first_token": seen.first or end,
            "end": end,
            "prompt_tokens": seen.prompt_tokens,
            "completion_tokens": seen.completion_tokens,
            "ok": not error,
            "error": error,
        }


class _Stream:
    """Reads server-sent events; keeps the times of the first and last one with text."""

    def __init__(self) -> None:
        self.rest = b""
        self.first = 0.0
        self.last = 0.0
        self.done = False
        self.error = ""
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def feed(self, chunk: bytes) -> None:
        now = time.perf_counter()
        *events, self.rest = (self.rest + chunk).split(b"\n\n")
        for event in events:
            if not event.startswith(b"data: "):
                continue
            if event == b"data: [DONE]":
                self.done = True
                continue
            data = json.loads(event[6:])
            if "error" in data:
                self.error = str(data["error"].get("message"))
            usage = data.get("usage")
            if usage:
                self.prompt_tokens = usage["prompt_tokens"]
                self.completion_tokens = usage["completion_tokens"]
            choices = data.get("choices")
            if choices and (choices[0]["delta"].get("content") or choices[0]["delta"].get("tool_calls")):
                self.first = self.first or now
                self.last = now


def run_cell(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs one cell to its end and returns its request records."""
    environment = CellEnvironment(cell)
    runner = environment.create_local_runner()
    runner.start(cell["concurrency"], spawn_rate=10_000, wait=True)
    import gevent

    while len(environment.records) < len(cell["requests"]):
        gevent.sleep(0.02)
    runner.quit()
    return list(environment.records)


if __name__ == "__main__":
    Answers().serve(run_cell)
