"""Tensors of the ensemble and BLS contract, and what the `llmapi` model (TensorRT-LLM 1.2.x) has of them."""

from __future__ import annotations

from throughline.contracts.migration import Fate, Move


def _input(name: str, target: str = "", note: str = "") -> Move:
    return Move(kind="input", name=name, fate=_fate(target, note), target=target, note=note)


def _output(name: str, target: str = "", note: str = "") -> Move:
    return Move(kind="output", name=name, fate=_fate(target, note), target=target, note=note)


def _fate(target: str, note: str) -> Fate:
    if not target:
        return "lost"
    return "changed" if note else "mapped"


_LOGITS = "the PyTorch flow gives no logits to Triton's clients"
_ADAPTER = "weights are not sent with a request any more; newer releases take lora_path or lora_id"
_REFUSE = "refuse such a request in front of the model: it would be ignored"
_COUNT = "count with the tokenizer in front of the model"
_GUIDED = "no guided decoding through this model: check answers, or serve with trtllm-serve"
_PROMPT_TUNING = "prompt tuning is of the engine flow"
MOVES: tuple[Move, ...] = (
    _input("text_input", "text_input", "its first element alone is read; LLM() tokenises it itself"),
    _input("max_tokens", "sampling_param_max_tokens"),
    _input("stream", "streaming"),
    _input("stop", "stop"),
    _input("temperature", "sampling_param_temperature"),
    _input("top_k", "sampling_param_top_k"),
    _input("top_p", "sampling_param_top_p"),
    _input("presence_penalty", "sampling_param_presence_penalty"),
    _input("frequency_penalty", "sampling_param_frequency_penalty"),
    _input("seed", "sampling_param_seed"),
    _input("random_seed", "sampling_param_seed", "the old name of seed"),
    _input("stop_words", "sampling_param_stop", "texts, not words that are tokenised: matches may end elsewhere"),
    _input(
        "exclude_input_in_output",
        "sampling_param_exclude_input_from_output",
        "false unless a request says so; the back end's own setting is gone",
    ),
    _input("num_return_sequences", "sampling_param_best_of", "best_of sequences are made, one is returned"),
    _input("return_perf_metrics", "sampling_param_return_perf_metrics"),
    _input("repetition_penalty", note=_REFUSE),
    _input("length_penalty", note="beam search is not reached by requests"),
    _input("min_tokens", note=_REFUSE),
    _input("bad_words", note="OpenAI's API has no such field"),
    _input("beam_width", note="beam search is not reached by requests"),
    _input("end_id", note="LLM() reads it from the checkpoint"),
    _input("pad_id", note="LLM() reads it from the checkpoint"),
    _input("return_log_probs", note="return_cumulative_logprob gives the sum; refuse logprobs in front of it"),
    _input("return_context_logits", note=_LOGITS),
    _input("return_generation_logits", note=_LOGITS),
    _input("return_num_input_tokens", note=_COUNT),
    _input("return_num_output_tokens", note=_COUNT),
    _input("embedding_bias_words", note=_REFUSE),
    _input("embedding_bias_weights", note=_REFUSE),
    _input("prompt_embedding_table", note=_PROMPT_TUNING),
    _input("prompt_table_extra_id", note=_PROMPT_TUNING),
    _input("prompt_vocab_size", note=_PROMPT_TUNING),
    _input("lora_task_id", note=_ADAPTER),
    _input("lora_weights", note=_ADAPTER),
    _input("lora_config", note=_ADAPTER),
    _input(
        "guided_decoding_guide_type",
        note=_GUIDED,
    ),
    _input("guided_decoding_guide", note=_GUIDED),
    _output("text_output", "text_output"),
    _output("cum_log_probs", "cumulative_logprob", "with return_cumulative_logprob"),
    _output("output_log_probs", note="no log-probability of a token; refuse logprobs in front of it"),
    _output("context_logits", note=_LOGITS),
    _output("generation_logits", note=_LOGITS),
    _output("batch_index", note="requests come back by their id"),
    _output("sequence_index", note="one sequence comes back"),
    _output("num_input_tokens", note=_COUNT),
    _output("num_output_tokens", note=_COUNT),
)
