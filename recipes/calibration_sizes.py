"""The part of `recipes.quantize` that compares sizes of calibration: its artifact, tables and page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipes import calibrate
from recipes.sources import Source, held_out
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.contracts.benchmark import Estimate
from throughline.contracts.config import StrictModel
from throughline.contracts.errors import ConfigError
from throughline.contracts.quantization import LossChange, QuantSpec, SizeLoss
from throughline.contracts.report import Column, Plot, Report, Section, Series, Table, VerdictKind

SIZES_FILE = "calibration_sizes.json"
_INTERVAL = "mean by record with its 95 % interval (Student's t, the same records in both)"
_RECORDS = "calibration records"


class Sizes(StrictModel):
    """What came of it.

    Attributes:
        quantised_to: Name of the format or recipe.
        available: Records that the training split has to calibrate on.
        left_out: Sizes asked for that are more than that.
        sizes: The others, ascending.
    """

    quantised_to: str
    available: int
    left_out: tuple[int, ...]
    sizes: tuple[SizeLoss, ...]

    @classmethod
    def read(cls, artifact: Artifact) -> Sizes:
        """Reads an artifact of `make`."""
        return cls.model_validate_json((artifact.path / SIZES_FILE).read_bytes())

    def enough(self) -> SizeLoss:
        """The smallest size from which on none can be told from the largest by its interval."""
        found = self.sizes[-1]
        for size in reversed(self.sizes[:-1]):
            against = size.against_largest
            if against is None or not against.low <= 0 <= against.high:
                break
            found = size
        return found


def make(
    store: ArtifactStore, source: Source, spec: QuantSpec, asked: Sequence[int], device: str, seed: int
) -> Artifact:
    """Makes the comparison, or finds it.

    Raises:
        ConfigError: If all sizes are beyond the training split.
        EngineError: If the format learns nothing from records or cannot be scored here.
    """
    from throughline.data import Calibration

    dataset, calibration = source.inputs["dataset"], source.inputs["calibration"]
    available = Calibration.read(calibration.path).report.train_records
    wanted = sorted(set(asked))
    sizes = [size for size in wanted if size <= available]
    if not sizes:
        raise ConfigError(
            "no size to calibrate on",
            where="calib_sizes",
            seen=", ".join(map(str, asked)),
            fix=f"give numbers up to {available}, the records of the training split",
        )
    if sizes[-1] < wanted[-1]:
        calibration = calibrate.make(store, dataset, sizes[-1], seed)
    settings = spec.model_dump(mode="json", exclude={"calib_size", "sensitivity"})
    stage = store.stage(
        "benchmark",
        f"{source.name}-calibration-sizes",
        inputs=source.inputs | {"calibration": calibration},
        config=source.stage_config | {"quantize": settings, "calib_sizes": wanted, "device": device},
        code_version=code_version(
            "throughline.quantization",
            "throughline.contracts.quantization",
            "throughline.data.calibration",
            extras=("quantize",),
        ),
        seed=seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.quantization import compare_sizes
        from throughline.reporting.progress import Progress

        with Progress(f"calibrate {source.name}", total=100, unit="%") as progress:
            found = compare_sizes(
                source.folder,
                spec,
                sizes,
                calibration=Calibration.read(calibration.path).token_ids,
                held_out=held_out(dataset.path, spec.score_records),
                device=device,
                on_progress=lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
            )
        result = Sizes(
            quantised_to=spec.recipe.stem if spec.recipe else spec.qformat,
            available=available,
            left_out=tuple(size for size in wanted if size > available),
            sizes=found,
        )
        (run.directory / SIZES_FILE).write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return run.commit(metrics=result.model_dump(mode="json"))


def table(found: Sizes) -> Table:
    """Returns a row for each size."""
    rows: list[list[object]] = [
        [
            size.records,
            size.tokens,
            size.loss.quantised,
            _estimate(size.loss),
            None if size.against_largest is None else _estimate(size.against_largest),
            100 * size.loss.agreement,
        ]
        for size in found.sizes
    ]
    base = found.sizes[0].loss
    columns = [
        Column("calibrated on", "records"),
        Column("tokens"),
        Column("loss", "nats a token"),
        Column("change from 16 bits", "nats a token"),
        Column("change from the largest", "nats a token"),
        Column("likeliest token the same", "%"),
    ]
    note = (
        f"16 bits: loss {base.base:.4f}; every row is of the same {base.tokens:,} answer tokens of {base.records} "
        f"validation records; changes: {_INTERVAL}"
    )
    return Table(f"{found.quantised_to}: loss by size of the calibration", columns, rows, note=note)


def _estimate(loss: LossChange) -> Estimate:
    return Estimate(loss.by_record, loss.low, loss.high, loss.records)


def remarks(found: Sizes) -> list[str]:
    """Returns what the table says, and which sizes are not in it."""
    lines = [f"verdict  {verdict(found)}"]
    if found.left_out:
        sizes = ", ".join(f"{size:,}" for size in found.left_out)
        lines.append(f"left out {sizes}: the training split has {found.available:,} records to calibrate on")
    return lines


def verdict(found: Sizes) -> str:
    """Returns the one line to take away."""
    largest, enough = found.sizes[-1].records, found.enough()
    if len(found.sizes) == 1:
        return f"one size alone, {largest:,} records: give more of them to compare"
    if enough.against_largest is None:
        return f"{largest:,} records are told from the next smaller size: a larger one may gain more"
    # How little these answers can tell is part of it: few of them tell no size from another.
    return (
        f"from {enough.records:,} records on no size is told from {largest:,}: "
        f"{enough.records:,} cost {enough.against_largest.high:.4f} nats a token at most (95 %)"
    )


def write_page(store: ArtifactStore, artifact: Artifact, found: Sizes, command: str) -> Path:
    """Writes the page and returns its path."""
    from throughline.data import Calibration
    from throughline.reporting.html import write_report

    calibration = store.get(artifact.manifest.inputs["calibration"], "calibration")
    kind: VerdictKind = "good" if found.enough().records < found.sizes[-1].records else "unclear"
    chosen = calibrate.tables(Calibration.read(calibration.path).report)
    machine = artifact.manifest.environment
    report = Report(
        title=f"Calibration of {artifact.manifest.name.removesuffix('-calibration-sizes')}",
        verdict=verdict(found),
        verdict_kind=kind,
        summary=[
            *remarks(found)[1:],
            "each size takes the first records of one choice, so that a larger one has all of a smaller one",
            "nothing was exported: the loss is of ModelOpt's simulation, which rounds as the format does",
        ],
        sections=[
            Section("Loss and agreement", "", [table(found)], _plots(found)),
            Section("What was calibrated on", "The largest choice.", chosen),
        ],
        environment={
            "machine": str(machine["machine"]["processor"]),
            "torch": str(machine["packages"].get("torch")),
            "dataset": artifact.manifest.inputs["dataset"][:12],
            "calibration": calibration.digest[:12],
        },
        command=command,
    )
    return write_report(report, store.home / "calibrations" / f"{artifact.manifest.name}")[0]


def _plots(found: Sizes) -> list[Plot]:
    records = [float(size.records) for size in found.sizes]
    against = {size.records: size.against_largest for size in found.sizes if size.against_largest is not None}
    plots = [_change("Change from 16 bits", records, [size.loss for size in found.sizes])]
    if against:
        title = f"Change from {found.sizes[-1].records:,} records"
        plots.append(_change(title, [float(count) for count in against], list(against.values())))
    shares = [100 * size.loss.agreement for size in found.sizes]
    title, label = "Likeliest token as in 16 bits", "% of answer tokens"
    plots.append(Plot(title, _RECORDS, label, [Series(found.quantised_to, records, shares)], x_log=True))
    return plots


def _change(title: str, records: Sequence[float], changes: Sequence[LossChange]) -> Plot:
    series = Series(
        "loss",
        records,
        [change.by_record for change in changes],
        low=[change.low for change in changes],
        high=[change.high for change in changes],
    )
    return Plot(title, _RECORDS, "nats a token", [series], x_log=True, note=_INTERVAL)
