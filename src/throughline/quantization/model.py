"""A checkpoint as a model in memory, and ModelOpt's quantisation of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from throughline.contracts.errors import CheckpointError, EngineError
from throughline.contracts.quantization import QuantSpec
from throughline.quantization.formats import BLOCKS_OF_128, configuration

_BLOCK = 128


def load(folder: Path, device: str) -> Any:
    """Loads a checkpoint's weights, rounded to bfloat16; float32 holds them where the machine computes in no other.

    Matrix products in bfloat16 are a hundred times slower on a processor with AVX2 alone (docs/log.md).

    Raises:
        CheckpointError: If transformers does not.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "checkpoint cannot be loaded",
            where=str(folder),
            seen=str(error),
            fix="give a folder that transformers loads",
        ) from None
    model = model.to(device).eval()
    return model if computes_in_16_bits(device) else model.float()


def computes_in_16_bits(device: str) -> bool:
    """Returns whether a device multiplies bfloat16 matrices, as every GPU and some processors do."""
    import torch

    # torch offers no public question for it.
    return bool(device != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_blocks(spec: QuantSpec, model: Any) -> None:
    """Refuses a format whose blocks do not tile the model's layers.

    Raises:
        EngineError: Naming the size that is not divisible.
    """
    config = model.config
    sizes = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size}
    wrong = {name: size for name, size in sizes.items() if size % _BLOCK}
    if spec.recipe is None and spec.qformat in BLOCKS_OF_128 and wrong:
        raise EngineError(
            f"{spec.qformat} needs input sizes in blocks of {_BLOCK}",
            where="quantize.qformat",
            seen=", ".join(f"{name}={size}" for name, size in wrong.items()),
            fix="take fp8, int8_sq or int8",
        )


def quantised(model: Any, spec: QuantSpec, records: Sequence[Sequence[int]], tell: Callable[[float], None]) -> Any:
    """Quantises a model in place, running it on the records.

    Args:
        model: From `load`.
        spec: What to do.
        records: Token ids, no longer than wanted; none where the model cannot be run.
        tell: Hears the fraction of the records that is done.

    Raises:
        EngineError: If ModelOpt refuses the recipe.
    """
    import torch
    from modelopt.torch.quantization import quantize

    device = next(model.parameters()).device

    def forward(running: Any) -> None:
        with torch.inference_mode():
            for number, ids in enumerate(records, start=1):
                running(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=1)
                tell(number / len(records))

    with contextlib.redirect_stdout(Nowhere()):
        return quantize(model, configuration(spec), forward if records else None)


def to_16_bits(model: Any) -> None:
    """Gives a quantised model the types that it has after `load` in bfloat16: scales alone stay as they are."""
    import torch

    # Of buffers this one alone has the weights' type: the export multiplies them by it.
    scales = (values for name, values in model.named_buffers() if name.endswith("_pre_quant_scale"))
    for values in (*model.parameters(), *scales):
        values.data = values.data.to(torch.bfloat16)


class Nowhere:
    """ModelOpt prints what it inserts; the log of libraries takes the rest."""

    def write(self, text: str) -> int:
        """Takes a text."""
        return len(text)

    def flush(self) -> None:
        """Has nothing to flush."""
