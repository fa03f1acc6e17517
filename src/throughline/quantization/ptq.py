"""Quantises a checkpoint with ModelOpt, compares its loss with that of 16 bits, and exports it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from throughline.checkpoints import check_finite, read_tensors
from throughline.contracts.errors import EngineError
from throughline.contracts.progress import OnProgress
from throughline.contracts.quantization import NOT_SCORED, LayerGain, QuantReport, QuantSpec
from throughline.quantization.formats import is_calibrated, is_computable
from throughline.quantization.loss import Answers, compare, losses
from throughline.quantization.model import Nowhere, check_blocks, load, quantised, to_16_bits
from throughline.quantization.record import Record
from throughline.resources import peak_memory, reset_peak_memory

# Hears which model it is, `16 bits` or `quantised`, the model, and whom to tell the fraction that is done.
Ask = Callable[[str, Any, Callable[[float], None]], None]
_COPIED = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")

_NOT_CALIBRATED = "not calibrated either: without running the model there are no scales of its activations"


def quantize(
    checkpoint_dir: Path,
    spec: QuantSpec,
    out_dir: Path,
    *,
    calibration: Sequence[Sequence[int]],
    held_out: Sequence[Record] = (),
    device: str = "cpu",
    ask: Ask | None = None,
    on_progress: OnProgress = lambda phase, fraction: None,
) -> QuantReport:
    """Writes a unified Hugging Face checkpoint, as TensorRT-LLM's PyTorch flow reads it.

    Args:
        checkpoint_dir: Folder with `config.json`, safetensors weights and `tokenizer.json`.
        spec: What to do.
        out_dir: Where to; `hf_quant_config.json` is written by ModelOpt.
        calibration: Token ids of training records; none is used where the format cannot be computed.
        held_out: Validation records to compare the loss on; none of them may be a training record.
        device: Where to compute, `cpu` or `cuda`.
        ask: Called with the model in 16 bits and quantised, where the format can be computed.
        on_progress: Hears `(phase, fraction of the phase)`.

    Raises:
        EngineError: If the format does not go with the model's sizes, ModelOpt refuses the recipe or cannot export it.
        CheckpointError: If the checkpoint cannot be loaded, or its numbers are not all finite.
        OSError: If the export cannot be written.
    """
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    seconds: dict[str, float] = {}
    peak = _Peak(device)
    with _timed(seconds, "check", on_progress) as tell:
        check_finite(read_tensors(checkpoint_dir), tell)
    model = load(checkpoint_dir, device)
    check_blocks(spec, model)
    computable = is_computable(spec, device)
    records = [list(ids)[-spec.calib_max_seq_length :] for ids in calibration] if computable else []
    answers = [Answers.of(record.input_ids, record.labels) for record in held_out] if computable else []
    with _timed(seconds, "base loss", on_progress) as tell:
        base = losses(model, answers, tell)
    if ask is not None and computable:
        with _timed(seconds, "base answers", on_progress) as tell:
            ask("16 bits", model, tell)
    with _timed(seconds, "quantise", on_progress) as tell:
        model = quantised(model, spec, records, tell)
    with _timed(seconds, "loss", on_progress) as tell:
        loss = compare(base, losses(model, answers, tell)) if answers else None
    if ask is not None and computable:
        with _timed(seconds, "answers", on_progress) as tell:
            ask("quantised", model, tell)
    layers: tuple[LayerGain, ...] = ()
    if spec.sensitivity and loss is not None:
        with _timed(seconds, "sensitivity", on_progress) as tell:
            layers = _sensitivity(model, answers, loss.quantised, tell)
    to_16_bits(model)
    with _timed(seconds, "export", on_progress):
        try:
            with torch.inference_mode(), contextlib.redirect_stdout(Nowhere()):
                export_hf_checkpoint(model, export_dir=out_dir)
        except OSError:
            # A full disk says so itself.
            raise
        except Exception as error:
            raise EngineError(
                "ModelOpt cannot export this checkpoint",
                where="quantize.qformat",
                seen=f"{spec.recipe or spec.qformat}: {type(error).__name__}: {error}",
                fix="take another format",
            ) from error
        for name in _COPIED:
            if (checkpoint_dir / name).is_file():
                shutil.copyfile(checkpoint_dir / name, out_dir / name)
    found = json.loads((out_dir / "hf_quant_config.json").read_text(encoding="utf-8"))["quantization"]
    return QuantReport(
        status="scored" if loss is not None else NOT_SCORED,
        quant_algo=found.get("quant_algo"),
        kv_cache_quant_algo=found.get("kv_cache_quant_algo"),
        weight_bytes=sum(path.stat().st_size for path in out_dir.glob("*.safetensors")),
        calibration_records=len(records),
        calibration_tokens=sum(map(len, records)),
        loss=loss,
        layers=layers,
        seconds=seconds,
        peak_memory_bytes=peak.bytes(),
        warnings=() if computable or not is_calibrated(spec) else (_NOT_CALIBRATED,),
    )


class _Peak:
    """The most memory that is used from here on."""

    def __init__(self, device: str) -> None:
        self._is_cuda = device == "cuda"
        self._knows = True
        if self._is_cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            self._knows = reset_peak_memory()

    def bytes(self) -> int | None:
        """Returns it; None where the system does not tell."""
        if self._is_cuda:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return peak_memory() if self._knows else None


def _sensitivity(
    model: Any, answers: Sequence[Answers], whole: float, tell: Callable[[float], None]
) -> tuple[LayerGain, ...]:
    """Turns one layer's quantisers off at a time."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    gains = []
    layers = model.model.layers
    for index, layer in enumerate(layers):
        on = [part for part in layer.modules() if isinstance(part, TensorQuantizer) and part.is_enabled]
        for part in on:
            part.disable()
        try:
            found = losses(model, answers, lambda fraction: None)
        finally:
            for part in on:
                part.enable()
        mean = sum(item.total for item in found) / sum(item.tokens for item in found)
        gains.append(LayerGain(layer=index, gain=whole - mean))
        tell((index + 1) / len(layers))
    return tuple(sorted(gains, key=lambda item: -item.gain))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], phase: str, on_progress: OnProgress) -> Iterator[Callable[[float], None]]:
    started = time.perf_counter()
    on_progress(phase, 0.0)
    yield lambda fraction: on_progress(phase, fraction)
    seconds[phase] = time.perf_counter() - started
