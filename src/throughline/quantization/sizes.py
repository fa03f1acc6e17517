"""How much calibrating on more records gains: the loss of the same answers, size by size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from throughline.contracts.errors import EngineError
from throughline.contracts.progress import OnProgress
from throughline.contracts.quantization import QuantSpec, SizeLoss
from throughline.quantization.formats import is_calibrated, is_computable
from throughline.quantization.loss import Answers, RecordLoss, compare, losses
from throughline.quantization.model import check_blocks, load, quantised
from throughline.quantization.record import Record


def compare_sizes(
    checkpoint_dir: Path,
    spec: QuantSpec,
    sizes: Sequence[int],
    *,
    calibration: Sequence[Sequence[int]],
    held_out: Sequence[Record],
    device: str = "cpu",
    on_progress: OnProgress = lambda phase, fraction: None,
) -> tuple[SizeLoss, ...]:
    """Compares the loss of the same answers after calibrating on more and more records; exports nothing.

    Args:
        checkpoint_dir: As for `quantize`.
        spec: What to do; its `calib_size` is not used.
        sizes: Numbers of records, ascending; each takes the first ones of `calibration`.
        calibration: Token ids of training records, as many as the largest size.
        held_out: Two validation records or more.
        device: Where to compute, `cpu` or `cuda`.
        on_progress: Hears `(phase, fraction of the whole)`.

    Raises:
        EngineError: If the format learns nothing from records, cannot be computed here, or as for `quantize`.
        CheckpointError: If the checkpoint cannot be loaded.
    """
    _check(spec, device, len(held_out))
    records = [list(ids)[-spec.calib_max_seq_length :] for ids in calibration]
    answers = [Answers.of(record.input_ids, record.labels) for record in held_out]
    model = load(checkpoint_dir, device)
    check_blocks(spec, model)
    scoring = sum(len(answer.input_ids) for answer in answers)
    tokens = {size: sum(map(len, records[:size])) for size in sizes}
    parts = _Parts(on_progress, (1 + len(sizes)) * scoring + sum(tokens.values()))
    base = losses(model, answers, parts("16 bits", scoring))
    found: dict[int, list[RecordLoss]] = {}
    for size in sizes:
        # The earlier one is quantised in place.
        model = load(checkpoint_dir, device)
        model = quantised(model, spec, records[:size], parts(f"{size} records", tokens[size]))
        found[size] = losses(model, answers, parts(f"{size} records, scored", scoring))
    largest = found[max(found)]
    return tuple(
        SizeLoss(
            records=size,
            tokens=tokens[size],
            loss=compare(base, each),
            against_largest=compare(largest, each) if each is not largest else None,
        )
        for size, each in found.items()
    )


class _Parts:
    """Tells how much of the whole is done, of parts that take as long as they have tokens."""

    def __init__(self, on_progress: OnProgress, total: int) -> None:
        self._on_progress = on_progress
        self._total = total
        self._before = 0

    def __call__(self, phase: str, tokens: int) -> Callable[[float], None]:
        """Begins a part."""
        before, self._before = self._before, self._before + tokens
        return lambda fraction: self._on_progress(phase, (before + fraction * tokens) / self._total)


def _check(spec: QuantSpec, device: str, held_out: int) -> None:
    if not is_calibrated(spec):
        raise EngineError(
            f"{spec.qformat} learns nothing from records",
            where="calib_sizes",
            seen=f"qformat={spec.qformat}, kv_cache_qformat={spec.kv_cache_qformat}",
            fix="compare sizes for fp8, int8_sq, int4_awq, w4a8_awq or nvfp4",
        )
    if not is_computable(spec, device):
        raise EngineError(
            "a CPU has no arithmetic for this format, so that no size can be scored",
            where="calib_sizes",
            seen=f"qformat={spec.qformat}, kv_cache_qformat={spec.kv_cache_qformat}",
            fix="compare on a GPU (device=cuda), or take another format",
        )
    if held_out < 2:
        raise EngineError(
            "sizes are compared on two held-out records or more",
            where="quantize.score_records",
            seen=held_out,
            fix="set quantize.score_records=32",
        )
