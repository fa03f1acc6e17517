"""What a closed loop of users loads: an engine alone, Triton over gRPC, and the gateway through Locust."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from throughline.benchmarking.child import Child
from throughline.contracts.benchmark import BenchRequest, RequestRecord
from throughline.contracts.errors import InternalError, UserError

# On top of what the requests of a cell may take: start of the child, loading of an engine.
_SPARE_SECONDS = 120.0


@dataclass(frozen=True)
class Processes:
    """Process ids: what answers, with all their children, and what asks, alone."""

    servers: tuple[int, ...]
    generators: tuple[int, ...] = ()


class Target(Protocol):
    """Something that answers requests and can be loaded at a given concurrency.

    `name` is the target's in tables; `below` is the name of the layer that it stands on, or "".
    """

    name: str
    below: str

    @property
    def processes(self) -> Processes:
        """Who works while it runs, between `prepare` and `release`."""

    def prepare(self, warm_up: Callable[[], Sequence[BenchRequest]]) -> None:
        """Makes it ready for a cell; a target that is not warm yet runs requests of `warm_up` first."""
        ...

    def release(self) -> None:
        """Frees what it need not keep from one cell to the next."""
        ...

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """Sends `requests` with at most `concurrency` in flight and returns one record for each."""
        ...


class _Warm:
    """A target that is warmed once."""

    name: str
    _warm = False

    def prepare(self, warm_up: Callable[[], Sequence[BenchRequest]]) -> None:
        """See `Target.prepare`."""
        if not self._warm:
            requests = warm_up()
            require_success(self.run(requests, min(2, len(requests))), f"{self.name} warm-up")
            self._warm = True

    def release(self) -> None:
        """See `Target.release`."""

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`."""
        raise NotImplementedError


class RawTarget(_Warm):
    """An engine alone in a process of its own: what the layers above it can reach at most.

    Args:
        command: Module and arguments of a child that runs cells on the engine, see `recipes.raw_engine`.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
        name: Its name in tables.
        resident: Whether the process lives until the `with` block ends, or for one cell.
    """

    below = ""

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        ignore_eos: bool,
        timeout_seconds: float,
        name: str = "raw",
        resident: bool = True,
    ) -> None:
        self.name = name
        self._command = command
        self._child: Child | None = None
        self._ignore_eos = ignore_eos
        self._timeout = timeout_seconds
        self._resident = resident

    @property
    def processes(self) -> Processes:
        """See `Target.processes`; the loop that asks runs in the engine's thread."""
        return Processes((self._started().pid,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        child, self._child = self._child, None
        self._warm = False
        if child is not None:
            child.__exit__(kind, error, traceback)

    def prepare(self, warm_up: Callable[[], Sequence[BenchRequest]]) -> None:
        """See `Target.prepare`; loads the engine."""
        if self._child is None:
            self._child = Child(self._command[0], self._command[1:]).__enter__()
        super().prepare(warm_up)

    def release(self) -> None:
        """See `Target.release`; ends the process unless it is resident."""
        if not self._resident:
            self.__exit__(None, None, None)

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`; the first token's time is when the engine's step returned it.

        Raises:
            EngineError: If the child ended or took too long.
        """
        cell = {"requests": _plain(requests), "concurrency": concurrency, "ignore_eos": self._ignore_eos}
        limit = _cell_seconds(requests, concurrency, self._timeout)
        return [RequestRecord(**record) for record in self._started().ask(cell, timeout_seconds=limit)]

    def _started(self) -> Child:
        if self._child is None:
            raise InternalError("target is used before `prepare`", where=self.name)
        return self._child


class TritonTarget(_Warm):
    """Triton's gRPC stream through the stock `tritonclient`, one stream a request.

    Args:
        url: `host:port` of Triton's gRPC endpoint.
        model: Served model name.
        server_pid: Triton's process.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
    """

    name = "triton"
    below = "raw"

    def __init__(self, url: str, model: str, *, server_pid: int, ignore_eos: bool, timeout_seconds: float) -> None:
        self._url = url
        self._model = model
        self._ignore_eos = ignore_eos
        self._timeout = timeout_seconds
        self._server_pid = server_pid

    @property
    def processes(self) -> Processes:
        """See `Target.processes`; this process asks."""
        return Processes((self._server_pid,), (os.getpid(),))

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


class LocustTarget(_Warm):
    """The gateway under Locust's streaming users, in a process of its own.

    Locust patches sockets and threads when it is imported, which hangs or breaks OpenVINO and gRPC.

    Args:
        url: Base address of the gateway, e.g. `http://127.0.0.1:8080`.
        model: Served model name.
        server_pids: The gateway's process and that of the server behind it.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
        api_key: Bearer token, where the gateway asks for one.
    """

    name = "gateway"
    below = "triton"

    def __init__(
        self,
        url: str,
        model: str,
        *,
        server_pids: tuple[int, ...] = (),
        ignore_eos: bool,
        timeout_seconds: float,
        api_key: str | None = None,
    ) -> None:
        self._settings = {
            "url": url,
            "model": model,
            "ignore_eos": ignore_eos,
            "timeout_seconds": timeout_seconds,
            "api_key": api_key,
        }
        self._timeout = timeout_seconds
        self._server_pids = server_pids
        self._child = Child("throughline.benchmarking.locust_driver")

    @property
    def processes(self) -> Processes:
        """See `Target.processes`; Locust asks."""
        return Processes(self._server_pids, (self._child.pid,))

    def __enter__(self) -> Self:
        self._child.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.__exit__(kind, error, traceback)

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`; the first token's time is when its event was read.

        Raises:
            EngineError: If the load generator ended or took too long.
        """
        cell = {"concurrency": concurrency, "requests": _plain(requests), **self._settings}
        limit = _cell_seconds(requests, concurrency, self._timeout)
        return [RequestRecord(**record) for record in self._child.ask(cell, timeout_seconds=limit)]


def _plain(requests: Sequence[BenchRequest]) -> list[dict[str, Any]]:
    return [asdict(item) for item in requests]


def _cell_seconds(requests: Sequence[BenchRequest], concurrency: int, timeout_seconds: float) -> float:
    """Seconds after which a cell hangs: every user's requests at their limit, one after another."""
    return math.ceil(len(requests) / concurrency) * timeout_seconds + _SPARE_SECONDS


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
