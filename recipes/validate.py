"""Composes and validates every recipe with every preset, and prints how many it checked.

python -m recipes.validate
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from recipes import app
from throughline.contracts.errors import ConfigError, ThroughlineError

# What a preset leaves open for the user, so that it can be checked all the same.
FILL_INS = {
    "model=gguf": ["model.path=/models/example.gguf"],
    "model=hf": ["model.path=/models/example"],
    "data=files": ["data.source=/data/example.jsonl"],
}


@dataclass(frozen=True)
class Check:
    """One recipe composed with one choice of presets; `fault` is empty when it validates."""

    recipe: str
    overrides: tuple[str, ...]
    fault: str


def recipes() -> list[str]:
    """Returns the names of the recipes: the YAML files of `recipes/conf` that have a module."""
    names = [path.stem for path in sorted(app.CONF.glob("*.yaml"))]
    return [name for name in names if (Path(app.__file__).parent / f"{name}.py").is_file()]


def groups(recipe: str) -> dict[str, list[str]]:
    """Returns the preset groups that a recipe's defaults list names, with their choices."""
    entries = yaml.safe_load((app.CONF / f"{recipe}.yaml").read_text()).get("defaults", [])
    named = [
        re.sub(r"^(override|optional) ", "", str(key)) for entry in entries if isinstance(entry, dict) for key in entry
    ]
    return {
        name: sorted(path.stem for path in (app.CONF / name).glob("*.yaml"))
        for name in named
        if (app.CONF / name).is_dir()
    }


def check(recipe: str, overrides: tuple[str, ...]) -> Check:
    """Composes and validates one combination."""
    extra = tuple(itertools.chain.from_iterable(FILL_INS.get(override, []) for override in overrides))
    module = importlib.import_module(f"recipes.{recipe}")
    try:
        app.to_schema(app.compose(recipe, [*overrides, *extra]), module.Config)
    except ThroughlineError as error:
        return Check(recipe, overrides, str(error))
    except Exception as error:  # OmegaConf raises many kinds; each is a fault of the preset
        return Check(recipe, overrides, f"{type(error).__name__}: {error}")
    return Check(recipe, overrides, "")


def check_all() -> list[Check]:
    """Checks every recipe alone and with every preset of every group it uses."""
    done = []
    for name in recipes():
        done.append(check(name, ()))
        for group, choices in groups(name).items():
            done += [check(name, (f"{group}={choice}",)) for choice in choices]
    return done


def main() -> int:
    """Prints a line a check and the count; returns 2 if any preset is faulty."""
    if len(sys.argv) > 1:
        print((__doc__ or "").strip())
        return 0 if sys.argv[1] in {"-h", "--help"} else 2
    checks = check_all()
    faulty = [item for item in checks if item.fault]
    for item in checks:
        print(f"{'FAULT' if item.fault else 'ok   '} {item.recipe} {' '.join(item.overrides)}")
    for item in faulty:
        error = ConfigError("preset does not validate", where=f"{item.recipe} {item.overrides}", seen=item.fault)
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    print(f"validated {len(checks)} presets of {len(recipes())} recipes, {len(faulty)} faulty")
    return 2 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
