"""What becomes of a setting or a tensor when a repository moves from the engine flow to the PyTorch flow."""

from __future__ import annotations

from typing import Literal

from throughline.contracts.config import StrictModel

Fate = Literal["mapped", "changed", "lost"]


class Move(StrictModel):
    """One setting or tensor.

    Attributes:
        kind: `setting` of the repository or the engine, `input` or `output` of a request.
        name: Its name in the `inflight_batcher_llm` repository or the engine's `config.json`.
        value: What it was set to; empty for tensors.
        fate: `mapped` to the same meaning, `changed` in meaning, or `lost`.
        target: Its name in `model.yaml`, `config.pbtxt` or the `llmapi` contract; empty if lost.
        note: What changes, and what to do about it.
    """

    kind: Literal["setting", "input", "output"]
    name: str
    value: str = ""
    fate: Fate
    target: str = ""
    note: str = ""
