"""Builds an engine from a checkpoint, or writes the build of a GPU engine as a job.

python -m recipes.build quant=int8
python -m recipes.build -m quant=bf16,int8,int4,int4_rtn              # and compares what it has built
python -m recipes.build engine=embedding checkpoint=/models/Qwen3-Embedding-0.6B      # for /v1/embeddings
python -m recipes.build engine=gpu quant=fp8 gpu=h100-sxm             # TensorRT-LLM: planned, not built
python -m recipes.build engine=gpu quant=fp8 readback=/engines/llama  # is what was built what was asked for?
"""

from __future__ import annotations

from pathlib import Path

from recipes import app, build_matrix, references
from recipes.build_matrix import MatrixSpec
from recipes.sources import Source, find_source
from recipes.tuned import Tunable
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.contracts.engine import CalibrationData, EngineInfo, EngineSpec
from throughline.contracts.errors import ArtifactError
from throughline.contracts.planning import GpuSpec
from throughline.engines import builder

CALIBRATION_FIX = (
    "make the dataset of this model with `python -m recipes.data`, name it (dataset=…), "
    "or build without calibration: quant=int4_rtn"
)


class Config(Tunable):
    """Settings of `recipes.build`.

    `checkpoint` is a digest, a folder, `latest` or `base`. `dataset` is what a calibrated build calibrates on, a
    digest or `latest`: the one that the checkpoint was tuned on, else the newest. `gpu` is where a job's engine will
    run; the CPU back end has no use for it.
    """

    model: app.ModelSpec
    engine: EngineSpec
    gpu: GpuSpec | None = None
    checkpoint: str = "latest"
    dataset: str = "latest"
    name: str = ""
    readback: Path | None = None
    matrix: MatrixSpec = MatrixSpec()


def make(config: Config) -> Artifact:
    """Makes the engine artifact, or finds it."""
    if config.engine.backend != "cpu":
        # The face of the back ends says what to do instead.
        builder(config.engine.backend)
    store = config.store()
    source = _source(config, store, calibrated=config.engine.calibration != "none")
    folder, dataset, name = source.folder, source.dataset, source.name
    stage = store.stage(
        "engine",
        name,
        inputs=source.inputs,
        config=source.stage_config,
        code_version=code_version(
            "throughline.engines",
            "throughline.vocabulary",
            "throughline.contracts.engine",
            "throughline.contracts.checkpoint",
            "throughline.data.calibration",
            extras=("cpu",),
        ),
        seed=config.seed if dataset else 0,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline import engines
        from throughline.reporting.progress import Progress

        with Progress(f"build {precision_name(config.engine)}", total=100, unit="%") as progress:
            report = engines.build(
                folder,
                config.engine,
                run.directory,
                lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
                name=name,
                calibration=_calibration(source),
            )
        # The planner counts a head, which embedding engines have not.
        planned = {} if config.engine.embedding else {"planned": {"weight_bytes": planned_bytes(folder, config.engine)}}
        return run.commit(
            metrics={
                "weight_bytes": report.info.weight_bytes,
                "parameters": report.info.parameters,
                "seconds": report.seconds,
                "notes": list(report.notes),
                **planned,
            }
        )


def planned_bytes(folder: Path, spec: EngineSpec) -> int:
    """Returns the bytes that the planner says an engine's weights have."""
    from throughline.planning.cpu import cpu_weight_bytes
    from throughline.planning.shape import read_shape

    return round(cpu_weight_bytes(read_shape(folder), spec))


def make_job(config: Config) -> Artifact:
    """Makes the job of a GPU engine, or finds it."""
    from recipes import build_job
    from throughline.engines.tensorrt.check import CALIBRATED, check_spec

    check_spec(config.engine)
    store = config.store()
    source = _source(config, store, calibrated=config.engine.precision in CALIBRATED)
    return build_job.make_job(
        store,
        config.engine,
        name=f"{source.name}-{config.engine.backend}",
        source=source,
        seed=config.seed,
        gpu=config.gpu,
    )


def _source(config: Config, store: ArtifactStore, *, calibrated: bool) -> Source:
    return find_source(
        config,
        store,
        {"engine": config.engine.model_dump(mode="json")},
        suffix=precision_name(config.engine),
        fix=CALIBRATION_FIX if calibrated else None,
        calib_size=config.engine.calib_size,
        takes_quantised=config.engine.backend == "pytorch",
    )


def precision_name(spec: EngineSpec) -> str:
    """Returns what an engine's name says of its weights: the precision, `-rtn` if INT4 was rounded without data."""
    return "int4-rtn" if spec.precision == "int4" and spec.calibration == "none" else spec.precision


def _calibration(source: Source) -> CalibrationData | None:
    if source.calibration is None or source.dataset is None:
        return None
    from throughline.data import Calibration

    return CalibrationData(Calibration.read(source.calibration.path).token_ids, source.dataset.digest)


@app.recipe(Config, after_sweep=build_matrix.finish)
def main(config: Config) -> None:
    """Runs the recipe."""
    if config.readback is not None:
        from recipes.build_job import check_built

        check_built(config.readback, config.engine)
        app.echo(f"the engine in {config.readback} is what was asked for")
        app.echo(f"next     python -m recipes.lint path={config.readback}")
    elif config.engine.backend == "cpu":
        _build(config)
    else:
        _job(config)


def _job(config: Config) -> None:
    from recipes.build_job import job_table
    from throughline.engines.tensorrt import BuildJob
    from throughline.reporting.terminal import print_table

    known = {item.digest for item in config.store().all("build-job")}
    artifact = make_job(config)
    print_table(job_table(BuildJob.read(artifact.path)))
    app.echo("planned, not built: TensorRT-LLM builds on a GPU, and this job has not run on one")
    script = artifact.path / "build.sh"
    app.made(
        artifact, again=artifact.digest in known, next_command=f"bash {script}   (on a GPU machine; its head says how)"
    )
    app.echo(f"then     python -m recipes.deploy profile=gpu action=render target={artifact.digest[:12]}")


def _build(config: Config) -> None:
    from recipes.results import mapping_table
    from throughline.reporting import format as fmt
    from throughline.reporting.terminal import print_table

    calibrated = "" if config.engine.calibration == "none" else f", calibrated by {config.engine.calibration}"
    kind = "engine" if config.engine.embedding is None else "embedding engine"
    what = f"{config.engine.backend} {kind}, {config.engine.precision} weights{calibrated}"
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
                **_vectors(info),
            },
        )
    )
    if info.embedding is None:
        # A sweep compares tokens.
        built = build_matrix.Built(info.name, artifact, _dataset(config, artifact))
        build_matrix.SWEEP.add(config.store(), config.matrix, config.seed, built)
    next_step = "evaluate target" if info.embedding is None else "serve embedding.target"
    for note in artifact.manifest.metrics["notes"]:
        app.echo(f"note   {note}")
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"python -m recipes.{next_step}={artifact.digest[:12]}",
    )


def _vectors(info: EngineInfo) -> dict[str, object]:
    embedding = info.embedding
    if embedding is None:
        return {}
    return {"dimensions": embedding.dimensions, "pooling": embedding.pooling, "normalized": embedding.normalize}


def _dataset(config: Config, engine: Artifact) -> Artifact | None:
    """Returns the records that the engines of a sweep can be scored on; None without any."""
    try:
        return references.dataset(config.store(), config.dataset, engine.path, engine)
    except ArtifactError:
        return None


if __name__ == "__main__":
    main()
