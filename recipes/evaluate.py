"""Scores an engine on the held-out sets and compares it with what was scored before.

python -m recipes.evaluate
python -m recipes.evaluate target=3f2a91 suite=full suite.constrained=true
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from recipes import app, references
from throughline.artifacts import Artifact, code_version
from throughline.contracts.engine import EngineRuntime
from throughline.contracts.errors import DataError
from throughline.contracts.evaluation import CONSTRAINED, GATED_SET, Evaluation, Question, SuiteSpec

if TYPE_CHECKING:
    from throughline.reporting.progress import Progress


class Config(app.RecipeConfig):
    """Settings of `recipes.evaluate`."""

    suite: SuiteSpec
    target: str = "latest"
    dataset: str = "latest"


def make(config: Config, *, label: str = "") -> Artifact:
    """Makes the evaluation artifact, or finds it; `label` is the model's name in it.

    The artifact holds a folder for each set, which `evaluation.store.read_evaluations` reads.
    """
    store = config.store()
    engine = references.engine(store, config.target, config.profile)
    dataset = references.dataset(store, config.dataset, engine.path, engine)
    name = label or engine.manifest.name
    stage = store.stage(
        "evaluation",
        name,
        inputs={"engine": engine, "dataset": dataset},
        config={"suite": config.suite.model_dump(mode="json"), "model": name},
        code_version=code_version(
            "throughline.evaluation",
            "throughline.contracts.evaluation",
            "throughline.contracts.guided",
            "throughline.contracts.tool_calls",
            extras=("cpu",),
        ),
        seed=config.seed,
    )
    with stage as run:
        if run.cached:
            return run.cached
        from throughline import engines

        sets = dict(questions_of(dataset.path, config.suite))
        runtime = engines.load(engine.path)
        try:
            found = _ask(runtime, name, sets, config.suite, run.directory)
        finally:
            runtime.close()
        return run.commit(metrics={asked: evaluation.as_dict()["metrics"] for asked, evaluation in found.items()})


def _ask(
    runtime: EngineRuntime, name: str, sets: dict[str, list[Question]], suite: SuiteSpec, folder: Path
) -> dict[str, Evaluation]:
    """Asks and scores every set and writes it into its folder."""
    from throughline.evaluation.generate import generate
    from throughline.evaluation.store import write_evaluation
    from throughline.evaluation.suite import score
    from throughline.reporting.progress import Progress

    found: dict[str, Evaluation] = {}
    with Progress(f"evaluate {name}", total=sum(map(len, sets.values()))) as progress:
        for asked, questions in sets.items():
            before = sum(evaluation.questions for evaluation in found.values())
            tell = functools.partial(_tell, progress, asked, before)
            started = time.perf_counter()
            constrained = asked.endswith(CONSTRAINED)
            answers = generate(runtime, questions, suite, tell, constrained=constrained)
            seconds = time.perf_counter() - started
            found[asked] = score(name, questions, answers, suite, seconds=seconds)
            write_evaluation(folder / asked, found[asked], questions, answers)
    return found


def _tell(progress: Progress, asked: str, before: int, count: int) -> None:
    progress.update(before + count, set=asked)


def questions_of(dataset: Path, suite: SuiteSpec) -> Iterator[tuple[str, list[Question]]]:
    """Yields the suite's sets with their questions, those under the tools' grammar last.

    Raises:
        DataError: If the dataset has no acceptance set.
    """
    from throughline.evaluation.questions import load_questions, select

    found = {}
    for name in suite.sets:
        path = dataset / f"{name}.jsonl"
        if path.is_file():
            found[name] = select(load_questions(path), suite.limits.get(name, {}))
    if GATED_SET not in found:
        raise DataError(
            "the dataset has no questions to judge by",
            where=str(dataset),
            seen=f"no {GATED_SET}.jsonl",
            fix="give data.acceptance=… and run `python -m recipes.data` again",
        )
    yield from found.items()
    for name, questions in found.items():
        calls = [question for question in questions if question.expects_call]
        if suite.constrained and calls:
            yield name + CONSTRAINED, calls


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import quality_table
    from throughline.evaluation.store import read_evaluations
    from throughline.reporting.terminal import print_table

    known = {item.digest for item in config.store().all("evaluation")}
    artifact = make(config)
    dataset = artifact.manifest.inputs["dataset"]
    others = [
        item
        for item in config.store().all("evaluation")
        if item.manifest.inputs["dataset"] == dataset and item.digest != artifact.digest
    ]
    shown = [read_evaluations(item.path) for item in [*others[-4:], artifact]]
    for name in shown[-1]:
        print_table(quality_table([sets[name] for sets in shown if name in sets], name))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.deploy")


if __name__ == "__main__":
    main()
