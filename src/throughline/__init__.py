"""Throughline: NeMo, TensorRT-LLM and Triton from raw records to a benchmarked engine."""

from __future__ import annotations

__version__ = "0.1.0"
