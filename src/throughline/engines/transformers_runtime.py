"""A transformers model behind the runtime protocol, for what no engine here computes: ModelOpt's simulated formats."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughline.checkpoints import TOKENIZER, read_json
from throughline.contracts.engine import EngineStats, FinishReason, SamplingParams, StepOutput
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.model_config import eos_token_ids
from throughline.engines.detokenizer import Detokenizer
from throughline.vocabulary import Vocabulary

_GREEDY_ALONE = SamplingParams()


class TransformersRuntime:
    """Answers one request a step, greedily; a request that asks for more than that ends with an error.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        checkpoint_dir: Folder of its tokenizer and of the ids that end an answer.

    Raises:
        EngineError: If the folder names no such id, or its tokenizer cannot be read.
    """

    def __init__(self, model: Any, checkpoint_dir: Path) -> None:
        generation = checkpoint_dir / "generation_config.json"
        self._eos = eos_token_ids(
            read_json(checkpoint_dir / "config.json"), read_json(generation) if generation.is_file() else {}
        )
        self._vocabulary = Vocabulary.from_tokenizer(checkpoint_dir / TOKENIZER, self._eos)
        self._model = model
        self._waiting: deque[tuple[str, tuple[int, ...], SamplingParams]] = deque()
        self._generated = 0

    def submit(self, request_id: str, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        """See `EngineRuntime.submit`."""
        if any(request_id == known for known, _, _ in self._waiting):
            raise EngineError("request id is live already", where=request_id, fix="give every request its own id")
        self._waiting.append((request_id, tuple(prompt_token_ids), params))

    def step(self) -> list[StepOutput]:
        """See `EngineRuntime.step`."""
        request_id, prompt, params = self._waiting.popleft()
        fault = self._fault(prompt, params)
        if fault:
            return [StepOutput(request_id, (), "", "error", len(prompt), 0, fault, error_kind="invalid")]
        tokens = self._generate(prompt, params.max_tokens)
        stopped = tokens[-1] in self._eos
        detokenizer = Detokenizer(self._vocabulary)
        text = detokenizer.push(tokens[:-1] if stopped else tokens) + detokenizer.finish()
        self._generated += len(tokens)
        reason: FinishReason = "stop" if stopped else "length"
        return [StepOutput(request_id, tuple(tokens), text, reason, len(prompt), len(tokens))]

    def cancel(self, request_id: str) -> None:
        """See `EngineRuntime.cancel`; what is waiting is dropped without an output."""
        self._waiting = deque(item for item in self._waiting if item[0] != request_id)

    def has_work(self) -> bool:
        """See `EngineRuntime.has_work`."""
        return bool(self._waiting)

    def stats(self) -> EngineStats:
        """See `EngineRuntime.stats`; the cache is transformers' own and not counted."""
        return EngineStats(0, len(self._waiting), 0.0, 0, self._generated)

    def close(self) -> None:
        """See `EngineRuntime.close`."""
        self._waiting.clear()
        self._model = None

    def _fault(self, prompt: tuple[int, ...], params: SamplingParams) -> str:
        """What of a request cannot be had here, empty if nothing."""
        config = self._model.config
        longest = config.max_position_embeddings
        wanted = {name for name in vars(_GREEDY_ALONE) if getattr(params, name) != getattr(_GREEDY_ALONE, name)}
        if wanted - {"max_tokens"}:
            return f"only greedy answers are computed here, not {', '.join(sorted(wanted - {'max_tokens'}))}"
        if not prompt or min(prompt) < 0 or max(prompt) >= config.vocab_size:
            return f"prompt is empty or has ids beyond the vocabulary of {config.vocab_size}"
        if len(prompt) + params.max_tokens > longest:
            return f"{len(prompt)} + {params.max_tokens} tokens, the model was made for {longest}"
        return ""

    def _generate(self, prompt: tuple[int, ...], count: int) -> list[int]:
        import torch
        import transformers

        # Its own configuration and nothing of the model's, which may say to sample or to penalise.
        settings: Any = transformers.GenerationConfig
        config = settings(
            do_sample=False, max_new_tokens=count, eos_token_id=list(self._eos), pad_token_id=self._eos[0]
        )
        ids = torch.tensor([prompt], device=next(self._model.parameters()).device)
        with torch.inference_mode():
            found = self._model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return [int(token) for token in found[0, len(prompt) :].tolist()]
