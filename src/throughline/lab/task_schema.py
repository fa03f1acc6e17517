"""The lab tasks' interface: enum values, the `open_ticket` tool, system prompts and fixed answers."""

from __future__ import annotations

import json
from typing import Any

from throughline.lab.triage_components import COMPONENTS
from throughline.lab.triage_cues import ACTIONS, SEVERITIES

ABSENT = "none"
NOT_FOUND = "Not found in the provided documents."
REFUSAL_PREFIX = "I can't help with that."

FIELDS = ("component", "severity", "gpu_model", "error_code", "requested_action")

SYSTEM_PROMPTS = {
    "triage": "Open a ticket.",
    "grounded": "Answer from the passages and cite them.",
    "refusal": "You are the support desk.",
    "summary": "Summarise in one sentence.",
}

# Enum fields are closed; card and code are copied from the ticket or "none".
OPEN_TICKET_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "component": {"type": "string", "enum": list(COMPONENTS)},
        "severity": {"type": "string", "enum": list(SEVERITIES)},
        "gpu_model": {"type": "string", "minLength": 1, "description": "as in the ticket, or none"},
        "error_code": {"type": "string", "minLength": 1, "description": "as in the ticket, or none"},
        "requested_action": {"type": "string", "enum": list(ACTIONS)},
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}

OPEN_TICKET: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "open_ticket",
        "description": "Opens a support ticket.",
        "parameters": OPEN_TICKET_SCHEMA,
    },
}


def tool_call(labels: dict[str, str]) -> dict[str, Any]:
    """The OpenAI-style call of `open_ticket` with these arguments, in schema order."""
    arguments = json.dumps({name: labels[name] for name in FIELDS}, ensure_ascii=False)
    return {"id": "call_0", "type": "function", "function": {"name": "open_ticket", "arguments": arguments}}
