"""Builds an engine from a checkpoint.

python -m recipes.build quant=int8
python -m recipes.build -m quant=bf16,int8,int4,int4_rtn
"""

from __future__ import annotations

from pathlib import Path

from recipes import app, convert, inputs, references
from throughline.artifacts import Artifact, code_version
from throughline.contracts.engine import CalibrationData, EngineInfo, EngineSpec

CALIBRATION_FIX = (
    "make the dataset of this model with `python -m recipes.data`, name it (dataset=…), "
    "or build without calibration: quant=int4_rtn"
)


class Config(app.RecipeConfig):
    """Settings of `recipes.build`.

    `checkpoint` is a digest, a folder, `latest` or `base`. `dataset` is what a calibrated build calibrates on, a
    digest or `latest`: the one that the checkpoint was tuned on, else the newest.
    """

    model: app.ModelSpec
    engine: EngineSpec
    checkpoint: str = "latest"
    dataset: str = "latest"
    name: str = ""


def make(config: Config) -> Artifact:
    """Makes the engine artifact, or finds it."""
    store = config.store()
    source: dict[str, Artifact] = {}
    stage_config: dict[str, object] = {"engine": config.engine.model_dump(mode="json")}
    if _is_foreign_folder(config.checkpoint):
        folder = Path(config.checkpoint)
        stage_config["checkpoint"] = inputs.folder_digest(folder)
        stem = folder.name
    else:
        source["checkpoint"] = (
            convert.make(config)
            if config.checkpoint == "base"
            else references.checkpoint(store, config.checkpoint, config)
        )
        folder = source["checkpoint"].path
        stem = source["checkpoint"].manifest.name
    dataset = None
    if config.engine.calibration != "none":
        # Whatever the template, calibration needs texts in the model's own tokens.
        dataset = source["dataset"] = references.dataset(
            store, config.dataset, folder, source.get("checkpoint"), names=(inputs.TOKENIZER,), fix=CALIBRATION_FIX
        )
    name = config.name or f"{stem}-{precision_name(config.engine)}"
    stage = store.stage(
        "engine",
        name,
        inputs=source,
        config=stage_config,
        code_version=code_version(
            "throughline.engines", "throughline.contracts.engine", "throughline.data.calibration", extras=("cpu",)
        ),
        seed=config.seed if dataset else 0,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline import engines
        from throughline.planning.cpu import cpu_weight_bytes
        from throughline.planning.shape import read_shape
        from throughline.reporting.progress import Progress

        with Progress(f"build {precision_name(config.engine)}", total=100, unit="%") as progress:
            report = engines.build(
                folder,
                config.engine,
                run.directory,
                lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
                name=name,
                calibration=_calibration(config, dataset),
            )
        return run.commit(
            metrics={
                "weight_bytes": report.info.weight_bytes,
                "parameters": report.info.parameters,
                "seconds": report.seconds,
                "notes": list(report.notes),
                "planned": {"weight_bytes": round(cpu_weight_bytes(read_shape(folder), config.engine))},
            }
        )


def precision_name(spec: EngineSpec) -> str:
    """Returns what an engine's name says of its weights: the precision, `-rtn` if INT4 was rounded without data."""
    return "int4-rtn" if spec.precision == "int4" and spec.calibration == "none" else spec.precision


def _calibration(config: Config, dataset: Artifact | None) -> CalibrationData | None:
    if dataset is None:
        return None
    from throughline.data import calibration_records

    records = calibration_records(dataset.path, config.engine.calib_size, config.seed)
    return CalibrationData(records, dataset.digest)


def _is_foreign_folder(reference: str) -> bool:
    folder = Path(reference)
    return (folder / "config.json").is_file() and not (folder / "manifest.json").is_file()


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import mapping_table
    from throughline.reporting import format as fmt
    from throughline.reporting.terminal import print_table

    calibrated = "" if config.engine.calibration == "none" else f", calibrated by {config.engine.calibration}"
    what = f"{config.engine.backend} engine, {config.engine.precision} weights{calibrated}"
    app.echo(f"{what}, from checkpoint {config.checkpoint}")
    known = {item.digest for item in config.store().all("engine")}
    artifact = make(config)
    info = EngineInfo.read(artifact.path)
    print_table(
        mapping_table(
            f"Engine {info.name}",
            {
                "precision": info.precision,
                "weights": fmt.bytes_(info.weight_bytes),
                "parameters": info.parameters,
                "max_seq_len": info.spec.max_seq_len,
                "max_batch_size": info.spec.max_batch_size,
            },
        )
    )
    for note in artifact.manifest.metrics["notes"]:
        app.echo(f"note   {note}")
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"python -m recipes.evaluate target={artifact.digest[:12]}",
    )


if __name__ == "__main__":
    main()
