"""Closed-loop drivers for the engine in process, for Triton over gRPC and for the gateway through Locust."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from throughline.contracts.benchmark import BenchRequest, RequestRecord
from throughline.contracts.engine import EngineRuntime, SamplingParams
from throughline.contracts.errors import EngineError, InternalError, UserError


class Target(Protocol):
    """Something that answers requests and can be loaded at a given concurrency."""

    name: str

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """Sends `requests` with at most `concurrency` in flight and returns one record for each."""
        ...


class RawTarget:
    """The engine in this process: what the layers above can reach at most.

    Args:
        runtime: A loaded engine; nothing else may use it meanwhile.
        ignore_eos: Whether to generate exactly `max_tokens`.
    """

    name = "raw"

    def __init__(self, runtime: EngineRuntime, *, ignore_eos: bool) -> None:
        self._runtime = runtime
        self._ignore_eos = ignore_eos
        self._ids = itertools.count()

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`; the first token's time is when `step` returned it."""
        waiting = list(reversed(requests))
        active: dict[str, tuple[BenchRequest, float, float]] = {}
        records: list[RequestRecord] = []
        while waiting or active:
            while waiting and len(active) < concurrency:
                request = waiting.pop()
                request_id = f"raw-{next(self._ids)}"
                params = SamplingParams(max_tokens=request.max_tokens, ignore_eos=self._ignore_eos)
                active[request_id] = (request, time.perf_counter(), 0.0)
                self._runtime.submit(request_id, request.prompt_token_ids, params)
            for output in self._runtime.step():
                request, start, first = active[output.request_id]
                now = time.perf_counter()
                if output.token_ids and not first:
                    first = now
                    active[output.request_id] = (request, start, first)
                if output.finish_reason:
                    del active[output.request_id]
                    records.append(
                        RequestRecord(
                            request.scenario,
                            start,
                            first or now,
                            now,
                            output.prompt_tokens,
                            output.completion_tokens,
                            ok=output.finish_reason in {"stop", "length"},
                            error=output.error or "",
                        )
                    )
        return records


class TritonTarget:
    """Triton's gRPC stream through the stock `tritonclient`, one stream a request.

    Args:
        url: `host:port` of Triton's gRPC endpoint.
        model: Served model name.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
    """

    name = "triton"

    def __init__(self, url: str, model: str, *, ignore_eos: bool, timeout_seconds: float) -> None:
        self._url = url
        self._model = model
        self._ignore_eos = ignore_eos
        self._timeout = timeout_seconds

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`; the first token's time is when its message was read."""
        return asyncio.run(self._run(requests, concurrency))

    async def _run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        from tritonclient.grpc import aio

        waiting = list(reversed(requests))
        records: list[RequestRecord] = []
        async with aio.InferenceServerClient(self._url) as client:

            async def user() -> None:
                while waiting:
                    records.append(await self._one(client, waiting.pop()))

            await asyncio.gather(*(user() for _ in range(concurrency)))
        return records

    async def _one(self, client: Any, request: BenchRequest) -> RequestRecord:
        start = time.perf_counter()
        first = 0.0
        prompt_tokens = completion_tokens = 0
        error = ""
        inputs = self._inputs(request)

        async def once() -> Any:
            yield {"model_name": self._model, "inputs": inputs, "enable_empty_final_response": True}

        try:
            async with asyncio.timeout(self._timeout):
                stream = client.stream_infer(once())
                async for result, problem in stream:
                    if problem is not None:
                        error = str(problem)
                        break
                    first = first or time.perf_counter()
                    counted = result.as_numpy("completion_tokens")
                    if counted is not None:
                        completion_tokens = int(counted[0])
                        prompt_tokens = int(result.as_numpy("prompt_tokens")[0])
                    if result.get_response().parameters["triton_final_response"].bool_param:
                        break
        except TimeoutError:
            error = f"no end within {self._timeout} s"
        end = time.perf_counter()
        return RequestRecord(
            request.scenario, start, first or end, end, prompt_tokens, completion_tokens, ok=not error, error=error
        )

    def _inputs(self, request: BenchRequest) -> list[Any]:
        import numpy as np
        from tritonclient.grpc import InferInput

        values: list[tuple[str, str, Any]] = [
            ("input_ids", "INT32", np.asarray(request.prompt_token_ids, dtype=np.int32)),
            ("max_tokens", "INT32", np.asarray([request.max_tokens], dtype=np.int32)),
            ("stream", "BOOL", np.asarray([True])),
            ("ignore_eos", "BOOL", np.asarray([self._ignore_eos])),
        ]
        inputs = []
        for name, kind, value in values:
            tensor = InferInput(name, list(value.shape), kind)
            tensor.set_data_from_numpy(value)
            inputs.append(tensor)
        return inputs


class LocustTarget:
    """The gateway under Locust's streaming users, in a process of its own.

    Locust patches sockets and threads when it is imported, which hangs or breaks OpenVINO and gRPC, so
    it lives behind a pipe: one JSON line in, one JSON line out.

    Args:
        url: Base address of the gateway, e.g. `http://127.0.0.1:8080`.
        model: Served model name.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
        api_key: Bearer token, where the gateway asks for one.
    """

    name = "gateway"

    def __init__(
        self, url: str, model: str, *, ignore_eos: bool, timeout_seconds: float, api_key: str | None = None
    ) -> None:
        self._settings = {
            "url": url,
            "model": model,
            "ignore_eos": ignore_eos,
            "timeout_seconds": timeout_seconds,
            "api_key": api_key,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("locust_driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self._process.stdin:
                self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`; the first token's time is when its event was read.

        Raises:
            EngineError: If the load generator died.
        """
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise InternalError("Locust target is used outside `with`")
        cell = {"concurrency": concurrency, "requests": [asdict(item) for item in requests], **self._settings}
        self._process.stdin.write(json.dumps(cell) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(
                "the Locust process ended early",
                where=str(self._settings["url"]),
                seen=f"exit code {self._process.poll()}",
                fix="read its message above",
            )
        return [RequestRecord(**record) for record in json.loads(line)]


def require_success(records: Sequence[RequestRecord], target: str) -> None:
    """Checks that at least one request succeeded.

    Raises:
        UserError: With the first failure's text.
    """
    if records and not any(record.ok for record in records):
        raise UserError(
            "every request of the benchmark failed",
            where=target,
            seen=records[0].error,
            fix="check that the service is up with `python -m recipes.deploy action=status`",
        )
