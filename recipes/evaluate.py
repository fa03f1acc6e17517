"""Scores an engine on the acceptance set and compares it with what was scored before.

python -m recipes.evaluate
python -m recipes.evaluate target=3f2a91 suite.limit=100
"""

from __future__ import annotations

import time

from recipes import app, inputs
from throughline.artifacts import Artifact, code_version
from throughline.contracts.evaluation import SuiteSpec


class Config(app.RecipeConfig):
    """Settings of `recipes.evaluate`."""

    suite: SuiteSpec
    target: str = "latest"
    dataset: str = "latest"


def make(config: Config, *, label: str = "") -> Artifact:
    """Makes the evaluation artifact, or finds it; `label` is the model's name in it."""
    store = config.store()
    engine = inputs.artifact(store, "engine", config.target, key="target")
    dataset = inputs.artifact(store, "dataset", config.dataset, key="dataset")
    stage = store.stage(
        "evaluation",
        label or engine.manifest.name,
        inputs={"engine": engine, "dataset": dataset},
        config={"suite": config.suite.model_dump(mode="json"), "model": label or engine.manifest.name},
        code_version=code_version("throughline.evaluation", "throughline.contracts.evaluation"),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline import engines
        from throughline.evaluation.generate import generate
        from throughline.evaluation.questions import load_questions, select
        from throughline.evaluation.store import write_evaluation
        from throughline.evaluation.suite import score
        from throughline.reporting.progress import Progress

        questions = select(load_questions(dataset.path / "acceptance.jsonl"), config.suite)
        runtime = engines.load(engine.path)
        started = time.perf_counter()
        try:
            with Progress(f"evaluate {label or engine.manifest.name}", total=len(questions)) as progress:
                answers = generate(runtime, questions, config.suite, on_progress=progress.update)
        finally:
            runtime.close()
        seconds = time.perf_counter() - started
        evaluation = score(label or engine.manifest.name, questions, answers, config.suite, seconds=seconds)
        write_evaluation(run.directory, evaluation, questions, answers)
        return run.commit(metrics={name: metric.as_dict() for name, metric in evaluation.metrics.items()})


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import quality_table
    from throughline.evaluation.store import read_evaluation
    from throughline.reporting.terminal import print_table

    known = {item.digest for item in config.store().all("evaluation")}
    artifact = make(config)
    dataset = artifact.manifest.inputs["dataset"]
    others = [
        item
        for item in config.store().all("evaluation")
        if item.manifest.inputs["dataset"] == dataset and item.digest != artifact.digest
    ]
    shown = [read_evaluation(item.path) for item in [*others[-4:], artifact]]
    print_table(quality_table(shown))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.deploy")


if __name__ == "__main__":
    main()
