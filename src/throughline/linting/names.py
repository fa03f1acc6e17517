"""The names that TensorRT-LLM knows, from `names.yaml`."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml


def known_names() -> dict[str, Any]:
    """Returns the names that TensorRT-LLM knows, from `names.yaml`."""
    found: dict[str, Any] = yaml.safe_load(resources.files(__package__).joinpath("names.yaml").read_text("utf-8"))
    return found
