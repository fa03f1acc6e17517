"""Which process of a distributed run this is, by the environment that torchrun sets."""

from __future__ import annotations

import os

from throughline.contracts.errors import ConfigError
from throughline.contracts.training import TrainerSpec


def rank() -> int:
    """Returns this process's rank; 0 outside torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Returns the number of processes; 1 outside torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_batch(trainer: TrainerSpec) -> None:
    """Checks that every rank gets as many packs of an optimiser step as the others.

    Raises:
        ConfigError: If the global batch is no multiple of what all ranks take at once.
    """
    at_once = trainer.local_batch_size * world_size()
    if trainer.global_batch_size % at_once:
        raise ConfigError(
            "an optimiser step cannot be shared out evenly",
            where="trainer.global_batch_size",
            seen=f"{trainer.global_batch_size}, with {world_size()} ranks of trainer.local_batch_size "
            f"{trainer.local_batch_size}",
            fix=f"take a multiple of {at_once}, or a smaller trainer.local_batch_size",
        )
