"""Turns raw records into a tokenised dataset: validated, deduplicated, redacted, split by group, rendered.

python -m recipes.data
python -m recipes.data data=files data.source=/data/tickets.jsonl data.default_licence=proprietary
"""

from __future__ import annotations

from recipes import app, convert, inputs
from throughline.artifacts import Artifact, code_version
from throughline.contracts.data import DataSpec


class Config(app.RecipeConfig):
    """Settings of `recipes.data`."""

    model: app.ModelSpec
    data: DataSpec


def make(config: Config) -> Artifact:
    """Makes the dataset artifact, or finds it."""
    from throughline.data.ingest import source_files

    is_lab = config.data.source == "lab"
    files = [] if is_lab else source_files(config.data.source)
    held_out = [] if config.data.acceptance is None else source_files(config.data.acceptance)
    base = convert.make(config).path
    stage = config.store().stage(
        "dataset",
        "support-desk" if is_lab else files[0].stem,
        config={
            "data": config.data.model_dump(mode="json"),
            "sources": [[path.name, inputs.sha256(path)] for path in files],
            "acceptance": [[path.name, inputs.sha256(path)] for path in held_out],
            "tokenizer": inputs.rendering(base),
        },
        code_version=code_version("throughline.data", *(["throughline.lab"] if is_lab else []), extras=("data",)),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.data import prepare
        from throughline.reporting.progress import Progress

        questions = {}
        if is_lab:
            from throughline.data.pipeline import RESTRICTED
            from throughline.lab import records

            folder = run.directory / RESTRICTED / "raw"
            made = records.generate(folder, config.seed, config.data.train_records, config.data.shares)
            files, questions = list(made.sources), {name: [path] for name, path in made.questions.items()}
        if held_out:
            questions["acceptance"] = held_out
        with Progress("data", total=100, unit="%") as progress:
            report = prepare(
                files,
                base,
                run.directory,
                config.data,
                questions=questions,
                seed=config.seed,
                on_progress=lambda phase, fraction: progress.update(int(100 * fraction), phase=phase),
            )
        return run.commit(metrics=report.as_dict(), licences=sorted(report.licences))


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import mapping_table
    from throughline.reporting.terminal import print_table

    app.echo(f"data from {config.data.source}")
    known = {item.digest for item in config.store().all("dataset")}
    artifact = make(config)
    figures = artifact.manifest.metrics
    print_table(mapping_table("Records", {key: figures[key] for key in ("lines", "train", "validation", "questions")}))
    print_table(mapping_table("Left out (restricted/rejects.jsonl has each line with its reason)", figures["rejects"]))
    print_table(mapping_table("Personal data replaced", figures["personal"]))
    if figures["split_off"]:
        app.echo(f"no acceptance set was given: {figures['split_off']} (data.acceptance=… takes your own)")
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.train")


if __name__ == "__main__":
    main()
