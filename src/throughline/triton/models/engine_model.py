"""Triton Python model that serves one Throughline engine with in-flight batching (decoupled).

A copy of this file is `model.py` of a version; `version.json` beside it says which engine to load.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The version's own code goes before what is installed. The Python backend starts its interpreter isolated, so
# PYTHONPATH does not reach sys.path by itself.
sys.path[:0] = [
    str(Path(__file__).parent / "lib"),
    *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry not in sys.path),
]

from throughline.contracts.engine import EngineInfo  # noqa: E402
from throughline.triton.batching import Scheduler, SchedulerSettings, Snapshot  # noqa: E402
from throughline.triton.channels import Code  # noqa: E402
from throughline.triton.engine_process import EngineProcess, Wakeup  # noqa: E402
from throughline.triton.llmapi import to_text_contract  # noqa: E402
from throughline.triton.requests import RequestDefaults, RequestError, parse_request, stop_request  # noqa: E402
from throughline.triton.streaming import FlushPolicy, Message  # noqa: E402

_LENGTH_BUCKETS = [10, 50, 100, 500, 1000]
# Two threads share the interpreter; with Python's default of 5 ms new requests would wait for a batch of messages.
_SWITCH_SECONDS = 0.0005


class TritonPythonModel:
    """Entry points that the Python backend calls, all of them in its main thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine in a process of its own, from the scheduler thread, and waits for it."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        pointer = json.loads(Path(args["model_repository"], args["model_version"], "version.json").read_text("utf-8"))
        engine_dir = Path(pointer["engine_dir"])
        self._inputs = [item["name"] for item in config["input"]]
        self._is_llmapi = parameters.get("layout") == "llmapi"
        self._encode, self._decode = _tokenizer(engine_dir)
        self._defaults = RequestDefaults(
            max_tokens=int(parameters["default_max_tokens"]),
            exclude_input_in_output=parameters["exclude_input_in_output"] == "true",
        )
        settings = _settings(parameters, engine_dir)
        metrics = EngineMetrics(args["model_name"], args["model_version"])
        wakeup = Wakeup()

        def load() -> EngineProcess:
            return EngineProcess(pointer["runtime"], engine_dir, wakeup)

        ready = threading.Event()
        failure: list[Exception] = []

        def serve() -> None:
            try:
                self._scheduler = Scheduler(load, settings, metrics=metrics, fatal=_die, wake=wakeup.set)
            except Exception as error:
                failure.append(error)
                return
            finally:
                ready.set()
            self._scheduler.run()

        self._thread = threading.Thread(target=serve, name="engine-scheduler", daemon=True)
        self._thread.start()
        ready.wait()
        if failure:
            raise pb_utils.TritonModelException(f"engine {engine_dir} cannot be loaded: {failure[0]}")

    def execute(self, requests: Sequence[Any]) -> None:
        """Checks requests and hands them to the scheduler; responses go through their senders."""
        for request in requests:
            parameters = json.loads(request.parameters() or "{}")
            channel = ResponseChannel(request.get_response_sender(), parameters.get("error_status_prefix") is True)
            inputs: dict[str, Any] = {}
            for name in self._inputs:
                tensor = pb_utils.get_input_tensor_by_name(request, name)
                if tensor is not None:
                    inputs[name] = tensor.as_numpy().reshape(-1)
            try:
                if (stop := stop_request(inputs, request.request_id())) is not None:
                    channel.ends_with_a_response = True
                    self._scheduler.put(channel, stop)
                    continue
                if self._is_llmapi:
                    inputs, channel.outputs = to_text_contract(inputs)
                checked = parse_request(
                    inputs,
                    encode=self._encode,
                    decode=self._decode,
                    defaults=self._defaults,
                    timeout_microseconds=request.timeout(),
                    parameters=parameters,
                    request_id=request.request_id(),
                )
            except RequestError as error:
                # Its traceback would keep the request alive, and the server then cannot unload the model.
                self._scheduler.put(channel, error.with_traceback(None))
            else:
                self._scheduler.put(channel, checked)

    def finalize(self) -> None:
        """Lets running requests end, within the drain time, and frees the engine."""
        self._scheduler.stop()
        self._thread.join()


class ResponseChannel:
    """`Channel` over a response sender of the Python backend.

    Args:
        sender: The sender.
        tells_status: Whether the text of an error begins with its status, which a client cannot see otherwise where
            it shares a stream.

    Attributes:
        outputs: Those to send, all of them if None.
        ends_with_a_response: Whether `close` sends an empty response and not the final flag alone.
    """

    def __init__(self, sender: Any, tells_status: bool) -> None:
        self._sender, self._tells_status = sender, tells_status
        self.outputs: frozenset[str] | None = None
        self.ends_with_a_response = False
        self._text = ""

    def send(self, message: Message, *, final: bool) -> None:
        """Sends the outputs that `model_config` declares."""
        if self.outputs is not None:
            # As NVIDIA's llmapi model, whose messages repeat the text so far and write Python's None for what is not.
            self._text += message.text
            found = {"text_output": self._text, "finish_reason": message.finish_reason or "None", "stop_reason": "None"}
            tensors = [_bytes(name, text) for name, text in found.items() if name in self.outputs]
            if message.cum_log_prob is not None:
                tensors.append(_floats("cumulative_logprob", [message.cum_log_prob]))
            self._send(pb_utils.InferenceResponse(tensors), final=final)
            return
        tensors = [
            _bytes("text_output", message.text),
            _bytes("finish_reason", message.finish_reason),
            _integers("prompt_tokens", [message.prompt_tokens]),
            _integers("completion_tokens", [message.completion_tokens]),
            _integers("output_ids", message.token_ids),
        ]
        if message.cum_log_prob is not None:
            tensors.append(_floats("cum_log_probs", [message.cum_log_prob]))
            tensors.append(_floats("output_log_probs", message.log_probs))
        if message.times is not None:
            tensors.append(_nanoseconds("arrival_time_ns", message.times.arrival))
            tensors.append(_nanoseconds("first_scheduled_time_ns", message.times.first_scheduled))
            tensors.append(_nanoseconds("first_token_time_ns", message.times.first_token))
            tensors.append(_nanoseconds("last_token_time_ns", message.times.last_token))
        self._send(pb_utils.InferenceResponse(tensors), final=final)

    def _send(self, response: Any, *, final: bool) -> None:
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)

    def fail(self, code: Code, text: str) -> None:
        """Sends an error as the last response."""
        text = f"{code}: {text}" if self._tells_status else text
        error = pb_utils.TritonError(text, getattr(pb_utils.TritonError, code))
        self._sender.send(pb_utils.InferenceResponse(error=error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def close(self) -> None:
        """Ends the request without output."""
        if self.ends_with_a_response:
            self._send(pb_utils.InferenceResponse([]), final=True)
            return
        self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Asks the server whether the client has gone."""
        return bool(self._sender.is_cancelled())


class EngineMetrics:
    """Gauges and counters under the names that TensorRT-LLM dashboards query.

    Every call is a round trip to the server, so only values that changed are set.
    """

    def __init__(self, model: str, version: str) -> None:
        self._labels = {"model": model, "version": version}
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, str], Any] = {}
        self._values: dict[tuple[str, str], float] = {}
        self._lengths = {name: self._histogram(name) for name in ("input", "output")}

    def update(self, snapshot: Snapshot) -> None:
        """See `Metrics.update`."""
        requests = "nv_trt_llm_request_metrics"
        self._gauge(requests, "request_type", "active", snapshot.active)
        self._gauge(requests, "request_type", "scheduled", snapshot.scheduled)
        self._gauge(requests, "request_type", "waiting", snapshot.waiting)
        self._gauge(requests, "request_type", "max", snapshot.maximum)
        blocks = "nv_trt_llm_kv_cache_block_metrics"
        self._gauge(blocks, "kv_cache_block_type", "fraction", snapshot.kv_cache_usage)
        # The two of vLLM's gauges that only the engine knows; the gateway has the others.
        model = self._labels["model"]
        self._gauge("vllm:num_requests_waiting", "model_name", model, snapshot.waiting)
        self._gauge("vllm:kv_cache_usage_perc", "model_name", model, snapshot.kv_cache_usage)
        self._gauge("nv_trt_llm_runtime_memory_metrics", "memory_type", "cpu", snapshot.kv_cache_bytes)
        self._gauge("nv_trt_llm_general_metrics", "general_type", "iteration_counter", snapshot.iterations)
        self._counter("throughline_generated_tokens_total", "kind", "completion", snapshot.generated_tokens)
        for reason, count in snapshot.finished.items():
            self._counter("throughline_finished_requests_total", "reason", reason, count)

    def observe(self, prompt_tokens: int, completion_tokens: int) -> None:
        """See `Metrics.observe`."""
        self._lengths["input"].observe(prompt_tokens)
        self._lengths["output"].observe(completion_tokens)

    def _gauge(self, family: str, label: str, value: str, reading: float) -> None:
        if self._values.get((family, value)) != reading:
            self._metric(family, label, value, "GAUGE").set(float(reading))
            self._values[(family, value)] = reading

    def _counter(self, family: str, label: str, value: str, reading: float) -> None:
        # A reloaded engine counts from zero again; a counter never goes back.
        before = self._values.get((family, value), 0.0)
        if reading != before:
            self._metric(family, label, value, "COUNTER").increment(
                float(reading - before if reading > before else reading)
            )
            self._values[(family, value)] = reading

    def _histogram(self, name: str) -> Any:
        family = self._family(f"nv_llm_{name}_token_len", f"{name} tokens of finished requests", "HISTOGRAM")
        labels = {"response_metric_type": f"total_{name}_tokens", **self._labels}
        return family.Metric(labels=labels, buckets=_LENGTH_BUCKETS)

    def _metric(self, family: str, label: str, value: str, kind: str) -> Any:
        if (family, value) not in self._metrics:
            self._metrics[(family, value)] = self._family(family, family, kind).Metric(
                labels={label: value, **self._labels}
            )
        return self._metrics[(family, value)]

    def _family(self, name: str, description: str, kind: str) -> Any:
        if name not in self._families:
            self._families[name] = pb_utils.MetricFamily(
                name=name, description=description, kind=getattr(pb_utils.MetricFamily, kind)
            )
        return self._families[name]


def _bytes(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode()], dtype=np.object_))


def _integers(name: str, values: Sequence[int]) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype=np.int32))


def _floats(name: str, values: Sequence[float]) -> Any:
    return pb_utils.Tensor(name, np.array(values, dtype=np.float32))


def _nanoseconds(name: str, seconds: float) -> Any:
    return pb_utils.Tensor(name, np.array([round(seconds * 1e9)], dtype=np.int64))


def _tokenizer(
    engine_dir: Path,
) -> tuple[Callable[[str], Sequence[int]] | None, Callable[[Sequence[int]], str] | None]:
    path = engine_dir / "tokenizer.json"
    if not path.is_file():
        return None, None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(text: str) -> Sequence[int]:
        ids: list[int] = tokenizer.encode(text).ids
        return ids

    def decode(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    return encode, decode


def _settings(parameters: dict[str, str], engine_dir: Path) -> SchedulerSettings:
    return SchedulerSettings(
        max_active_requests=int(parameters["max_active_requests"]),
        max_batch_size=EngineInfo.read(engine_dir).spec.max_batch_size,
        priority_aging_seconds=float(parameters["priority_aging_seconds"]),
        flush=FlushPolicy(
            stream_interval_tokens=int(parameters["stream_interval_tokens"]),
            flush_interval_seconds=int(parameters["flush_interval_ms"]) / 1000,
            max_responses_per_second=float(parameters["max_responses_per_second"]),
        ),
        cancel_poll_interval_seconds=int(parameters["cancel_poll_interval_ms"]) / 1000,
        metrics_interval_seconds=int(parameters["metrics_interval_ms"]) / 1000,
        drain_timeout_seconds=float(parameters["drain_timeout_seconds"]),
    )


def _die() -> None:
    # The supervisor sees the dead stub and loads the model again.
    os._exit(70)
