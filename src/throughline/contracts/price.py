"""What machines cost: a table as data, which the user fills in."""

from __future__ import annotations

from pydantic import Field

from throughline.contracts.config import StrictModel
from throughline.contracts.measurement import MachineReadings, Measurement


class PriceSpec(StrictModel):
    """Prices; nothing in it is a provider's.

    Attributes:
        currency: Of all of them.
        gpu_hour: Of one GPU for an hour, by NVML's name for it.
        cpu_hour: Of one processor for an hour, for machines without a GPU.
        energy_kwh: Of a kilowatt-hour, where energy is paid apart.
    """

    currency: str = "USD"
    gpu_hour: dict[str, float] = Field(default_factory=dict)
    cpu_hour: float = Field(default=0.0, ge=0)
    energy_kwh: float = Field(default=0.0, ge=0)

    def per_million_tokens(self, found: Measurement) -> float | None:
        """Returns what a million output tokens cost on the machine that was measured; None if a price is missing."""
        machine, rate = found.machine, found.tokens_per_second.value
        if any(gpu.name not in self.gpu_hour for gpu in machine.gpus) or not rate > 0:
            return None
        hour = sum(self.gpu_hour[gpu.name] for gpu in machine.gpus) if machine.gpus else machine.cores * self.cpu_hour
        energy = joules(machine) or 0.0
        return hour / 3600 / rate * 1e6 + energy / 3.6e6 * self.energy_kwh / (rate * found.seconds) * 1e6


def joules(machine: MachineReadings) -> float | None:
    """Returns the energy of the window that somebody counted: of the processors' packages and of the GPUs."""
    counted = [machine.energy_joules, *(gpu.energy_joules for gpu in machine.gpus)]
    known = [each for each in counted if each is not None]
    return sum(known) if known else None
