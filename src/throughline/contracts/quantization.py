"""Post-training quantisation with ModelOpt: what is asked for, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel

QuantFormat = Literal["fp8", "int8_sq", "int8", "int4", "int4_awq", "w4a8_awq", "nvfp4", "mxfp8"]
KvFormat = Literal["none", "fp8", "nvfp4"]
NOT_SCORED = "not scored"


class QuantSpec(StrictModel):
    """How to quantise a checkpoint, in ModelOpt's terms; either a format or a recipe of ModelOpt's own.

    Attributes:
        qformat: ModelOpt's configuration of that name.
        recipe: A YAML file of ModelOpt's recipes, or the name of one that it ships
            (`general/ptq/fp8_default-kv_fp8`); it decides everything, `qformat` and `kv_cache_qformat` are not used.
        kv_cache_qformat: Type of the KV cache.
        exclude_modules: Wildcards of modules that keep 16 bits, e.g. `*layers.0.*`.
        calib_size: Training records to calibrate on.
        calib_max_seq_length: Tokens of each of them; of a longer record the last ones, where the answer is.
        score_records: Validation records that the loss is compared on, 0 for none.
        sensitivity: Measure each layer alone too: how much of the loss it gives back in 16 bits.
    """

    qformat: QuantFormat = "fp8"
    recipe: Path | None = None
    kv_cache_qformat: KvFormat = "none"
    exclude_modules: tuple[str, ...] = ()
    calib_size: int = Field(default=64, ge=1)
    calib_max_seq_length: int = Field(default=512, ge=1)
    score_records: int = Field(default=32, ge=0)
    sensitivity: bool = False

    @model_validator(mode="after")
    def _sensitivity_needs_a_score(self) -> Self:
        if self.sensitivity and not self.score_records:
            raise ValueError("sensitivity needs score_records")
        return self


class LossChange(StrictModel):
    """The loss of the same answers in 16 bits and quantised, nats a token of the answers.

    Attributes:
        records: Records compared.
        tokens: Tokens of their answers.
        base: Mean loss in 16 bits.
        quantised: Mean loss quantised.
        low: Lower end of the 95 % interval of the mean difference, by record.
        high: Upper end.
        agreement: Share of tokens at which both find the same one likeliest.
    """

    records: int
    tokens: int
    base: float
    quantised: float
    low: float
    high: float
    agreement: float


class LayerGain(StrictModel):
    """What one layer in 16 bits gives back: loss quantised less loss with this layer as it was; more is worse."""

    layer: int
    gain: float


class QuantReport(StrictModel):
    """What a quantisation made.

    Attributes:
        status: `scored`, or `not scored` where this machine cannot compute in the format; a gate passes no such one.
        quant_algo: Name that TensorRT-LLM reads, from `hf_quant_config.json`.
        kv_cache_quant_algo: The same of the KV cache.
        weight_bytes: Size of the safetensors files.
        calibration_records: Records that it was calibrated on.
        calibration_tokens: Their tokens.
        loss: Compared on validation records.
        layers: By gain, largest first; empty without `sensitivity`.
        seconds: Duration of each phase.
    """

    status: Literal["scored", "not scored"]
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    weight_bytes: int
    calibration_records: int
    calibration_tokens: int
    loss: LossChange | None = None
    layers: tuple[LayerGain, ...] = ()
    seconds: dict[str, float]
