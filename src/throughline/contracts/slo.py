"""What a service promises: limits of latency at a percentile, of errors, of quality and of cost."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel

Percentile = Literal[50, 90, 95, 99]


class SloSpec(StrictModel):
    """Limits of a service; None where there is none. Goodput counts the requests that keep all limits of latency.

    Attributes:
        ttft_seconds: Time to the first token.
        itl_seconds: Time between two tokens, each gap by itself.
        tpot_seconds: Mean time of a token after the first, of each request.
        e2e_seconds: Time to the last token.
        percentile: Share of requests (of gaps for `itl_seconds`), in percent, that has to keep each of them.
        error_rate: Largest share of requests that fail.
        quality_loss: Largest loss of a gated task's score against the reference engine, as a share of it.
        cost_per_million_tokens: Largest cost of a million output tokens, in the price table's currency.
    """

    ttft_seconds: float | None = Field(default=None, gt=0)
    itl_seconds: float | None = Field(default=None, gt=0)
    tpot_seconds: float | None = Field(default=None, gt=0)
    e2e_seconds: float | None = Field(default=None, gt=0)
    percentile: Percentile = 95
    error_rate: float = Field(default=0.01, ge=0, lt=1)
    quality_loss: float | None = Field(default=None, ge=0, lt=1)
    cost_per_million_tokens: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if all(limit is None for limit in self.latencies().values()):
            raise ValueError("an SLO without a limit of latency: set one of " + ", ".join(self.latencies()))
        return self

    def latencies(self) -> dict[str, float | None]:
        """Returns the limits of latency by their field's name, in seconds."""
        return {
            "ttft_seconds": self.ttft_seconds,
            "itl_seconds": self.itl_seconds,
            "tpot_seconds": self.tpot_seconds,
            "e2e_seconds": self.e2e_seconds,
        }
