"""The lab: a support desk's records, made from phrase banks, with everything wrong that raw records have."""

from __future__ import annotations

from pathlib import Path

from throughline.contracts.errors import CheckpointError


def checkpoint_dir() -> Path:
    """Returns the folder of the base checkpoint that ships with this package.

    Raises:
        CheckpointError: If this installation lacks it.
    """
    folder = Path(__file__).with_name("checkpoint")
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(
            "the lab's base checkpoint is missing",
            where=str(folder),
            seen="no model.safetensors",
            fix="make it again with `python -m recipes.pretrain export=src/throughline/lab/checkpoint`",
        )
    return folder
