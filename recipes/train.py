"""Fine-tunes a LoRA adapter with NeMo AutoModel and merges it into a checkpoint.

python -m recipes.train
python -m recipes.train peft.dim=16 trainer.max_steps=300 tracking=none
torchrun --nproc-per-node 2 -m recipes.train trainer.global_batch_size=8
"""

from __future__ import annotations

from typing import Literal

from recipes import app, convert, references
from throughline.artifacts import Artifact, ArtifactStore, code_version
from throughline.contracts.errors import ArtifactError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training.ranks import rank


class Config(app.RecipeConfig):
    """Settings of `recipes.train`."""

    model: app.ModelSpec
    peft: PeftSpec
    trainer: TrainerSpec
    tracking: TrackingSpec
    dataset: str = "latest"
    merge_dtype: Literal["float32", "bfloat16"] = "float32"


def make(config: Config) -> tuple[Artifact, Artifact]:
    """Makes the adapter and the merged checkpoint, or finds them."""
    store = config.store()
    if not store.all("dataset"):
        raise ArtifactError("there is no dataset yet", where="dataset", fix="run `python -m recipes.data`")
    base = convert.make(config)
    dataset = references.dataset(store, config.dataset, base.path)
    adapter = make_adapter(config, store, dataset, base)
    return adapter, make_checkpoint(config, store, adapter, base)


def make_adapter(config: Config, store: ArtifactStore, dataset: Artifact, base: Artifact) -> Artifact:
    """Trains; a run that was killed goes on from its newest checkpoint."""
    stage = store.stage(
        "adapter",
        f"{config.model.name}-lora",
        inputs={"dataset": dataset, "base": base},
        config={
            "peft": config.peft.model_dump(mode="json"),
            "trainer": config.trainer.model_dump(mode="json"),
        },
        code_version=code_version("throughline.training", extras=("train",)),
        seed=config.seed,
        resumable=True,
        follows=rank() > 0,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.evaluation.probe import make_probe
        from throughline.reporting import format as fmt
        from throughline.reporting.progress import Progress
        from throughline.training.sft import fit_lora, schedule

        if run.resumed:
            app.echo("going on from the last checkpoint of the run that was stopped")
        trainer = config.trainer.model_copy(update={"seed": config.trainer.seed + config.seed})
        total = sum(schedule(dataset.path, trainer).tokens)

        planned: dict[str, float] = {}

        def estimated(seconds: float) -> None:
            planned["seconds"] = seconds
            app.echo(
                f"training on {total:,} tokens will take about {fmt.seconds(seconds)} on this machine; "
                f"trainer.max_tokens={total // 2} takes half of it"
            )

        def show(step: int, of: int, metrics: dict[str, float]) -> None:
            pace = {"records/s": metrics["records_per_second"]} if "records_per_second" in metrics else {}
            progress.update(int(metrics["tokens"]), step=f"{step}/{of}", loss=metrics["loss"], **pace)

        with Progress("train", total=total, unit="tokens") as progress:
            report = fit_lora(
                dataset.path,
                base.path,
                run.directory,
                peft=config.peft,
                trainer=trainer,
                tracking=config.tracking,
                on_step=show,
                on_estimate=estimated,
                probe=make_probe(
                    dataset.path / "probe.jsonl", base.path, trainer.probe_size, trainer.probe_max_new_tokens
                ),
                tracking_dir=store.home / "tracking",
            )
        return run.commit(
            metrics={
                "train_loss": report.train_loss,
                "validation_loss": report.validation_loss,
                "best_validation_loss": report.best_validation_loss,
                "steps": report.steps,
                "records": report.records,
                "tokens": report.tokens,
                "validation": report.curves.validation,
                # A run that goes on where a killed one stopped takes less than was planned for all of it.
                "planned": {} if run.resumed else planned,
            }
        )


def make_checkpoint(config: Config, store: ArtifactStore, adapter: Artifact, base: Artifact) -> Artifact:
    """Merges the adapter into the base."""
    stage = store.stage(
        "checkpoint",
        f"{config.model.name}-tuned",
        inputs={"adapter": adapter, "base": base},
        config={"dtype": config.merge_dtype},
        code_version=code_version("throughline.training.merge", extras=("train",)),
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.training.merge import merge

        difference = merge(base.path, adapter.path, run.directory, dtype=config.merge_dtype)
        return run.commit(metrics={"relative_logit_difference": difference})


@app.recipe(Config, nemo=True)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import mapping_table
    from throughline.reporting.terminal import print_table

    trainer = config.trainer
    app.echo(
        f"LoRA rank {config.peft.dim} on {config.model.name}: {trainer.max_tokens or 'all'} tokens in steps of "
        f"{trainer.global_batch_size} records"
    )
    known = {item.digest for item in config.store().all()}
    adapter, checkpoint = make(config)
    figures = adapter.manifest.metrics
    last = {key: value for key, value in figures["validation"][-1].items() if key.startswith("probe/")}
    losses = {key: figures[key] for key in ("train_loss", "validation_loss", "best_validation_loss")}
    print_table(mapping_table("Training", losses | last))
    app.made(adapter, again=adapter.digest in known, next_command="python -m recipes.build -m quant=bf16,int8,int4")
    app.made(
        checkpoint,
        again=checkpoint.digest in known,
        next_command="python -m recipes.build -m quant=bf16,int8,int4",
    )


if __name__ == "__main__":
    main()
