"""The tensors of TensorRT-LLM's `inflight_batcher_llm` layout (1.2.x) as far as text models use them.

Left out are those of encoders, images, prompt tuning, draft tokens and disaggregated serving, for which no engine is
built here. Sizes leave the batch dimension out; -1 is any.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: name, type, dimensions; `scalar` ones reach the C++ back end without their `[1]`."""

    name: str
    kind: str
    dims: tuple[int, ...] = (1,)
    optional: bool = True
    scalar: bool = False
    ragged: bool = False


def _scalars(kind: str, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, kind, scalar=True) for name in names)


def _lists(kind: str, *names: str) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, kind, (-1,), ragged=True) for name in names)


LORA = (
    Tensor("lora_task_id", "UINT64", scalar=True),
    Tensor("lora_weights", "FP16", (-1, -1), ragged=True),
    Tensor("lora_config", "INT32", (-1, 3), ragged=True),
)
GUIDED = (
    Tensor("guided_decoding_guide_type", "STRING", ragged=True),
    Tensor("guided_decoding_guide", "STRING", ragged=True),
)
RETURNS = (
    "return_log_probs",
    "return_context_logits",
    "return_generation_logits",
    "return_perf_metrics",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
ENGINE_INPUTS: tuple[Tensor, ...] = (
    Tensor("input_ids", "INT32", (-1,), ragged=True),
    Tensor("input_lengths", "INT32", optional=False, scalar=True),
    Tensor("request_output_len", "INT32", optional=False, scalar=True),
    *_scalars("INT32", "num_return_sequences", "beam_width", "end_id", "pad_id", "runtime_top_k", "min_tokens"),
    *_scalars("INT32", "runtime_top_p_reset_ids"),
    *_scalars("FP32", "temperature", "runtime_top_p", "runtime_top_p_min", "runtime_top_p_decay", "len_penalty"),
    *_scalars("FP32", "repetition_penalty", "presence_penalty", "frequency_penalty", "beam_search_diversity_rate"),
    *_scalars("UINT64", "seed"),
    *_scalars("BOOL", "early_stopping", *RETURNS, "exclude_input_in_output", "stop", "streaming"),
    Tensor("stop_words_list", "INT32", (2, -1), ragged=True),
    Tensor("bad_words_list", "INT32", (2, -1), ragged=True),
    *_lists("FP32", "embedding_bias"),
    *LORA,
    *_lists("INT32", "retention_token_range_starts", "retention_token_range_ends"),
    *_lists("INT32", "retention_token_range_priorities", "retention_token_range_durations_ms"),
    Tensor("retention_decode_priority", "INT32", ragged=True),
    Tensor("retention_decode_duration_ms", "INT32", ragged=True),
    *GUIDED,
)
# What passes from the engine to the client as it is.
PASSED: tuple[Tensor, ...] = (
    Tensor("cum_log_probs", "FP32", (-1,)),
    Tensor("output_log_probs", "FP32", (-1, -1)),
    Tensor("context_logits", "FP32", (-1, -1)),
    Tensor("generation_logits", "FP32", (-1, -1, -1)),
    Tensor("batch_index", "INT32"),
    Tensor("sequence_index", "INT32"),
    *(Tensor(f"kv_cache_{name}_blocks", "INT32") for name in ("alloc_new", "reused", "alloc_total")),
    *(Tensor(f"{name}_time_ns", "INT64") for name in ("arrival", "first_scheduled", "first_token", "last_token")),
    Tensor("acceptance_rate", "FP32"),
    Tensor("total_accepted_draft_tokens", "INT32"),
    Tensor("total_draft_tokens", "INT32"),
    Tensor("num_input_tokens", "INT32"),
    Tensor("num_output_tokens", "INT32"),
)
ENGINE_OUTPUTS: tuple[Tensor, ...] = (
    Tensor("output_ids", "INT32", (-1, -1)),
    Tensor("sequence_length", "INT32", (-1,)),
    *PASSED,
)
PREPROCESSING_INPUTS: tuple[Tensor, ...] = (
    Tensor("QUERY", "STRING", optional=False),
    Tensor("REQUEST_OUTPUT_LEN", "INT32", optional=False),
    Tensor("BAD_WORDS_DICT", "STRING", (-1,)),
    Tensor("STOP_WORDS_DICT", "STRING", (-1,)),
    Tensor("EMBEDDING_BIAS_WORDS", "STRING", (-1,)),
    Tensor("EMBEDDING_BIAS_WEIGHTS", "FP32", (-1,)),
    Tensor("END_ID", "INT32"),
    Tensor("PAD_ID", "INT32"),
)
PREPROCESSING_OUTPUTS: tuple[Tensor, ...] = (
    Tensor("INPUT_ID", "INT32", (-1,)),
    Tensor("REQUEST_INPUT_LEN", "INT32"),
    Tensor("BAD_WORDS_IDS", "INT32", (2, -1)),
    Tensor("STOP_WORDS_IDS", "INT32", (2, -1)),
    Tensor("EMBEDDING_BIAS", "FP32", (-1,)),
    Tensor("REQUEST_OUTPUT_LEN", "INT32"),
    Tensor("OUT_END_ID", "INT32"),
    Tensor("OUT_PAD_ID", "INT32"),
)
POSTPROCESSING_INPUTS: tuple[Tensor, ...] = (
    Tensor("TOKENS_BATCH", "INT32", (-1, -1), optional=False),
    Tensor("SEQUENCE_LENGTH", "INT32", (-1,), optional=False),
)
POSTPROCESSING_OUTPUTS: tuple[Tensor, ...] = (Tensor("OUTPUT", "STRING", (-1,)),)
# The text contract of ensemble and BLS, and where each of its inputs goes: preprocessing, or the engine.
TO_PREPROCESSING: dict[str, str] = {
    "QUERY": "text_input",
    "REQUEST_OUTPUT_LEN": "max_tokens",
    "BAD_WORDS_DICT": "bad_words",
    "STOP_WORDS_DICT": "stop_words",
    "EMBEDDING_BIAS_WORDS": "embedding_bias_words",
    "EMBEDDING_BIAS_WEIGHTS": "embedding_bias_weights",
    "END_ID": "end_id",
    "PAD_ID": "pad_id",
}
TO_ENGINE: dict[str, str] = {
    "runtime_top_k": "top_k",
    "runtime_top_p": "top_p",
    "len_penalty": "length_penalty",
    "streaming": "stream",
    **{
        name: name
        for name in (
            "temperature",
            "repetition_penalty",
            "min_tokens",
            "presence_penalty",
            "frequency_penalty",
            "seed",
            *RETURNS,
            "exclude_input_in_output",
            "num_return_sequences",
            "beam_width",
            *(tensor.name for tensor in (*LORA, *GUIDED)),
        )
    },
}
# Input of the engine → output of preprocessing.
FROM_PREPROCESSING: dict[str, str] = {
    "input_ids": "INPUT_ID",
    "input_lengths": "REQUEST_INPUT_LEN",
    "request_output_len": "REQUEST_OUTPUT_LEN",
    "end_id": "OUT_END_ID",
    "pad_id": "OUT_PAD_ID",
    "stop_words_list": "STOP_WORDS_IDS",
    "bad_words_list": "BAD_WORDS_IDS",
    "embedding_bias": "EMBEDDING_BIAS",
}
_REQUIRED = ("text_input", "max_tokens")


def _text_inputs() -> tuple[Tensor, ...]:
    members = {tensor.name: tensor for tensor in (*ENGINE_INPUTS, *PREPROCESSING_INPUTS)}
    return tuple(
        Tensor(name, members[target].kind, members[target].dims, optional=name not in _REQUIRED)
        for target, name in (TO_PREPROCESSING | TO_ENGINE).items()
    )


TEXT_INPUTS: tuple[Tensor, ...] = _text_inputs()
TEXT_OUTPUTS: tuple[Tensor, ...] = (Tensor("text_output", "STRING", (-1,)), *PASSED)
