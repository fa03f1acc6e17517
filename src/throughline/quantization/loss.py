"""The loss of answers, record by record, in 16 bits and quantised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from throughline.contracts.errors import DataError
from throughline.contracts.quantization import LossChange


@dataclass(frozen=True)
class Answers:
    """A record: its tokens, the positions whose logits predict the answer, and the answer's tokens."""

    input_ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, input_ids: Sequence[int], labels: Sequence[int]) -> Self:
        """Reads labels with -100 wherever the answer is not.

        Raises:
            DataError: If there is no answer.
        """
        found = [(index - 1, label) for index, label in enumerate(labels) if label >= 0 and index]
        if not found:
            raise DataError(
                "record has no answer to compare",
                where="labels",
                seen=f"{len(labels)} labels",
                fix="make the dataset anew",
            )
        return cls(tuple(input_ids), tuple(place for place, _ in found), tuple(label for _, label in found))


@dataclass(frozen=True)
class RecordLoss:
    """Summed loss of an answer in nats, its tokens, and the likeliest token at each."""

    total: float
    tokens: int
    likeliest: tuple[int, ...]


def losses(model: Any, answers: Sequence[Answers], tell: Callable[[float], None]) -> list[RecordLoss]:
    """Runs whole records one by one; logits are compared in float32."""
    import torch

    found = []
    device = next(model.parameters()).device
    for number, answer in enumerate(answers, start=1):
        places = torch.tensor(answer.positions, device=device)
        with torch.inference_mode():
            ids = torch.tensor([answer.input_ids], device=device)
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=places).logits[0].float()
        targets = torch.tensor(answer.targets, device=device)
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        found.append(RecordLoss(float(loss), len(answer.targets), tuple(logits.argmax(-1).tolist())))
        tell(number / len(answers))
    return found


def compare(base: Sequence[RecordLoss], quantised: Sequence[RecordLoss]) -> LossChange:
    """Returns both means by token, and a 95 % interval of the difference by record (Student's t, paired)."""
    import math
    import statistics

    from scipy.stats import t

    tokens = sum(item.tokens for item in base)
    differences = [(after.total - before.total) / before.tokens for before, after in zip(base, quantised, strict=True)]
    mean = statistics.fmean(differences)
    half = 0.0
    if len(differences) > 1:
        half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    same = sum(
        one == other
        for before, after in zip(base, quantised, strict=True)
        for one, other in zip(before.likeliest, after.likeliest, strict=True)
    )
    return LossChange(
        records=len(base),
        tokens=tokens,
        base=sum(item.total for item in base) / tokens,
        quantised=sum(item.total for item in quantised) / tokens,
        low=mean - half,
        high=mean + half,
        agreement=same / tokens,
    )
