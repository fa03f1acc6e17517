"""What is loaded: an engine alone, Triton over gRPC, and the gateway through Locust."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self

from throughline.benchmarking.child import Child
from throughline.benchmarking.engine_loop import StepRecord
from throughline.contracts.benchmark import BenchRequest, Load, RequestRecord
from throughline.contracts.errors import InternalError, MeasurementError, UserError

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

    def drive(self, load: Load) -> Driven:
        """Sends a load, and waits until all of it has ended."""
        ...


@dataclass(frozen=True)
class Driven:
    """What came of a load: when it began, on the records' clock, and one record for each request that was sent.

    `steps` are the engine's, of a target that sees them.
    """

    began: float
    records: list[RequestRecord]
    steps: list[StepRecord] = field(default_factory=list)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Reads what a child answers."""
        records = [RequestRecord(**record) for record in values["records"]]
        return cls(values["began"], records, [StepRecord(**step) for step in values.get("steps", ())])


class _Warm:
    """A target that is warmed once."""

    name: str
    _warm = False
    _ignore_eos: bool
    _timeout: float

    def prepare(self, warm_up: Callable[[], Sequence[BenchRequest]]) -> None:
        """See `Target.prepare`."""
        if not self._warm:
            requests = warm_up()
            records = self.run(requests, min(2, len(requests)))
            require_success(records, f"{self.name} warm-up")
            _require_counts(records, f"{self.name} warm-up")
            self._warm = True

    def release(self) -> None:
        """See `Target.release`."""

    def run(self, requests: Sequence[BenchRequest], concurrency: int) -> list[RequestRecord]:
        """See `Target.run`."""
        load = Load.closed(requests, concurrency, ignore_eos=self._ignore_eos, timeout_seconds=self._timeout)
        return self.drive(load).records

    def drive(self, load: Load) -> Driven:
        """See `Target.drive`."""
        raise NotImplementedError


class RawTarget(_Warm):
    """An engine alone in a process of its own: what the layers above it can reach at most.

    Args:
        command: Module and arguments of a child that runs cells on the engine, see `recipes.raw_engine`.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
        name: Its name in tables.
        resident: Whether the process lives until the `with` block ends, or for one cell.
        timed: Whether to keep a record of each step of the engine.
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
        timed: bool = False,
    ) -> None:
        self.name = name
        self._timed = timed
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
        self._start()
        super().prepare(warm_up)

    def release(self) -> None:
        """See `Target.release`; ends the process unless it is resident."""
        if not self._resident:
            self.__exit__(None, None, None)

    def drive(self, load: Load) -> Driven:
        """See `Target.drive`; the first token's time is when the engine's step returned it.

        Raises:
            EngineError: If the engine cannot be loaded, or the child ended or took too long.
        """
        return Driven.from_plain(self._ask({**asdict(load), "timed": self._timed}, load.limit_seconds))

    def settings(self) -> dict[str, Any]:
        """Loads the engine, and returns its settings.

        Raises:
            EngineError: As `drive`.
        """
        self._start()
        found: dict[str, Any] = self._ask(None, 0.0)["spec"]
        return found

    def _ask(self, message: Any, seconds: float) -> dict[str, Any]:
        answer: dict[str, Any] = self._started().ask(message, timeout_seconds=seconds + _SPARE_SECONDS)
        return answer

    def _start(self) -> None:
        if self._child is None:
            self._child = Child(self._command[0], self._command[1:]).__enter__()

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

    def drive(self, load: Load) -> Driven:
        """See `Target.drive`; the first token's time is when its message was read."""
        return asyncio.run(self._drive(load))

    async def _drive(self, load: Load) -> Driven:
        from tritonclient.grpc import aio

        from throughline.benchmarking.async_loop import run

        async with aio.InferenceServerClient(self._url) as client:
            return Driven(*await run(load, functools.partial(self._one, client)))

    async def _one(self, client: Any, request: BenchRequest, due: float | None, load: Load) -> RequestRecord:
        start = time.perf_counter()
        seen: list[float] = []
        last: Any = None
        error = kind = ""
        left = False
        inputs = self._inputs(request, load.ignore_eos)

        async def once() -> Any:
            yield {"model_name": self._model, "inputs": inputs, "enable_empty_final_response": True}

        try:
            async with asyncio.timeout(load.timeout_seconds):
                stream = client.stream_infer(once())
                async for result, problem in stream:
                    if problem is not None:
                        error, kind = str(problem), str(problem.status() or type(problem).__name__)
                        break
                    if result.as_numpy("completion_tokens") is not None:
                        seen.append(time.perf_counter())
                        last = result
                    if result.get_response().parameters["triton_final_response"].bool_param:
                        break
                    if request.cancel_after and len(seen) >= request.cancel_after:
                        left = True
                        stream.cancel()
                        break
        except TimeoutError:
            error, kind = f"no end within {load.timeout_seconds:g} s", "timeout"
        end = seen[-1] if seen and not error else time.perf_counter()
        return RequestRecord(
            request.scenario,
            start,
            seen[0] if seen else end,
            end,
            _integer(last, "prompt_tokens"),
            _integer(last, "completion_tokens"),
            ok=not error,
            error=error,
            error_type=kind,
            due=due,
            gaps=[b - a for a, b in itertools.pairwise(seen)],
            tenant=request.tenant,
            cancelled=left,
            phases={} if error or left else _phases(last, start if due is None else due, end),
        )

    def _inputs(self, request: BenchRequest, ignore_eos: bool) -> list[Any]:
        import numpy as np
        from tritonclient.grpc import InferInput

        values: list[tuple[str, str, Any]] = [
            ("input_ids", "INT32", np.asarray(request.prompt_token_ids, dtype=np.int32)),
            ("max_tokens", "INT32", np.asarray([request.max_tokens], dtype=np.int32)),
            ("stream", "BOOL", np.asarray([True])),
            ("ignore_eos", "BOOL", np.asarray([ignore_eos])),
            ("return_perf_metrics", "BOOL", np.asarray([True])),
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
        url: Base address of the gateway, e.g. `http://127.0.0.1:8080`; what stands before `/v1` of its paths.
        model: Served model name.
        server_pids: The gateway's process and that of the server behind it.
        ignore_eos: Whether to generate exactly `max_tokens`.
        timeout_seconds: Limit of one request.
        api_keys: Bearer tokens by tenant, `""` for requests without one; empty where the gateway asks for none.
        web_port: Where Locust shows its own pages while it runs; None for nowhere.
        body: Fields of every request, over ours; None leaves one out.
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
        api_keys: Mapping[str, str] = MappingProxyType({}),
        web_port: int | None = None,
        body: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._settings = {
            "url": url,
            "model": model,
            "api_keys": dict(api_keys),
            "web_port": web_port,
            "body": dict(body),
        }
        self._ignore_eos = ignore_eos
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

    def drive(self, load: Load) -> Driven:
        """See `Target.drive`; the first token's time is when its event was read.

        Raises:
            EngineError: If the load generator ended or took too long.
        """
        message = {"load": asdict(load), **self._settings}
        return Driven.from_plain(self._child.ask(message, timeout_seconds=load.limit_seconds + _SPARE_SECONDS))


def _integer(response: Any, name: str) -> int:
    return int(response.as_numpy(name)[0]) if response is not None else 0


def _phases(last: Any, begin: float, end: float) -> dict[str, float]:
    """Seconds of a request's parts by the engine's own times, which are of the monotonic clock as ours."""
    names = ("first_scheduled", "first_token", "last_token")
    times = [last.as_numpy(f"{name}_time_ns") for name in names]
    if any(each is None for each in times):
        return {}
    scheduled, first, done = (int(each[0]) / 1e9 for each in times)
    parts = {"queue": scheduled - begin, "prefill": first - scheduled, "decode": done - first, "network": end - done}
    # Another machine's clock says nothing about ours.
    return parts if min(parts.values()) >= 0 else {}


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


def _require_counts(records: Sequence[RequestRecord], target: str) -> None:
    """Checks that answers say their tokens, which all rates are made of.

    Raises:
        MeasurementError: If none of those that succeeded does.
    """
    ended = [record for record in records if record.ok]
    if ended and not any(record.completion_tokens and record.prompt_tokens for record in ended):
        raise MeasurementError(
            "answers do not say how many tokens they are of",
            where=target,
            seen=f"{len(ended)} answers without `usage`",
            fix="use a server that sends it with `stream_options.include_usage`, as OpenAI's does",
        )
