"""Every command that the README, the docs, the presets and the recipes show composes as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recipes import app, validate

ROOT = Path(__file__).resolve().parents[3]
PLACES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.py")),
    *sorted((ROOT / "recipes" / "conf").rglob("*.yaml")),
    *sorted((ROOT / "docker").glob("*.Dockerfile")),
    ROOT / "docker" / "compose.yaml",
]
_COMMAND = re.compile(
    r"(?:python -m recipes\.(\w+)|make (run|train|data|build|eval|deploy|bench|serve|chat) ARGS=)(.*)"
)
_RECIPES = {"run": "lifecycle", "eval": "evaluate"}
_WITHOUT_HYDRA = {"validate", "catalogue", "raw_engine"}


def found() -> list[tuple[str, str, str]]:
    """Place, recipe and arguments of every command, lines that end with a backslash put together."""
    commands = []
    for path in PLACES:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for number, line in enumerate(text.splitlines(), 1):
            # In a recipe the usage lines of its docstring; its messages are made up at run time.
            if path.suffix == ".py" and not line.startswith(("python -m", "torchrun")):
                continue
            for match in _COMMAND.finditer(line):
                recipe = match[1] or _RECIPES.get(match[2], match[2])
                rest = re.split("`|  #| <|[(]", match[3])[0]
                if match[2]:
                    # What make hands to the shell: the text between the outer quotes, its escapes undone.
                    rest = re.match(r'"((?:[^"\\]|\\.)*)"', rest)[1].replace('\\"', '"')  # type: ignore[index]
                if recipe not in _WITHOUT_HYDRA and "{" not in rest and "…" not in rest:
                    commands.append((f"{path.relative_to(ROOT)}:{number}", recipe, rest))
    return commands


def test_there_are_commands_to_check() -> None:
    assert len(found()) > 60
    assert {"lifecycle", "train", "build", "deploy", "bench", "compare", "plan"} <= {recipe for _, recipe, _ in found()}


@pytest.mark.parametrize(("place", "recipe", "arguments"), found())
def test_the_command_composes(place: str, recipe: str, arguments: str) -> None:
    """`make run ARGS="… 'stages.data=[data=files]'"` stood in the README and could not be parsed."""
    words = shlex.split(re.sub(r"<\w+>", "3f2a91", arguments), comments=True)
    if "-m" in words or "--multirun" in words:
        # Each choice of a sweep by itself.
        words = [re.sub(r"=([^,\[]+),.*", r"=\1", word) for word in words]
    if recipe == "plan":
        words = ["job=score" if word == "score" else word for word in words]
    overrides = [word for word in words if "=" in word]
    assert all("=" in word or word.startswith("-") for word in words), words
    app.compose(recipe, [*validate.FILL_INS.get(recipe, []), *overrides])
