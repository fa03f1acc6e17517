"""Triton Python model that stands in for TensorRT-LLM's C++ `tensorrt_llm`: its tensors, our CPU engine behind them.

Parameters: `cpu_engine_dir`, and `log_path`, which gets a JSON line for each request that begins and one when it ends;
while there is a file of its name with `.hold` behind it, the engine makes no step. As the C++ back end does, it takes a
batch dimension of one, ends at stop words by their ids and with them, and ends the request of the same id on `stop`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path[:0] = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]

from tests.trtllm_words import words  # noqa: E402
from throughline import engines  # noqa: E402
from throughline.contracts.engine import SamplingParams, StepOutput  # noqa: E402

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
HELD_SECONDS = 0.01


class Live:
    """One running request."""

    def __init__(self, sender: Any, inputs: dict[str, Any]) -> None:
        self.sender, self.inputs = sender, inputs
        self.prompt: list[int] = inputs["input_ids"].tolist()
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.sent = 0
        self.words = words(inputs["stop_words_list"]) if "stop_words_list" in inputs else []

    def flag(self, name: str) -> bool:
        return name in self.inputs and bool(self.inputs[name][0])


class Collected:
    """A response sender of a model that is not decoupled: the one response is waited for."""

    def __init__(self) -> None:
        self._found: list[Any] = []
        self._ended = threading.Event()

    def send(self, response: Any = None, flags: int = 0) -> None:
        self._found += [] if response is None else [response]
        if flags == FINAL:
            self._ended.set()

    def wait(self) -> Any:
        self._ended.wait()
        [response] = self._found
        return response


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        self._engine_dir = Path(parameters["cpu_engine_dir"]["string_value"])
        self._log = Path(parameters["log_path"]["string_value"])
        self._hold = Path(f"{self._log}.hold")
        self._exclude = parameters["exclude_input_in_output"]["string_value"] == "true"
        self._decoupled = json.loads(args["model_config"])["model_transaction_policy"]["decoupled"]
        self._queue: SimpleQueue[tuple[str, Live] | None] = SimpleQueue()
        self._live: dict[str, Live] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        senders = [request.get_response_sender() if self._decoupled else Collected() for request in requests]
        for number, (request, sender) in enumerate(zip(requests, senders, strict=True)):
            inputs = {tensor.name(): tensor.as_numpy().reshape(-1) for tensor in request.inputs()}
            self._queue.put((request.request_id() or f"nameless-{id(request)}-{number}", Live(sender, inputs)))
        return None if self._decoupled else [sender.wait() for sender in senders]

    def finalize(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        self._runtime = engines.load(self._engine_dir)
        while self._take():
            for output in self._runtime.step() if self._live and not self._hold.exists() else ():
                self._answer(output)
        self._runtime.close()

    def _take(self) -> bool:
        held = self._hold.exists()
        block = held or not self._live
        while True:
            try:
                item = self._queue.get(block, HELD_SECONDS if held else None)
            except Empty:
                return True
            if item is None:
                return False
            self._start(*item)
            block = False

    def _start(self, name: str, live: Live) -> None:
        if live.flag("stop"):
            self._end(name, "stopped by request")
            live.sender.send(flags=FINAL)
            return
        inputs = live.inputs
        if inputs["input_lengths"][0] != len(live.prompt) or name in self._live:
            error = pb_utils.TritonError("input_lengths is not that of input_ids", pb_utils.TritonError.INVALID_ARG)
            live.sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
            return
        params = SamplingParams(
            max_tokens=int(inputs["request_output_len"][0]),
            temperature=float(inputs["temperature"][0]) if "temperature" in inputs else 0.0,
            top_k=int(inputs["runtime_top_k"][0]) if "runtime_top_k" in inputs else 0,
            seed=int(inputs["seed"][0]) if "seed" in inputs else None,
            stop_token_ids=tuple(inputs["end_id"].tolist()) if "end_id" in inputs else (),
            ignore_eos=True,
            logprobs=live.flag("return_log_probs"),
        )
        self._live[name] = live
        self._write({"id": name, "began": True})
        self._runtime.submit(name, live.prompt, params)

    def _answer(self, output: StepOutput) -> None:
        live = self._live.get(output.request_id)
        if live is None:
            return
        if output.error:
            kind = (
                pb_utils.TritonError.INVALID_ARG if output.error_kind == "invalid" else pb_utils.TritonError.UNAVAILABLE
            )
            error = pb_utils.InferenceResponse(error=pb_utils.TritonError(output.error, kind))
            live.sender.send(error, flags=FINAL)
            del self._live[output.request_id]
            return
        live.ids += output.token_ids
        live.logprobs += output.logprobs
        ended = output.finish_reason or ("stop word" if any(self._ends(live, word) for word in live.words) else None)
        if live.flag("streaming") or ended:
            live.sender.send(self._response(live))
        if ended:
            self._end(output.request_id, ended)

    def _ends(self, live: Live, word: list[int]) -> bool:
        return live.ids[-len(word) :] == word

    def _end(self, name: str, reason: str) -> None:
        live = self._live.pop(name, None)
        if live is None:
            return
        self._runtime.cancel(name)
        live.sender.send(flags=FINAL)
        self._write({"id": name, "tokens": len(live.ids), "reason": reason, "inputs": sorted(live.inputs)})

    def _write(self, line: dict[str, Any]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _response(self, live: Live) -> Any:
        exclude = live.flag("exclude_input_in_output") if "exclude_input_in_output" in live.inputs else self._exclude
        new = live.ids[live.sent :]
        ids = new if exclude or live.sent else live.prompt + new
        live.sent = len(live.ids)
        found = {
            "output_ids": np.array([[ids]], np.int32),
            "sequence_length": np.array([[len(ids)]], np.int32),
            "sequence_index": np.array([[0]], np.int32),
        }
        if live.flag("return_log_probs"):
            found["cum_log_probs"] = np.array([[sum(live.logprobs)]], np.float32)
        if live.flag("return_num_output_tokens"):
            found["num_output_tokens"] = np.array([[len(live.ids)]], np.int32)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in found.items()])
