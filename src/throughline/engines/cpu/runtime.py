"""The CPU engine at run time: OpenVINO GenAI's continuous batching behind our guards, stops and recovery."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.engine import (
    EngineInfo,
    EngineSpec,
    EngineStats,
    ErrorKind,
    FinishReason,
    SamplingParams,
    StepOutput,
)
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.capacity import KvCapacity
from throughline.engines.cpu.guided import DETOKENIZER_FILE, check_guide, is_guided
from throughline.engines.cpu.openvino_env import openvino, openvino_genai
from throughline.engines.cpu.pipeline import generation_config
from throughline.engines.cpu.requests import check_length, check_params, check_prompt
from throughline.engines.cpu.signal_stack import drop_signal_stack
from throughline.engines.cpu.speculative import speculate
from throughline.engines.detokenizer import Detokenizer
from throughline.vocabulary import Vocabulary

# Deeper than any indentation that a schema is written in.
MOST_BLANKS = 256


@dataclass(slots=True)
class _Request:
    """A live request; `own_stop_ids` are those that the pipeline would ignore, so we look for them."""

    request_id: str
    handle: Any
    prompt_tokens: int
    detokenizer: Detokenizer
    stop_ids: frozenset[int]
    own_stop_ids: frozenset[int]
    has_stop_strings: bool
    min_tokens: int
    logprobs: bool
    free_blanks: bool
    completion_tokens: int = 0
    blanks: int = 0


class CpuEngineRuntime:
    """`EngineRuntime` over `openvino_genai.ContinuousBatchingPipeline`; one thread calls all methods.

    `step()` holds the GIL while it computes: serve from a process of its own.

    Args:
        info: The engine's facts.
        spec: Run-time settings, checked.
        vocabulary: Bytes of the tokens.
        pipeline_factory: Makes a fresh pipeline; called again when a pipeline has failed.
        kv_blocks: Blocks of the pipeline's KV cache.
        can_guide: Whether the engine has what guided decoding needs.
    """

    def __init__(
        self,
        info: EngineInfo,
        spec: EngineSpec,
        vocabulary: Vocabulary,
        pipeline_factory: Callable[[], Any],
        *,
        kv_blocks: int,
        can_guide: bool = False,
    ) -> None:
        self._genai = openvino_genai()
        self._tensor = openvino().Tensor
        self.info = info
        self.spec = spec
        self._vocabulary = vocabulary
        self._factory = pipeline_factory
        self._pipeline: Any = pipeline_factory()
        self._live: dict[str, _Request] = {}
        self._waiting: dict[str, tuple[npt.NDArray[np.int64], SamplingParams]] = {}
        self._pending: list[StepOutput] = []
        self._next_id = 0
        self._generated = 0
        self._can_guide = can_guide
        self._capacity = KvCapacity(kv_blocks, spec)

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """See `EngineRuntime.submit`."""
        if self._known(request_id):
            raise EngineError("request id is live already", where="request_id", seen=request_id, fix="use a fresh id")
        prompt_tokens = len(prompt_token_ids)
        try:
            ids = check_prompt(prompt_token_ids, self.info)
            check_params(params)
            if is_guided(params):
                self._check_guide(params)
            check_length(prompt_tokens, params.max_tokens, self.spec.max_seq_len)
        except EngineError as error:
            self._pending.append(_refused(request_id, prompt_tokens, error, "invalid"))
            return
        self._waiting[request_id] = (ids, params)

    def step(self) -> list[StepOutput]:
        """See `EngineRuntime.step`."""
        if not self._pipeline.has_non_finished_requests():
            self._capacity.settle()
        self._admit()
        outputs, self._pending = self._pending, []
        pipeline = self._pipeline
        if pipeline.has_non_finished_requests():
            try:
                pipeline.step()
            except RuntimeError as error:
                return outputs + self._recover(error)
            self._capacity.settle()
        ended = []
        for request in self._live.values():
            handle = request.handle
            output = self._read(request) if handle.can_read() else self._ended_silently(request)
            if output is None:
                continue
            if request.free_blanks and output.finish_reason is None:
                output = self._bound_blanks(request, output)
            outputs.append(output)
            if output.finish_reason is not None:
                ended.append(request.request_id)
        for request_id in ended:
            del self._live[request_id]
            self._capacity.give_back(request_id)
        return outputs

    def cancel(self, request_id: str) -> None:
        """See `EngineRuntime.cancel`; tokens that were ready are in the last output."""
        if request_id in self._waiting:
            ids, _ = self._waiting.pop(request_id)
            self._pending.append(StepOutput(request_id, (), "", "cancelled", ids.shape[1], 0))
        request = self._live.pop(request_id, None)
        if request is None:
            return
        # A handle cannot be read once it is cancelled.
        output = self._read(request) if request.handle.can_read() else None
        self._capacity.give_back(request_id)
        if output is None or output.finish_reason is None:
            request.handle.cancel()
            tokens = output.token_ids if output else ()
            text = (output.text if output else "") + request.detokenizer.finish()
            output = self._output(request, tokens, text, "cancelled", output.logprobs if output else ())
        self._pending.append(output)

    def has_work(self) -> bool:
        """See `EngineRuntime.has_work`; cancelled requests are work until their blocks are free."""
        return bool(self._live or self._waiting or self._pending) or bool(self._pipeline.has_non_finished_requests())

    def stats(self) -> EngineStats:
        """See `EngineRuntime.stats`."""
        metrics = self._pipeline.get_metrics()
        active = min(int(metrics.scheduled_requests), len(self._live))
        return EngineStats(
            active_requests=active,
            waiting_requests=len(self._waiting) + len(self._live) - active,
            kv_cache_usage=float(metrics.cache_usage) / 100.0,
            kv_cache_bytes=int(metrics.kv_cache_size_in_bytes),
            generated_tokens=self._generated,
        )

    def close(self) -> None:
        """See `EngineRuntime.close`."""
        self._live.clear()
        self._waiting.clear()
        self._pending.clear()
        self._pipeline = _Closed()
        drop_signal_stack()

    def _check_guide(self, params: SamplingParams) -> None:
        check_guide(params)
        if not self._can_guide:
            raise EngineError(
                "engine was built without guided decoding",
                where="bad_words" if params.bad_words else "guided_decoding",
                seen=f"no {DETOKENIZER_FILE}",
                fix="build the engine again",
            )

    def _known(self, request_id: str) -> bool:
        ended = any(output.request_id == request_id for output in self._pending)
        return ended or request_id in self._live or request_id in self._waiting

    def _admit(self) -> None:
        """Hands waiting requests to the pipeline, first come first served.

        The pipeline ignores its own limit of sequences when prompts are prefilled in chunks. A request that the KV
        cache has no room for holds up those behind it, or it might never start.
        """
        while self._waiting and len(self._live) < self.spec.max_batch_size:
            request_id = next(iter(self._waiting))
            ids, params = self._waiting[request_id]
            if not self._capacity.take(request_id, ids.shape[1] + params.max_tokens):
                return
            del self._waiting[request_id]
            try:
                self._live[request_id] = self._add(request_id, ids, params)
            except (EngineError, RuntimeError) as error:
                # Requests were checked when they came: what the pipeline has against them is its own affair.
                self._capacity.give_back(request_id)
                self._pending.append(_refused(request_id, ids.shape[1], error, "internal"))

    def _add(self, request_id: str, ids: npt.NDArray[np.int64], params: SamplingParams) -> _Request:
        stop_ids = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            stop_ids |= frozenset(self.info.eos_token_ids)
        # The pipeline's own ids: ours, so that a caller's cannot collide (a collision breaks the pipeline).
        self._next_id += 1
        config = generation_config(self._genai, params, self.info.eos_token_ids, stop_ids)
        speculate(config, self.spec.speculative_config)
        handle = self._pipeline.add_request(self._next_id, self._tensor(ids), config)
        return _Request(
            request_id,
            handle,
            ids.shape[1],
            Detokenizer(self._vocabulary, params.stop),
            stop_ids,
            # With ignore_eos the pipeline silently drops stop_token_ids.
            stop_ids if params.ignore_eos else frozenset(),
            any(params.stop),
            params.min_tokens,
            params.logprobs,
            params.guided_decoding is not None and params.guided_decoding.json is not None,
        )

    def _read(self, request: _Request) -> StepOutput | None:
        results = list(request.handle.read().values())
        if not results:
            # Seen once when KV blocks had run short: a request that could be read had nothing to say.
            return self._ended_silently(request)
        (result,) = results
        tokens = result.generated_ids
        logprobs = tuple(result.generated_log_probs) if request.logprobs else ()
        reason = _REASONS[int(result.finish_reason)]
        if request.own_stop_ids or request.has_stop_strings:
            return self._read_with_stops(request, tokens, logprobs, reason)
        request.completion_tokens += len(tokens)
        self._generated += len(tokens)
        if reason is None:
            text = request.detokenizer.push(tokens)
        else:
            text = request.detokenizer.push(self._shown(request, tokens, reason))
        return self._output(request, tokens, text, reason, logprobs)

    def _read_with_stops(
        self, request: _Request, tokens: list[int], logprobs: tuple[float, ...], reason: FinishReason | None
    ) -> StepOutput:
        """Token by token: a stop ends the output at its own token, whatever the step brought beyond it."""
        text = ""
        for index, token in enumerate(tokens):
            request.completion_tokens += 1
            self._generated += 1
            late = request.completion_tokens > request.min_tokens
            if late and token in request.own_stop_ids:
                request.handle.stop()
                text += request.detokenizer.finish()
                return self._output(request, tokens[: index + 1], text, "stop", logprobs[: index + 1])
            last = index + 1 == len(tokens)
            shown = self._shown(request, [token], reason) if last else [token]
            text += request.detokenizer.push(shown, allow_stop=late)
            if request.detokenizer.stopped:
                if reason is None:
                    request.handle.stop()
                return self._output(request, tokens[: index + 1], text, "stop", logprobs[: index + 1])
        if reason is not None:
            text += request.detokenizer.finish()
        return self._output(request, tokens, text, reason, logprobs)

    @staticmethod
    def _shown(request: _Request, tokens: list[int], reason: FinishReason | None) -> list[int]:
        """The tokens without the one that stopped the request, which has no text."""
        return tokens[:-1] if reason == "stop" and tokens and tokens[-1] in request.stop_ids else tokens

    def _bound_blanks(self, request: _Request, output: StepOutput) -> StepOutput:
        """Ends a JSON answer that is nothing but white space: the grammar allows any amount between two parts."""
        shown = output.text.rstrip()
        request.blanks = len(output.text) - len(shown) + (0 if shown else request.blanks)
        if request.blanks <= MOST_BLANKS:
            return output
        request.handle.stop()
        error = EngineError(
            "answer was stopped in endless white space",
            where="guided_decoding.json",
            seen=f"{request.blanks} characters of it in a row",
            fix="say in the prompt what JSON is wanted, or guide by a regex or grammar without white space",
        )
        return dataclasses.replace(output, finish_reason="error", error=str(error), error_kind="internal")

    def _ended_silently(self, request: _Request) -> StepOutput | None:
        """An error for a request that the pipeline gave up without saying so."""
        status = request.handle.get_status()
        if status == self._genai.GenerationStatus.RUNNING:
            return None
        error = EngineError(
            "engine gave the request up",
            where=f"after {request.completion_tokens} tokens",
            seen=f"status {status.name}",
            fix="raise kv_cache_bytes or ask for fewer tokens",
        )
        text = request.detokenizer.finish()
        return self._output(request, (), text, "error", (), str(error), "unavailable")

    def _recover(self, fault: RuntimeError) -> list[StepOutput]:
        """Ends every live request with an error and starts a fresh pipeline."""
        error = EngineError(
            "engine failed and was restarted",
            where="step",
            seen=str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__,
            fix="send the request again",
        )
        lost = [
            self._output(request, (), "", "error", (), str(error), "unavailable") for request in self._live.values()
        ]
        self._live.clear()
        self._capacity.clear()
        self._pipeline = _Closed()
        drop_signal_stack()
        try:
            self._pipeline = self._factory()
        except RuntimeError as again:
            raise EngineError(
                "engine failed and cannot be restarted",
                where=self.info.name,
                seen=str(again),
                fix="restart the process",
            ) from fault
        return lost

    @staticmethod
    def _output(
        request: _Request,
        tokens: Sequence[int],
        text: str,
        reason: FinishReason | None,
        logprobs: tuple[float, ...] = (),
        error: str | None = None,
        error_kind: ErrorKind | None = None,
    ) -> StepOutput:
        return StepOutput(
            request.request_id,
            tuple(tokens),
            text,
            reason,
            request.prompt_tokens,
            request.completion_tokens,
            error,
            logprobs,
            error_kind,
        )


def _refused(request_id: str, prompt_tokens: int, error: Exception, kind: ErrorKind) -> StepOutput:
    return StepOutput(request_id, (), "", "error", prompt_tokens, 0, str(error), error_kind=kind)


class _Closed:
    """Stands in for a pipeline that is gone: nothing to do, and every request is refused."""

    def has_non_finished_requests(self) -> bool:
        return False

    def add_request(self, *arguments: object) -> None:
        raise EngineError("engine is closed", where="submit", fix="load it again")

    def get_metrics(self) -> Any:
        raise EngineError("engine is closed", where="stats", fix="load it again")


# GenerationFinishReason: NONE, STOP, LENGTH; TOOL_CALL only with structured output.
_REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length", "stop")
