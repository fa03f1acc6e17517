"""Data with governance: raw records in, a tokenised dataset with its rejects and card out."""

from __future__ import annotations

from throughline.data.calibration import calibration_records
from throughline.data.pipeline import prepare
from throughline.data.report import DataReport

__all__ = ["DataReport", "calibration_records", "prepare"]
