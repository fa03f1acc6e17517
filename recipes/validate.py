"""Composes and validates every recipe with every preset, says what each gate can decide, and counts the checks.

python -m recipes.validate
python -m recipes.validate profile=production    # what a profile decides, from the presets of its name
"""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recipes import app, evaluate, lifecycle
from throughline.contracts.errors import ConfigError, ThroughlineError
from throughline.contracts.evaluation import GATED_SET, OTHER
from throughline.contracts.text import did_you_mean
from throughline.evaluation.power import MOST, CheckPower, check_powers, questions_of
from throughline.lab.records import HELD_OUT

# What a preset leaves open for the user, so that it can be checked all the same.
FILL_INS = {
    "plan": ["config=/models/example/config.json"],
    "lint": ["path=/models/repository"],
    "migrate": ["repository=/models/old", "checkpoint=/models/example", "out=/models/new"],
    "model=gguf": ["model.path=/models/example.gguf"],
    "model=hf": ["model.path=/models/example"],
    "workload=trace": ["workload.trace=/data/example.csv"],
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
    extra = tuple(itertools.chain.from_iterable(FILL_INS.get(name, []) for name in (recipe, *overrides)))
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


@dataclass(frozen=True)
class GatePower:
    """What one limit of a gate can tell with one suite on the lab's questions, or on a user's own."""

    gate: str
    suite: str
    questions: str
    power: CheckPower

    def __str__(self) -> str:
        found = self.power
        sign = {"min": "≥", "max": "≤", "drop": "drop ≤"}[found.kind]
        need = f"needs {found.needed}" if found.needed <= MOST else f"needs more than {MOST}"
        return (
            f"gate={self.gate} suite={self.suite}, {self.questions} questions: "
            f"{' '.join(filter(None, (found.precision, found.metric)))} {sign} {found.limit:g} {need}, "
            f"has {found.questions}; power {found.power:.2f} if truly {found.assumed}"
        )


def gate_powers() -> list[GatePower]:
    """Returns the power of every check of every gate with every suite that measures what it asks for."""
    found = []
    # Suites that ask the same questions are one: those of the larger profiles are all `full`.
    suites: dict[str, tuple[str, dict[str, int]]] = {}
    for name in groups("evaluate")["suite"]:
        suite = app.to_schema(app.compose("evaluate", [f"suite={name}"]), evaluate.Config).suite
        names, _ = suites.get(str(suite), ("", {}))
        suites[str(suite)] = (f"{names},{name}".strip(","), suite.limits.get(GATED_SET, {}))
    for gate, (names, limits) in itertools.product(groups("lifecycle")["gate"], suites.values()):
        policy = app.to_schema(app.compose("lifecycle", [f"gate={gate}"]), lifecycle.Config).gate
        for name, counts in _counts(limits).items():
            if all(questions_of(metric, counts) for metric in (*policy.min, *policy.max)):
                found += [GatePower(gate, names, name, power) for power in check_powers(policy, counts)]
    return found


def _counts(limits: dict[str, int]) -> dict[str, dict[str, int]]:
    """Questions by stratum: the lab's within the limits, and a user's own, of which there are enough."""
    lab = {name: min(count, limits.get(name, count)) for name, count in HELD_OUT[GATED_SET].items()}
    return {"lab": lab, "own": {OTHER: limits.get(OTHER, MOST)}}


def profile_settings(profile: str) -> dict[str, dict[str, Any]]:
    """Returns what a profile decides: group → its settings, from the recipe that has the group.

    Raises:
        ConfigError: If there is no such profile.
    """
    found: dict[str, dict[str, Any]] = {}
    for recipe in recipes():
        for group in groups(recipe):
            if profile in groups(recipe)[group] and group not in ("profile", *found):
                config = app.compose(recipe, [f"profile={profile}"])
                module = importlib.import_module(f"recipes.{recipe}")
                settings = app.to_schema(config, module.Config).model_dump(mode="json")[group]
                found[group] = settings
    if not found:
        known = [path.stem for path in (app.CONF / "profile").glob("*.yaml")]
        raise ConfigError("no such profile", where="profile", seen=profile, fix=did_you_mean(profile, known))
    return dict(sorted(found.items()))


def main() -> int:
    """Prints a line a check and the count; returns 2 if a preset is faulty or a gate cannot decide."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("profile="):
        try:
            settings = profile_settings(sys.argv[1].removeprefix("profile="))
        except ConfigError as fault:
            return app.report(fault)
        print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip())
        return 0
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
    powers = gate_powers()
    weak = [item for item in powers if not item.power.decides]
    for power in powers:
        print(f"{'ok   ' if power.power.decides else 'FAULT'} {power}")
    for power in weak:
        undecided = ConfigError(
            "gate has a limit that the suite cannot decide",
            where=f"gate={power.gate} suite={power.suite}",
            seen=str(power),
            fix="loosen the limit, or ask more questions (suite.limits)",
        )
        print(f"{type(undecided).__name__}: {undecided}", file=sys.stderr)
    print(f"validated {len(checks)} presets of {len(recipes())} recipes, {len(faulty)} faulty")
    print(f"validated {len(powers)} limits of gates with suites, {len(weak)} undecidable")
    return 2 if faulty or weak else 0


if __name__ == "__main__":
    sys.exit(app.finished(main))
