"""Post-training quantisation with ModelOpt: what is asked for, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel
from throughline.contracts.errors import CheckpointError, GateInconclusive
from throughline.contracts.evaluation import Comparison

QuantFormat = Literal["fp8", "int8_sq", "int8", "int4", "int4_awq", "w4a8_awq", "nvfp4", "mxfp8"]
KvFormat = Literal["none", "fp8", "nvfp4"]
NOT_SCORED = "not scored"
REPORT_FILE = "quant_report.json"


class QuantSpec(StrictModel):
    """How to quantise a checkpoint, in ModelOpt's terms; either a format or a recipe of ModelOpt's own.

    Attributes:
        qformat: ModelOpt's configuration of that name.
        recipe: A YAML file of ModelOpt's recipes, or the name of one that it ships
            (`general/ptq/fp8_default-kv_fp8`); it decides everything, `qformat` and `kv_cache_qformat` are not used.
        kv_cache_qformat: Type of the KV cache.
        exclude_modules: Wildcards of modules that keep 16 bits, e.g. `*layers.0.*`.
        calib_size: Training records to calibrate on, see `CalibrationReport`.
        calib_max_seq_length: Tokens of each of them; of a longer record the last ones, where the answer is.
        score_records: Validation records that the loss is compared on, 0 for none.
        sensitivity: Measure each layer alone too: how much of the loss it gives back in 16 bits.
    """

    qformat: QuantFormat = "fp8"
    recipe: Path | None = None
    kv_cache_qformat: KvFormat = "none"
    exclude_modules: tuple[str, ...] = ()
    calib_size: int = Field(default=256, ge=1)
    calib_max_seq_length: int = Field(default=1024, ge=1)
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

    @property
    def change(self) -> float:
        """Mean change by token."""
        return self.quantised - self.base

    @property
    def by_record(self) -> float:
        """Mean change by record, in the middle of its interval."""
        return (self.low + self.high) / 2


class SizeLoss(StrictModel):
    """What comes of calibrating on the first records of one choice.

    Attributes:
        records: How many.
        tokens: Their tokens.
        loss: Against 16 bits.
        against_largest: The same answers against those of the largest size; None for that one.
    """

    records: int
    tokens: int
    loss: LossChange
    against_largest: LossChange | None = None


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
        tasks: Held-out questions answered in 16 bits and quantised, metric by metric; empty where none were asked.
        seconds: Duration of each phase.
        peak_memory_bytes: Most that was used: on a GPU what PyTorch allocated there, else the process's memory; None
            where the system does not tell.
        warnings: What speaks against the calibration, in words.
    """

    status: Literal["scored", "not scored"]
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    weight_bytes: int
    calibration_records: int
    calibration_tokens: int
    loss: LossChange | None = None
    layers: tuple[LayerGain, ...] = ()
    tasks: tuple[Comparison, ...] = ()
    seconds: dict[str, float]
    peak_memory_bytes: int | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Reads the report of a quantised checkpoint; None if there is none.

        Raises:
            CheckpointError: If it cannot be read: what it says decides whether the checkpoint may be used.
        """
        path = folder / REPORT_FILE
        if not path.is_file():
            return None
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(
                "report of the quantisation cannot be read",
                where=str(path),
                seen=str(error).splitlines()[0],
                fix="run `python -m recipes.quantize` again",
            ) from None


class Quantised(StrictModel):
    """How a checkpoint folder is quantised.

    Attributes:
        algorithm: TensorRT-LLM's name, or the method where the checkpoint has only one of those.
        kv_cache_algorithm: The same of the KV cache.
        report: Of our own quantisation; None for a checkpoint from elsewhere.
    """

    algorithm: str
    kv_cache_algorithm: str | None = None
    report: QuantReport | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Reads a checkpoint folder; None if its weights are not quantised.

        Raises:
            CheckpointError: If a file of it is no JSON.
        """
        found = _json(folder / "hf_quant_config.json").get("quantization")
        found = found or _json(folder / "config.json").get("quantization_config")
        if not isinstance(found, dict):
            return None
        algorithm = found.get("quant_algo") or found.get("quant_method")
        return cls(
            algorithm=str(algorithm or "unknown"),
            kv_cache_algorithm=found.get("kv_cache_quant_algo"),
            report=QuantReport.read(folder),
        )

    @property
    def score(self) -> str:
        """What is known of its quality, in words."""
        loss = self.report.loss if self.report is not None else None
        if loss is not None:
            return f"{loss.by_record:+.4f} nats a token [{loss.low:+.4f}, {loss.high:+.4f}], {loss.records} records"
        return "none known here: quantised elsewhere" if self.report is None else NOT_SCORED

    def check_scored(self, where: str) -> None:
        """Refuses a checkpoint that we quantised and nobody scored.

        Raises:
            GateInconclusive: If its report says so.
        """
        if self.report is not None and self.report.status == NOT_SCORED:
            raise GateInconclusive(
                "quantised checkpoint was never scored, so no gate lets it pass",
                where=where,
                seen=f"{self.algorithm}: {NOT_SCORED} (no arithmetic for it where it was made, or score_records=0)",
                fix="quantise where it can be computed: `python -m recipes.quantize device=cuda`, with score_records",
            )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON", where=str(path), seen=str(error), fix="copy it again"
        ) from None
    return values if isinstance(values, dict) else {}
