"""Locust in a process of its own: reads one load a line from stdin, writes its records as one line.

Run by `throughline.benchmarking.targets.LocustTarget`. Locust must be the first import that opens sockets. An open
loop has one greenlet for each session, which leaves when its session is due, however many have not come back;
latencies count from then, so that a slow server or a slow client hides no waiting (Tene's coordinated omission). They
end when bytes have come to the socket, before this process has parsed them.
"""

from __future__ import annotations

from locust import User, task
from locust.env import Environment
from locust.exception import StopUser

import logging  # isort: skip
import time  # isort: skip  Locust patches the standard library first
from collections import deque  # isort: skip
from typing import Any  # isort: skip
from urllib.parse import urlsplit  # isort: skip

import gevent  # isort: skip
import orjson  # isort: skip
from geventhttpclient.url import URL  # isort: skip

from throughline.benchmarking.child import Answers  # isort: skip
from throughline.benchmarking.events import EventReader, refusal  # isort: skip
from throughline.benchmarking.timing import Alarm, StampedClient  # isort: skip

_SPAWN_RATE = 10_000
_PATH = "/v1/chat/completions"
# A session wakes so long before it is due, and its bytes leave when they are due: the kernel wakes a sleeper 0.2 ms
# late on two cores of a virtual machine, and writing a request takes 0.5 ms.
_LEAD_SECONDS = 0.001
# A request's body and headers.
Payload = tuple[bytes, dict[str, str]]


class LoadEnvironment(Environment):
    """Locust's environment with a load, and what came of it; see `contracts.benchmark.Load` for its fields."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.load: dict[str, Any] = message["load"]
        self.settings = message
        self.path = urlsplit(message["url"]).path.rstrip("/") + _PATH
        users = ClosedLoopUser if self.load["due"] is None else OpenLoopUser
        super().__init__(user_classes=[users], host=message["url"])
        self.records: list[dict[str, Any]] = []
        self.untaken = deque(range(len(self.load["sessions"])))
        self.running = self.load["users"] if self.load["due"] is None else 1
        self.idle: list[StampedClient] = []
        self.began = 0.0
        self.end = float("inf")

    def begin(self) -> None:
        """Starts the load's clock."""
        self.began = time.perf_counter()
        if self.load["seconds"] is not None:
            self.end = self.began + self.load["seconds"]

    def connection(self) -> StampedClient:
        """A keep-alive connection that nobody uses."""
        if self.idle:
            return self.idle.pop()
        url = URL(self.settings["url"])
        seconds = self.load["timeout_seconds"]
        return StampedClient(url.host, port=url.port, ssl=url.scheme == "https", timeout_seconds=seconds)

    def close(self) -> None:
        """Closes connections."""
        for client in self.idle:
            client.close()

    def payload(self, number: int) -> Payload:
        """The bytes of a session's first request."""
        return _payload(self, self.load["sessions"][number][0])

    def session(self, number: int, due: float | None, first: Payload) -> None:
        """Sends a session's turns, one after another; the first is ready."""
        for turn, request in enumerate(self.load["sessions"][number]):
            record = _send(self, request, _payload(self, request) if turn else first, due)
            record |= {"session": number, "turn": turn}
            self.records.append(record)
            self.events.request.fire(  # type: ignore[no-untyped-call]
                request_type="CHAT",
                name=record["scenario"],
                response_time=(record["end"] - (record["start"] if due is None else due)) * 1000,
                response_length=record["completion_tokens"],
                exception=None if record["ok"] else RuntimeError(record["error"]),
                context={},
            )
            if turn + 1 == len(self.load["sessions"][number]):
                return
            due = self.think()
            if time.perf_counter() >= self.end:
                return

    def think(self) -> float | None:
        """Waits as long as a reader does; returns when that was over, None if there is nothing to wait for."""
        seconds: float = self.load["think_seconds"]
        if not seconds:
            return None
        due: float = time.perf_counter() + seconds
        gevent.sleep(seconds)
        return due


class _LoadUser(User):
    abstract = True
    wait_time = staticmethod(lambda: 0)
    environment: LoadEnvironment

    def on_stop(self) -> None:
        """Says that this user is done."""
        self.environment.running -= 1


class ClosedLoopUser(_LoadUser):
    """Takes one session after another until none is left or the time is over."""

    @task
    def next_session(self) -> None:
        """One session, and the time that its reader thinks."""
        environment = self.environment
        if not environment.untaken or time.perf_counter() >= environment.end:
            raise StopUser
        number = environment.untaken.popleft()
        environment.session(number, None, environment.payload(number))
        if environment.untaken:
            environment.think()


class OpenLoopUser(_LoadUser):
    """Lets every session leave when it is due."""

    @task
    def all_sessions(self) -> None:
        """All of the load."""
        environment = self.environment
        gone = []
        with Alarm() as alarm:
            for number, due in enumerate(environment.load["due"]):
                payload, at = environment.payload(number), environment.began + due
                alarm.wait_until(at - _LEAD_SECONDS)
                gone.append(gevent.spawn(environment.session, number, at, payload))
        gevent.joinall(gone)
        raise StopUser


def _send(environment: LoadEnvironment, request: dict[str, Any], payload: Payload, due: float | None) -> dict[str, Any]:
    seen = EventReader()
    error = kind = ""
    left = False
    client = environment.connection()
    client.begin(due or 0.0)
    keep = False
    start = time.perf_counter()
    try:
        with gevent.Timeout(environment.load["timeout_seconds"]):
            response = client.post(environment.path, *payload)
            if response.status_code != 200:
                error, kind = refusal(response.status_code, bytes(response.read()))
                keep = True
            else:
                # `read` would wait for a full buffer, and first tokens would look as late as last ones.
                # By lines, since servers end them with one character or with two.
                while event := response.readline(b"\n"):
                    seen.feed(bytes(event), client.stamps.came)
                    if request["cancel_after"] and seen.messages >= request["cancel_after"]:
                        left = True
                        break
                    if seen.done:
                        response.read()
                        keep = True
                        break
                if seen.error:
                    error, kind = seen.error, seen.error_type
                elif not (seen.done or seen.finished or left):
                    error, kind = "stream ended without [DONE] or a finish_reason", "incomplete"
                keep = keep or (seen.finished and not left)
    except gevent.Timeout:
        error, kind = f"no end within {environment.load['timeout_seconds']:g} s", "timeout"
    except Exception as problem:
        # Whatever it is, the request has failed, and a user that died of it would leave the load waiting for ever.
        error, kind = f"{type(problem).__name__}: {problem}", type(problem).__name__
    if keep:
        environment.idle.append(client)
    else:
        client.close()
    end = seen.last or time.perf_counter()
    return {
        "scenario": request["scenario"],
        "start": client.stamps.sent or start,
        "first_token": seen.first or end,
        "end": end,
        "prompt_tokens": seen.prompt_tokens,
        "completion_tokens": seen.messages if left else seen.completion_tokens,
        "ok": not error,
        "error": error,
        "error_type": kind,
        "due": due,
        "gaps": seen.gaps,
        "tenant": request["tenant"],
        "cancelled": left,
    }


def _payload(environment: LoadEnvironment, request: dict[str, Any]) -> Payload:
    settings = environment.settings
    body: dict[str, Any] = {
        "model": settings["model"],
        "messages": request["messages"],
        "max_tokens": request["max_tokens"],
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request["tools"]:
        body["tools"] = request["tools"]
    if environment.load["ignore_eos"]:
        body["ignore_eos"] = True
    if request["tenant"]:
        body["user"] = request["tenant"]
    body |= settings["body"]
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    key = settings["api_keys"].get(request["tenant"])
    if key:
        headers["authorization"] = f"Bearer {key}"
    if request["trace_parent"]:
        headers["traceparent"] = request["trace_parent"]
    return orjson.dumps({name: value for name, value in body.items() if value is not None}), headers


def run_load(message: dict[str, Any]) -> dict[str, Any]:
    """Runs one load to its end and returns when it began and its records."""
    environment = LoadEnvironment(message)
    runner = environment.create_local_runner()
    interface = environment.create_web_ui("127.0.0.1", message["web_port"]) if message["web_port"] else None
    environment.begin()
    runner.start(environment.running, spawn_rate=_SPAWN_RATE, wait=True)
    while environment.running:
        gevent.sleep(0.02)
    runner.quit()
    if interface is not None:
        interface.stop()  # type: ignore[no-untyped-call]
    environment.close()
    return {"began": environment.began, "records": environment.records}


if __name__ == "__main__":
    # It warns of every load that all users start at once, as they should.
    logging.getLogger("locust.runners").setLevel(logging.ERROR)
    Answers().serve(run_load)
