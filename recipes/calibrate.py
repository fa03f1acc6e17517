"""Chooses what quantisation is calibrated on: records of the training split by task and length, none of evaluation.

python -m recipes.calibrate calib_size=512
python -m recipes.calibrate calib_size=64 workload=rag

`recipes.quantize`, calibrated builds and GPU jobs make it by themselves; here it is looked at before.
"""

from __future__ import annotations

from pydantic import Field

from recipes import app, convert, inputs, references
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.contracts.calibration import CalibrationReport, Prompts, TokenCounts
from throughline.contracts.report import Column, Table
from throughline.contracts.workload import Workload


class Config(app.RecipeConfig):
    """Settings of `recipes.calibrate`."""

    model: app.ModelSpec
    workload: Workload | None = None
    dataset: str = "latest"
    calib_size: int = Field(default=256, ge=1)
    calib_max_seq_length: int = Field(default=1024, ge=1)


def make(store: ArtifactStore, dataset: Artifact, calib_size: int, seed: int) -> Artifact:
    """Makes the calibration artifact of a dataset, or finds it."""
    stage = store.stage(
        "calibration",
        f"{dataset.manifest.name}-{calib_size}",
        inputs={"dataset": dataset},
        config={"calib_size": calib_size},
        code_version=code_version(
            "throughline.contracts.calibration",
            "throughline.data.calibration",
            "throughline.data.calibration_strata",
            "throughline.data.dedup",
            "throughline.data.questions",
            extras=("data",),
        ),
        seed=seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.data import choose

        found = choose(dataset.path, calib_size, seed)
        found.write(run.directory)
        return run.commit(metrics=found.report.model_dump(mode="json") | {"tasks": found.report.tasks()})


def prompts(workload: Workload | None, dataset: Artifact) -> Prompts | None:
    """Returns what calibration records have to stand for: the workload's prompts, or those the model is judged by."""
    from throughline.data import prompts_of_dataset, prompts_of_workload

    return prompts_of_dataset(dataset.path) if workload is None else prompts_of_workload(workload)


def warnings(calibration: Artifact, wanted: Prompts | None, max_seq_length: int) -> tuple[str, ...]:
    """Returns what speaks against the choice, in words."""
    from throughline.data import Calibration
    from throughline.data import warnings as found_in

    found = Calibration.read(calibration.path)
    return found_in(found.records, found.report, wanted, max_seq_length)


def tell(found: tuple[str, ...]) -> None:
    """Prints warnings, a line each."""
    for text in found:
        app.echo(f"warning  {text}")


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from throughline.data import Calibration
    from throughline.reporting.terminal import print_table

    store = config.store()
    known = {item.digest for item in store.all("calibration")}
    base = convert.make(config)
    dataset = references.dataset(store, config.dataset, base.path, names=(inputs.TOKENIZER,))
    artifact = make(store, dataset, config.calib_size, config.seed)
    for table in tables(Calibration.read(artifact.path).report):
        print_table(table)
    tell(warnings(artifact, prompts(config.workload, dataset), config.calib_max_seq_length))
    app.made(
        artifact,
        again=artifact.digest in known,
        next_command=f"python -m recipes.quantize quantize.calib_size={config.calib_size}",
    )


def tables(report: CalibrationReport) -> list[Table]:
    """Returns lengths of the choice beside those of the training split, and its strata."""
    names = ("records", "tokens", "shortest", "median", "95 %", "longest")
    columns = [Column("", align="left"), *(Column(name) for name in names)]

    def row(name: str, records: int, tokens: int | None, counts: TokenCounts) -> list[object]:
        return [name, records, tokens, counts.min, counts.median, counts.p95, counts.max]

    rows = [
        row("calibration", report.records, report.tokens, report.lengths),
        row("its prompts", report.records, None, report.prompts),
        row("training split", report.train_records, report.train_tokens, report.train_lengths),
    ]
    note = f"{report.left_out} training records have a name or question of one that models are judged by: left out"
    strata: list[list[object]] = [
        [
            item.task,
            f"{item.shortest} to {item.longest}",
            item.train_records,
            f"{100 * item.train_records / report.train_records:.1f}",
            item.records,
            f"{100 * item.records / report.records:.1f}",
        ]
        for item in report.strata
    ]
    heads = [
        Column("task", align="left"),
        Column("tokens"),
        Column("training split"),
        Column("of it", "%"),
        Column("calibration"),
        Column("of it", "%"),
    ]
    return [
        Table("Calibration records, in tokens", columns, rows, note=note if report.left_out else ""),
        Table("By task and length", heads, strata),
    ]


if __name__ == "__main__":
    main()
