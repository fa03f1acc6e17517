"""The task metric of a model that is being trained: greedy answers to development questions, in batches."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.contracts.evaluation import Answer, Question, SuiteSpec
from throughline.evaluation.questions import load_questions, select
from throughline.evaluation.suite import score

if TYPE_CHECKING:
    import torch

# What a validation shows of the task, where the questions bear on it.
REPORTED = (
    "task_success",
    "triage_exact_match",
    "exact_match",
    "json_validity",
    "refusal_accuracy",
    "false_refusals",
    "grounded_exact_match",
)
# Prompts that agree this far are read as one prefix and many ends.
_SHARED = 32


def make_probe(
    questions_path: Path, tokenizer_folder: Path, size: int, max_new_tokens: int, batch_size: int = 32
) -> Callable[[Any], dict[str, float]] | None:
    """Returns the probe: model → `probe/<metric>`, on the same questions at every call; None without any.

    Args:
        questions_path: Rendered development questions, which need not be there; never the acceptance set.
        tokenizer_folder: Folder with `tokenizer.json`, `config.json` and perhaps `generation_config.json`.
        size: Most questions, spread evenly over strata and labels; 0 for none.
        max_new_tokens: Length limit of an answer, which bounds a probe to `size · max_new_tokens` tokens.
        batch_size: Questions in one forward pass.

    Raises:
        DataError: If the questions cannot be read.
    """
    from tokenizers import Tokenizer

    if not size or not questions_path.is_file():
        return None
    questions = _spread(load_questions(questions_path), size)
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    ends = _ends(tokenizer_folder)

    def probe(model: Any) -> dict[str, float]:
        tokens = answers_by_greedy(
            model,
            [question.prompt_token_ids for question in questions],
            eos_ids=ends,
            pad_id=min(ends),
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
        answers = [_answer(question, ids, ends, tokenizer) for question, ids in zip(questions, tokens, strict=True)]
        metrics = score("probe", questions, answers, SuiteSpec(bootstrap_samples=100)).metrics
        return {f"probe/{name}": metrics[name].value for name in REPORTED if name in metrics}

    return probe


def _spread(questions: list[Question], size: int) -> list[Question]:
    """At most `size` questions, from each stratum as many as its share."""
    counts: dict[str, int] = {}
    for question in questions:
        counts[question.stratum] = counts.get(question.stratum, 0) + 1
    share = min(1.0, size / len(questions))
    return select(questions, {name: max(1, round(share * count)) for name, count in counts.items()})


def _ends(folder: Path) -> frozenset[int]:
    """The ids that end an answer; generation settings win over the model's config, as in transformers."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return frozenset(found if isinstance(found, list) else [found])
    return frozenset({0})


def _answer(question: Question, ids: Sequence[int], ends: Collection[int], tokenizer: Any) -> Answer:
    kept = [token for token in ids if token not in ends]
    text = tokenizer.decode(kept, skip_special_tokens=False)
    return Answer(question.id, text, tuple(ids), "stop" if len(kept) < len(ids) else "length")


def answers_by_greedy(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    eos_ids: Collection[int],
    pad_id: int,
    max_new_tokens: int,
    batch_size: int = 32,
) -> list[list[int]]:
    """Answers prompts greedily in left-padded batches of similar length; leaves the model as it was.

    Prompts with the same beginning (system message and tools) share one reading of it. The loop is our own,
    so that the generation settings of a checkpoint (penalties, sampling) have no say.

    Args:
        model: A causal language model with transformers' `forward` and KV cache, on any device.
        prompts: Token ids, none of them empty.
        eos_ids: Ids that end an answer.
        pad_id: Any id of the vocabulary; padding is masked.
        max_new_tokens: Length limit of an answer.
        batch_size: Prompts in one forward pass.

    Returns:
        The new tokens of each prompt in the given order; the one that ended an answer is its last.
    """
    import torch

    def head(index: int) -> tuple[int, ...]:
        return tuple(prompts[index][:_SHARED])

    order = sorted(range(len(prompts)), key=lambda index: (head(index), len(prompts[index])))
    answers: list[list[int]] = [[] for _ in prompts]
    with torch.inference_mode(), _evaluating(model):
        for _, group in groupby(order, key=head):
            members = list(group)
            for start in range(0, len(members), batch_size):
                chosen = members[start : start + batch_size]
                batch = _Batch(model, [prompts[index] for index in chosen], pad_id)
                for index, answer in zip(chosen, batch.answer(eos_ids, max_new_tokens), strict=True):
                    answers[index] = answer
    return answers


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module has its own mode again."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


class _Batch:
    """Prompts that are answered together; `input_ids` int64 [B, S] and `mask` [B, prefix + S], S the longest end."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        import torch

        self._model = model
        # Logits of the last position are all that is read; of a whole prompt they are gigabytes.
        takes = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"use_cache": True} | ({"logits_to_keep": 1} if takes else {})
        self._device = next(model.parameters()).device
        shared = _common(prompts) if len(prompts) > 1 else 0
        shared = shared if shared >= _SHARED else 0
        ends = [list(prompt[shared:]) for prompt in prompts]
        width = max(len(end) for end in ends)
        self.input_ids = self._tensor([[pad_id] * (width - len(end)) + end for end in ends])
        real = self._tensor([[0] * (width - len(end)) + [1] * len(end) for end in ends])
        self.mask = torch.cat([real.new_ones(len(ends), shared), real], dim=1)
        self.positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
        self.cache: Any = None
        if shared:
            self.cache = model(input_ids=self._tensor([list(prompts[0][:shared])]), **self._options).past_key_values
            self.cache.batch_repeat_interleave(len(ends))

    def answer(self, eos_ids: Collection[int], max_new_tokens: int) -> list[list[int]]:
        """New tokens of every prompt, until each has ended."""
        import torch

        answers: list[list[int]] = [[] for _ in range(len(self.input_ids))]
        running = set(range(len(answers)))
        for _ in range(max_new_tokens):
            output = self._model(
                input_ids=self.input_ids,
                attention_mask=self.mask,
                position_ids=self.positions,
                past_key_values=self.cache,
                **self._options,
            )
            self.cache = output.past_key_values
            following: torch.Tensor = output.logits[:, -1].argmax(dim=-1)
            for row, token in enumerate(following.tolist()):
                if row in running:
                    answers[row].append(token)
                    if token in eos_ids:
                        running.discard(row)
            if not running:
                break
            self.input_ids = following[:, None]
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(answers), 1)], dim=1)
            self.positions = self.positions[:, -1:] + 1
        return answers

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        import torch

        return torch.tensor(rows, dtype=torch.int64, device=self._device)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, at least one left to each."""
    first = prompts[0]
    most = min(len(prompt) for prompt in prompts) - 1
    for index in range(most):
        if any(prompt[index] != first[index] for prompt in prompts):
            return index
    return most
