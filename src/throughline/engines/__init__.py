"""Engines: build one from a checkpoint, load it, replay its golden prompts."""

from __future__ import annotations

from throughline.engines.base import build, builder, load, load_embedding, verify, weight_pass_bytes
from throughline.engines.detokenizer import Detokenizer
from throughline.vocabulary import Vocabulary

__all__ = ["Detokenizer", "Vocabulary", "build", "builder", "load", "load_embedding", "verify", "weight_pass_bytes"]
