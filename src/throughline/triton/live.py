"""What the scheduler knows of a request that has not ended."""

from __future__ import annotations

from dataclasses import dataclass

from throughline.triton.channels import Channel
from throughline.triton.requests import GenerateRequest
from throughline.triton.streaming import Outbox


@dataclass
class Live:
    """One request, waiting or in the engine; times in seconds of the scheduler's clock.

    Attributes:
        channel: The way back to its client.
        request: What it asks for.
        outbox: Output that its client has not seen yet.
        arrived: When it came.
        polled: When its client was last looked for.
        running: Whether the engine has it.
        cancelling: Whether the engine was told to end it.
        stopped: Whether its client asked for that, and hears how far it came.
    """

    channel: Channel
    request: GenerateRequest
    outbox: Outbox
    arrived: float
    polled: float
    running: bool = False
    cancelling: bool = False
    stopped: bool = False

    def is_late(self, now: float) -> bool:
        """Whether its time is over."""
        timeout = self.request.timeout_seconds
        return timeout is not None and now - self.arrived > timeout
