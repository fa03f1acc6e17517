"""What a build or a quantisation starts from: a checkpoint, and the records that it calibrates on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from recipes import calibrate, convert, inputs, references
from throughline.artifacts import Artifact, ArtifactStore
from throughline.checkpoints import check_files
from throughline.contracts.errors import ArtifactError, EngineError
from throughline.contracts.quantization import Quantised
from throughline.quantization.record import Record


class Asked(inputs.HasModel, Protocol):
    """The settings that name a source."""

    @property
    def checkpoint(self) -> str:
        """A digest, a folder, `latest` or `base`."""

    @property
    def dataset(self) -> str:
        """A digest or `latest`."""

    @property
    def seed(self) -> int:
        """Seed of the choice of calibration records."""

    @property
    def name(self) -> str:
        """Name of what is made; empty takes the checkpoint's and a suffix."""


@dataclass(frozen=True)
class Source:
    """A checkpoint and what belongs to it.

    Attributes:
        folder: The checkpoint's folder.
        digest: Its digest.
        name: Name of what is made of it.
        dataset: Whose training split is calibrated on, None without calibration.
        calibration: The records of it.
        quantised: How the checkpoint is quantised, None where it is not.
        inputs: Artifacts that what is made depends on.
        stage_config: Settings that it depends on.
    """

    folder: Path
    digest: str
    name: str
    dataset: Artifact | None
    calibration: Artifact | None
    quantised: Quantised | None
    inputs: dict[str, Artifact]
    stage_config: dict[str, object]


def find_source(
    config: Asked,
    store: ArtifactStore,
    stage_config: Mapping[str, object],
    *,
    suffix: str,
    fix: str | None,
    calib_size: int,
    takes_quantised: bool = False,
) -> Source:
    """Finds or makes the checkpoint, and the calibration records in its own tokens.

    Args:
        config: What is asked for.
        store: Where artifacts are.
        stage_config: Settings of what is made; a foreign folder's digest is added.
        suffix: What a name says of the precision.
        fix: What to do if there is no dataset; None where nothing is calibrated.
        calib_size: Records to calibrate on.
        takes_quantised: Whether a checkpoint may be quantised already; such a one is not calibrated again.

    Raises:
        ArtifactError: If the checkpoint or the dataset is missing, or the dataset is of another tokenizer.
        CheckpointError: If a file of the checkpoint is missing or damaged, or its tokenizer another model's.
        EngineError: If the checkpoint is quantised and must not be.
        GateInconclusive: If it is quantised and was never scored.
    """
    found: dict[str, Artifact] = {}
    settings = dict(stage_config)
    if is_foreign_folder(config.checkpoint):
        folder = Path(config.checkpoint)
        check_files(folder)
        digest = str(inputs.folder_digest(folder))
        settings["checkpoint"] = digest
        stem = folder.name
    else:
        found["checkpoint"] = _checkpoint(config, store)
        folder, digest = found["checkpoint"].path, found["checkpoint"].digest
        stem = found["checkpoint"].manifest.name
        check_files(folder)
    quantised = Quantised.read(folder)
    if quantised is not None:
        _check_quantised(quantised, config.checkpoint, takes_quantised)
        return Source(folder, digest, config.name or stem, None, None, quantised, found, settings)
    dataset = calibration = None
    if fix is not None:
        # Whatever the template, calibration needs texts in the model's own tokens.
        dataset = found["dataset"] = references.dataset(
            store, config.dataset, folder, found.get("checkpoint"), names=(inputs.TOKENIZER,), fix=fix
        )
        calibration = found["calibration"] = calibrate.make(store, dataset, calib_size, config.seed)
    return Source(folder, digest, config.name or f"{stem}-{suffix}", dataset, calibration, None, found, settings)


def _checkpoint(config: Asked, store: ArtifactStore) -> Artifact:
    if config.checkpoint == "base":
        return convert.make(config)
    try:
        return store.get(config.checkpoint, "quantized-checkpoint")
    except ArtifactError:
        return references.checkpoint(store, config.checkpoint, config)


def _check_quantised(quantised: Quantised, reference: str, taken: bool) -> None:
    """Refuses a quantised checkpoint where none is taken, and one that was never scored anywhere."""
    where = f"checkpoint={reference}"
    if not taken:
        raise EngineError(
            "the checkpoint is quantised already",
            where=where,
            seen=quantised.algorithm,
            fix="give the one that it was made from; TensorRT-LLM's PyTorch flow takes it as it is: engine=pytorch",
        )
    quantised.check_scored(where)


def is_foreign_folder(reference: str) -> bool:
    """Returns whether a reference is a folder that is no artifact; with a slash it is a path, there or not."""
    folder = Path(reference)
    return ("/" in reference or (folder / "config.json").is_file()) and not (folder / "manifest.json").is_file()


def held_out(dataset: Path, count: int) -> list[Record]:
    """Returns validation records to compare losses on; their split shares no group with the training records.

    Raises:
        DataError: If the dataset has no validation split.
    """
    from throughline.data import choose_validation

    return [Record(*pair) for pair in choose_validation(dataset, count)] if count else []
