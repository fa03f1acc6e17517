"""Brings base models in: a GGUF file or a Hugging Face folder becomes a checked checkpoint folder."""
