"""Data with governance: raw records in, a tokenised dataset with its rejects and card out."""

from __future__ import annotations

from throughline.data.calibration import Calibration, CalibrationRecord, calibration_records, choose, choose_validation
from throughline.data.calibration_check import prompts_of_dataset, prompts_of_workload, warnings
from throughline.data.pipeline import prepare
from throughline.data.report import DataReport

__all__ = [
    "Calibration",
    "CalibrationRecord",
    "DataReport",
    "calibration_records",
    "choose",
    "choose_validation",
    "prepare",
    "prompts_of_dataset",
    "prompts_of_workload",
    "warnings",
]
