"""Engines: the spec in TensorRT-LLM's names, sampling, step outputs, `engine.json`, builder and runtime."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel, parse
from throughline.contracts.embedding import EmbeddingInfo, EmbeddingSpec
from throughline.contracts.errors import EngineError
from throughline.contracts.progress import OnProgress

Backend = Literal["cpu", "tensorrt", "pytorch"]
Precision = Literal["f32", "bf16", "int8", "int4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
KvCacheDtype = Literal["auto", "f32", "f16", "bf16", "u8", "u4", "fp8", "nvfp4"]
ComputeDtype = Literal["auto", "f32", "bf16", "f16"]
Calibration = Literal["none", "mixed_precision", "awq", "scale_estimation", "awq_scale_estimation", "gptq"]
GemmPlugin = Literal["auto", "fp8", "nvfp4", "disable"]
FinishReason = Literal["stop", "length", "cancelled", "error"]
# Who has to act: `invalid`, the client with another request; `unavailable`, nobody: the same one may pass later;
# `internal`, the operator.
ErrorKind = Literal["invalid", "unavailable", "internal"]
ENGINE_FILE = "engine.json"


class SpeculativeConfig(StrictModel):
    """Speculative decoding in TensorRT-LLM's names (`speculative_config` of `LLM()`): guessed tokens, checked at once.

    Greedy answers stay what they were. Sampled ones come from other random numbers, and on the CPU a seed does not
    repeat an answer beside a draft model (OpenVINO GenAI 2026.4).

    Attributes:
        decoding_type: `NGram` guesses what followed the same tokens before, in prompt or answer. `Draft_Target` lets
            a smaller engine guess.
        max_draft_len: Tokens guessed in a step.
        max_matching_ngram_size: Longest run of tokens that `NGram` looks for.
        speculative_model_dir: The smaller model: an engine directory with the same tokenizer on the CPU, a checkpoint
            for TensorRT-LLM.
    """

    decoding_type: Literal["NGram", "Draft_Target"]
    max_draft_len: int = Field(default=4, ge=1)
    max_matching_ngram_size: int = Field(default=3, ge=1)
    speculative_model_dir: Path | None = None

    @model_validator(mode="after")
    def _draft_has_a_model(self) -> Self:
        if (self.decoding_type == "Draft_Target") != (self.speculative_model_dir is not None):
            raise ValueError("speculative_model_dir goes with decoding_type=Draft_Target, and that with it")
        return self


class EngineSpec(StrictModel):
    """What to build and how to run it; a back end refuses by name what it cannot do.

    Attributes:
        backend: `cpu` (OpenVINO GenAI), `tensorrt` (TensorRT-LLM ≤ 1.2.x engines) or `pytorch`.
        precision: Weight precision.
        dtype: Type that activations are computed in; `auto` takes the fastest that the machine has.
        group_size: Weights that share a scale in INT4; divides every linear layer's input size.
        symmetric: Whether quantised weights have no zero point.
        calibration: What INT4 learns from records of the training split: `none` of it, which layers to keep in
            INT8 (`mixed_precision`), or that and scales or weights (the others, NNCF's algorithms of these names).
        int4_ratio: Share of the linear layers' weights in INT4; the rest, like embedding and head, is INT8.
        calib_size: Records that a calibrated build runs the model on.
        calib_max_seq_length: Tokens of each of them; of a longer record the last ones, where the answer is.
        max_batch_size: Sequences in one iteration.
        max_num_tokens: Packed tokens in one iteration; prompts longer than it are prefilled in chunks.
        max_seq_len: Prompt plus output tokens of one request.
        max_beam_width: Beams of one request.
        kv_cache_dtype: `auto` takes the back end's default.
        kv_cache_bytes: Size of the KV cache in bytes.
        tokens_per_block: Tokens in one KV block.
        enable_block_reuse: Share KV blocks of equal prefixes.
        enable_chunked_context: Prefill long prompts in chunks beside running sequences.
        capacity_scheduler_policy: `guaranteed_no_evict` starts a request when its longest answer fits the KV cache;
            `max_utilization` starts more and pauses some of them when the cache is full, to compute them again. Of
            engines for processors; those for GPUs have `serve.gpu.batch_scheduler_policy`.
        num_threads: CPU threads; 0 takes every core.
        tp_size: GPUs that share every layer.
        pp_size: GPUs that share the layers out.
        gemm_plugin: TensorRT-LLM's plugin for matrix products; `disable` leaves them to TensorRT, as NVIDIA advises for
            FP8 at large batches.
        multiple_profiles: Several TensorRT optimisation profiles: faster kernels, a longer build.
        max_lora_rank: Largest rank of adapters that are served; 0 for none.
        speculative_config: Speculative decoding; None for one token a step.
        embedding: How vectors are made, by an engine that makes them; None for one that makes tokens.
    """

    backend: Backend = "cpu"
    precision: Precision = "bf16"
    dtype: ComputeDtype = "auto"
    group_size: int = Field(default=64, ge=16)
    symmetric: bool = False
    calibration: Calibration = "none"
    int4_ratio: float = Field(default=1.0, gt=0, le=1)
    calib_size: int = Field(default=64, ge=1)
    calib_max_seq_length: int = Field(default=256, ge=1)
    max_batch_size: int = Field(default=64, ge=1)
    max_num_tokens: int = Field(default=512, ge=1)
    max_seq_len: int = Field(default=1024, ge=2)
    max_beam_width: int = Field(default=1, ge=1)
    kv_cache_dtype: KvCacheDtype = "auto"
    kv_cache_bytes: int = Field(default=256 * 2**20, ge=2**20)
    tokens_per_block: int = Field(default=32, ge=1)
    enable_block_reuse: bool = True
    enable_chunked_context: bool = True
    capacity_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    num_threads: int = Field(default=0, ge=0)
    tp_size: int = Field(default=1, ge=1)
    pp_size: int = Field(default=1, ge=1)
    gemm_plugin: GemmPlugin = "auto"
    multiple_profiles: bool = False
    max_lora_rank: int = Field(default=0, ge=0)
    speculative_config: SpeculativeConfig | None = None
    embedding: EmbeddingSpec | None = None


@dataclass(frozen=True)
class CalibrationData:
    """What a calibrated build runs the model on.

    Attributes:
        token_ids: Records, each with a token at least; the builder takes no more than the spec asks for.
        dataset_digest: Digest of the dataset whose training split they are from.
    """

    token_ids: tuple[tuple[int, ...], ...]
    dataset_digest: str


class CalibrationInfo(StrictModel):
    """How an engine's weights were calibrated: method, dataset, and how many records and tokens of it."""

    method: Calibration
    dataset_digest: str
    records: int
    tokens: int


class EngineInfo(StrictModel):
    """`engine.json`: what an engine directory holds, read by every layer above the engine.

    Attributes:
        name: Name that the engine is served under unless the deployment says otherwise.
        spec: The spec it was built from.
        architecture: Model family, e.g. `llama`.
        vocab_size: Rows of the embedding; token ids are below it.
        eos_token_ids: Ids that end a generation.
        control_token_ids: Ids whose text is never shown (bos, eos, pad, unk).
        max_position_embeddings: Longest sequence that the model was made for.
        parameters: Weights of the model, tied ones counted once.
        checkpoint_digest: SHA-256 over the checkpoint's weights and config.
        calibration: What the weights were calibrated on; None for a build without data.
        weight_bytes: Size of the weights on disk.
        versions: Package versions of the builder.
        embedding: What its vectors are; None for an engine that makes tokens.
    """

    format_version: int = 1
    name: str
    spec: EngineSpec
    architecture: str
    precision: Precision
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    control_token_ids: tuple[int, ...]
    max_position_embeddings: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    hidden_size: int
    parameters: int
    checkpoint_digest: str
    calibration: CalibrationInfo | None = None
    weight_bytes: int
    versions: dict[str, str]
    embedding: EmbeddingInfo | None = None

    @classmethod
    def read(cls, engine_dir: Path) -> Self:
        """Reads `engine_dir/engine.json`.

        Raises:
            EngineError: If the directory holds no finished engine.
            ConfigError: If the file does not validate.
        """
        path = Path(engine_dir) / ENGINE_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EngineError(
                "no engine here",
                where=str(engine_dir),
                seen=f"no {ENGINE_FILE}",
                fix="build one with `python -m recipes.build`",
            ) from None
        except ValueError as error:
            raise EngineError(
                f"{ENGINE_FILE} is not JSON", where=str(path), seen=str(error), fix="build the engine again"
            ) from None
        return parse(cls, values, where=str(path))

    def write(self, engine_dir: Path) -> None:
        """Writes `engine.json`; builders do this last, so that a directory with it is complete."""
        text = json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
        (Path(engine_dir) / ENGINE_FILE).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class BuildReport:
    """What a build made.

    Attributes:
        engine_dir: The engine directory.
        info: What was written to `engine.json`.
        seconds: Duration of each phase.
        notes: What the reader should know, e.g. that FP8 is storage only.
    """

    engine_dir: Path
    info: EngineInfo
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GoldenResult:
    """One golden prompt replayed: `matched` of `expected` tokens are the same from the start."""

    prompt_tokens: int
    matched: int
    expected: int


@dataclass(frozen=True)
class VerifyReport:
    """The replay of an engine's golden prompts.

    Attributes:
        ok: Whether every token of every prompt is the same as at build time.
        results: One entry for each prompt.
        same_machine_kind: Whether the compute type and processor are those of the build; when not,
            a late difference is rounding and not a fault.
    """

    ok: bool
    results: tuple[GoldenResult, ...]
    same_machine_kind: bool


@dataclass(frozen=True)
class GuidedDecodingParams:
    """What an answer must match, in TensorRT-LLM's names; exactly one of them is given.

    Attributes:
        json: A JSON schema, as JSON text. White space between its parts stays free.
        regex: A regular expression that the whole answer matches.
        grammar: A grammar in xgrammar's EBNF, with the rule `root`.
        structural_tag: A structural tag of xgrammar, as JSON text.
    """

    json: str | None = None
    regex: str | None = None
    grammar: str | None = None
    structural_tag: str | None = None


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one request; temperature 0 is greedy.

    `stop` strings end the text before the first of them to be completed; `stop_token_ids` end it at
    the token. Neither counts before `min_tokens` tokens. `logprobs` asks for the chosen tokens' ones.
    `guided_decoding` masks every token that could not go on to what it describes, and `bad_words` every one that would
    make one of these texts a part of the output; one of the two at a time.
    """

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: bool = False
    guided_decoding: GuidedDecodingParams | None = None


@dataclass(frozen=True)
class StepOutput:
    """What one step produced for one request.

    Attributes:
        request_id: The caller's id.
        token_ids: New tokens since the last output.
        text: New text; never half a character, never part of a stop string.
        finish_reason: None while running, else `stop`, `length`, `cancelled` or `error`.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated so far, an end-of-sequence token included.
        error: What went wrong, when `finish_reason` is `error`.
        error_kind: Who has to act then.
        logprobs: Natural log-probability of each of `token_ids`, if they were asked for.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    error: str | None = None
    logprobs: tuple[float, ...] = field(default=())
    error_kind: ErrorKind | None = None


@dataclass(frozen=True)
class EngineStats:
    """The state of a runtime: requests by phase, KV cache use as a fraction and its size in bytes.

    A runtime in another process than its caller says how many steps it has made and when the last one ended, in
    seconds of the monotonic clock.
    """

    active_requests: int
    waiting_requests: int
    kv_cache_usage: float
    kv_cache_bytes: int
    generated_tokens: int
    iterations: int | None = None
    stepped_at: float | None = None


class EngineBuilder(Protocol):
    """Makes an engine directory from a Hugging Face checkpoint folder."""

    def build(
        self,
        checkpoint_dir: Path,
        spec: EngineSpec,
        out_dir: Path,
        on_progress: OnProgress | None = None,
        *,
        calibration: CalibrationData | None = None,
    ) -> BuildReport:
        """Builds into `out_dir`; `on_progress(phase, fraction)` hears of every phase and how much of all is done.

        Raises:
            EngineError: If the spec or the checkpoint is beyond the back end, `calibration` is missing or does
                not fit the model, or space is short.
            CheckpointError: If the checkpoint is missing or damaged.
        """
        ...


class EngineRuntime(Protocol):
    """A loaded engine with in-flight batching; one thread calls all methods."""

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """Queues a request; a request that cannot run ends with an `error` output of the next step.

        Raises:
            EngineError: If the id is live already.
        """
        ...

    def step(self) -> list[StepOutput]:
        """Runs one iteration over all live requests and returns what is new."""
        ...

    def cancel(self, request_id: str) -> None:
        """Ends a request; its last output has the reason `cancelled`. Unknown ids are ignored."""
        ...

    def has_work(self) -> bool:
        """Returns whether a step would do anything."""
        ...

    def stats(self) -> EngineStats:
        """Returns the present state."""
        ...

    def close(self) -> None:
        """Frees the engine; live requests are dropped."""
        ...
