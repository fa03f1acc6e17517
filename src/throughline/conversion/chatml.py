"""The ChatML template that converted models get: tools, Hermes tool calls, tool results, generation markers."""

from __future__ import annotations

import json
from pathlib import Path

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
_SOURCE = Path(__file__).with_name("chatml.jinja")


def chatml(default_system: str = "", *, begin: str = "") -> str:
    """Returns the template's text.

    Args:
        default_system: System message of conversations that have none; empty for none.
        begin: Token that every conversation starts with, for models that were trained so.
    """
    text = _SOURCE.read_text(encoding="utf-8")
    for name, value in (("default_system", default_system), ("begin", begin)):
        # Jinja reads the escapes of a JSON string as JSON does.
        text = text.replace(f"set {name} = ''", f"set {name} = {json.dumps(value, ensure_ascii=False)}", 1)
    return text
