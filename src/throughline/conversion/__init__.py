"""Brings base models in: a GGUF file or a Hugging Face folder becomes a checked checkpoint folder."""

from __future__ import annotations

from throughline.conversion.folder import adopt_folder
from throughline.conversion.gguf import convert_gguf
from throughline.conversion.origin import Origin, own_file, packaged_file
from throughline.conversion.result import Conversion
from throughline.conversion.templates import TemplateSpec

__all__ = [
    "Conversion",
    "Origin",
    "TemplateSpec",
    "adopt_folder",
    "convert_gguf",
    "own_file",
    "packaged_file",
]
