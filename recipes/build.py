"""Builds an engine from a checkpoint.

python -m recipes.build quant=int8
python -m recipes.build -m quant=bf16,int8,int4
"""

from __future__ import annotations

from pathlib import Path

from recipes import app, inputs
from throughline.artifacts import Artifact, code_version
from throughline.contracts.engine import EngineInfo, EngineSpec


class Config(app.RecipeConfig):
    """Settings of `recipes.build`; `checkpoint` is a digest, a folder, `latest` or `base`."""

    model: app.ModelSpec
    engine: EngineSpec
    checkpoint: str = "latest"
    name: str = ""


def make(config: Config) -> Artifact:
    """Makes the engine artifact, or finds it."""
    store = config.store()
    source: dict[str, Artifact] = {}
    stage_config: dict[str, object] = {"engine": config.engine.model_dump(mode="json")}
    if config.checkpoint == "base" or _is_foreign_folder(config.checkpoint):
        folder = inputs.base_folder(config.model) if config.checkpoint == "base" else Path(config.checkpoint)
        stage_config["checkpoint"] = inputs.folder_digest(folder)
        stem = config.model.name if config.checkpoint == "base" else folder.name
    else:
        source["checkpoint"] = inputs.artifact(store, "checkpoint", config.checkpoint, key="checkpoint")
        folder = source["checkpoint"].path
        stem = source["checkpoint"].manifest.name
    name = config.name or f"{stem}-{config.engine.precision}"
    stage = store.stage(
        "engine",
        name,
        inputs=source,
        config=stage_config,
        code_version=code_version("throughline.engines", "throughline.contracts.engine"),
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline import engines
        from throughline.reporting.progress import Progress

        with Progress(f"build {config.engine.precision}", total=100, unit="%") as progress:
            report = engines.build(
                folder,
                config.engine,
                run.directory,
                lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
                name=name,
            )
        return run.commit(
            metrics={
                "weight_bytes": report.info.weight_bytes,
                "parameters": report.info.parameters,
                "seconds": report.seconds,
                "notes": list(report.notes),
            }
        )


def _is_foreign_folder(reference: str) -> bool:
    folder = Path(reference)
    return (folder / "config.json").is_file() and not (folder / "manifest.json").is_file()


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import mapping_table
    from throughline.reporting import format as fmt
    from throughline.reporting.terminal import print_table

    app.say(f"{config.engine.backend} engine, {config.engine.precision} weights, from checkpoint {config.checkpoint}")
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
        app.say(f"note   {note}")
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"python -m recipes.evaluate target={artifact.digest[:12]}",
    )


if __name__ == "__main__":
    main()
