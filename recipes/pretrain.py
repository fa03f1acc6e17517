"""Pre-trains the lab's base checkpoint from the generator's plain text with NeMo AutoModel.

python -m recipes.pretrain
python -m recipes.pretrain export=src/throughline/lab/checkpoint
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from recipes import app
from throughline.artifacts import Artifact, code_version
from throughline.contracts.training import PretrainSpec


class Config(app.RecipeConfig):
    """Settings of `recipes.pretrain`; `export` also copies the checkpoint to a folder."""

    pretrain: PretrainSpec
    export: Path | None = None


def make(config: Config) -> Artifact:
    """Makes the checkpoint artifact, or finds it."""
    stage = config.store().stage(
        "checkpoint",
        "lab-base",
        config={"pretrain": config.pretrain.model_dump(mode="json")},
        code_version=code_version("throughline.training", "throughline.lab"),
        seed=config.seed,
        licences=["Apache-2.0"],
        resumable=True,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline.lab import plaintext, tokenizer
        from throughline.lab.card import write_model_card
        from throughline.reporting.progress import Progress
        from throughline.training.pretrain import pretrain

        folder = tokenizer.save_tokenizer(tokenizer.build_tokenizer(), run.directory / "tokenizer")
        documents = plaintext.documents(config.pretrain.documents_seed)
        with Progress("pretrain", total=config.pretrain.max_steps, unit="steps") as progress:
            curves = pretrain(
                documents,
                folder,
                run.directory,
                config.pretrain,
                on_step=lambda step, _of, metrics: progress.update(step, loss=metrics["loss"]),
            )
        shutil.rmtree(folder)
        loss = curves.train[-1]["loss"]
        write_model_card(run.directory, config.pretrain, loss)
        return run.commit(metrics={"loss": loss, "steps": len(curves.train)})


@app.recipe(Config, nemo=True)
def main(config: Config) -> None:
    """Runs the recipe."""
    spec = config.pretrain
    tokens = spec.max_steps * spec.global_batch_size * spec.seq_len
    app.say(f"pre-training for {spec.max_steps} steps, {tokens / 1e6:.1f} M tokens")
    before = {item.digest for item in config.store().all("checkpoint")}
    artifact = make(config)
    if config.export is not None:
        config.export.mkdir(parents=True, exist_ok=True)
        for path in artifact.path.iterdir():
            if path.name not in {"manifest.json", "training.json"}:
                shutil.copy2(path, config.export / path.name)
        app.say(f"copied to {config.export}")
    app.say(f"loss   {json.dumps(artifact.manifest.metrics)}")
    app.made(artifact, again=artifact.digest in before, next_command="python -m recipes.data")


if __name__ == "__main__":
    main()
