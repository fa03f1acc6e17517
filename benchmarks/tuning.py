"""What the tuner finds on the grid of `tuning_grid.py` with a quarter of its probes, and what that is worth.

    python benchmarks/tuning.py replay --seeds 10
    python benchmarks/tuning.py race --engines int8=/engines/int8 bf16=/engines/bf16

`replay` searches the recorded grid, so that looking everywhere is the judge. `race` measures the default beside what
seed 0 has found, interleaved, `--rounds` times, after A-A probes of the default; every probe is kept, and a run that
was ended goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.tuning_grid import foreign
from recipes import tune_prior
from recipes.tune_probe import StackProbe
from recipes.tune_report import machine
from throughline.artifacts import ArtifactStore
from throughline.contracts.engine import EngineInfo
from throughline.contracts.measurement import Measurement
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.tuning import Limits, SpaceSpec, Study, StudySpec
from throughline.tuning.noise import of_probes
from throughline.tuning.race import RaceSpec, Runner, race
from throughline.tuning.recorded import Grid, Recorded

RESULTS = Path(__file__).parent / "results"
GRID = RESULTS / "tuning_grid.json"
# The engine's own preset, as far as the space has it: four users fill no larger batch.
DEFAULT = {
    "engine.precision": "bf16",
    "engine.max_num_tokens": 128,
    "engine.max_batch_size": 4,
    "engine.enable_block_reuse": True,
}


@dataclass(frozen=True)
class Landscape:
    """A space of which every point was measured, and what the measuring was for.

    Attributes:
        space: The dimensions.
        limits: The SLO.
        workload: What was sent.
        engine: The engine whose settings are the default's.
        grid: The points.
    """

    space: SpaceSpec
    limits: Limits
    workload: Workload
    engine: EngineInfo
    grid: Grid

    @classmethod
    def read(cls, path: Path = GRID) -> Landscape:
        """Reads what `tuning_grid.py` has written."""
        values = json.loads(path.read_text())
        rows = [(row["settings"], Measurement.model_validate(row["measurement"])) for row in values["points"]]
        space, limits = SpaceSpec(**values["space"]), Limits(SloSpec(**values["slo"]))
        return cls(space, limits, Workload(**values["workload"]), EngineInfo(**values["engine"]), Grid(rows))

    def optimum(self) -> float:
        """Returns the best goodput of a point that keeps the SLO, by looking everywhere."""
        kept = (found for _, found in self.grid if self.limits.keeps(found))
        return max((self.limits.value(found, "goodput") for found in kept), default=0.0)

    def search(self, seed: int) -> Study:
        """Searches with a quarter of the points, from where `recipes.tune` begins without a doctor's advice."""
        spec = StudySpec(probes=len(self.grid) // 4, minutes=1e6, seed=seed)
        study = Study(self.space, spec, self.limits, None, refusal)
        study.run(self.grid, [DEFAULT, *tune_prior.proposals(self.space, DEFAULT, self.engine, self.workload)])
        return study


def refusal(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The linter's word on sizes alone: the grid holds nothing else that it could refuse."""
    fits = settings["engine.max_num_tokens"] >= settings["engine.max_batch_size"]
    return None if fits else ("num-tokens", "fewer tokens than sequences")


def replay(seeds: int) -> dict[str, Any]:
    """Returns what each seed reaches of the best."""
    land = Landscape.read()
    limits, grid = land.limits, land.grid
    best, rows = land.optimum(), []
    for seed in range(seeds):
        study = land.search(seed)
        found = study.best()
        share = study.value(found) / best if found else 0.0
        rows.append(
            {
                "seed": seed,
                "probes": len(study.measured),
                "share_of_best": round(share, 4),
                "settings": found.settings if found else None,
            }
        )
        print(f"seed {seed}: {share:.3f} of the best with {len(study.measured)} of {len(grid)} probes", flush=True)
    default = grid(DEFAULT, seconds=0, seed=0)
    return {
        "command": f"python benchmarks/tuning.py replay --seeds {seeds}",
        "points": len(grid),
        "feasible": sum(limits.keeps(found) for _, found in grid),
        "best_goodput": best,
        "default": {"goodput": limits.value(default, "goodput"), "over": limits.violations(default)},
        "reached_95_percent": f"{sum(row['share_of_best'] >= 0.95 for row in rows)} of {seeds}",
        "seeds": rows,
    }


def side_by_side(engines: Mapping[str, str], home: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measures the default beside what seed 0 finds."""
    land = Landscape.read()
    limits = land.limits
    found = land.search(0).best()
    if found is None:
        raise SystemExit("no point of the grid keeps the SLO")
    loaded = {name: foreign(Path(path)) for name, path in engines.items()}
    store = ArtifactStore(home)
    stack = StackProbe("raw", land.workload, limits.slo, store, lambda built: loaded[built["precision"]])
    probe = Recorded(stack, store.home / "tuning_race.jsonl")
    noise = of_probes([probe(DEFAULT, seconds=seconds, seed=100 + n) for n in range(4)], limits, "goodput")
    # All rounds, so that the interval is that of as many pairs as are asked for.
    spec = RaceSpec(finalists=1, rounds=rounds, least_rounds=rounds, seconds=seconds)
    raced = race(
        probe,
        DEFAULT,
        [found.settings],
        spec,
        limits,
        "goodput",
        noise,
        seed=200,
        on_round=lambda number, runners: print(f"round {number + 1}: {[each.ratio for each in runners]}", flush=True),
    )
    return {
        "command": f"python benchmarks/tuning.py race --engines int8=… bf16=… --rounds {rounds} --seconds {seconds:g}",
        "machine": machine(),
        "noise": asdict(noise),
        "reason": raced.reason,
        "default": _runner(raced.incumbent, limits),
        "tuned": _runner(raced.runners[0], limits),
        "ratio": asdict(raced.runners[0].ratio) if raced.runners[0].ratio else None,
    }


def _runner(runner: Runner, limits: Limits) -> dict[str, Any]:
    percentile = f"p{limits.slo.percentile}"
    return {
        "settings": runner.settings,
        "verdict": runner.verdict,
        "pressure": runner.pressure(limits),
        "rounds": [
            {
                "goodput": limits.value(each, "goodput"),
                "tokens_per_second": each.tokens_per_second.value,
                f"ttft_seconds_{percentile}": each.ttft[percentile].value,
                f"tpot_seconds_{percentile}": each.tpot[percentile].value,
                f"itl_seconds_{percentile}": each.itl[percentile].value,
            }
            for each in runner.measurements
        ],
    }


def main() -> int:
    """Runs a job and writes its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=["replay", "race"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--engines", nargs="*", default=[], help="precision=folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--home", default="artifacts", help="the artifact store")
    arguments = parser.parse_args()
    if arguments.job == "replay":
        values = replay(arguments.seeds)
    else:
        pairs = dict(item.split("=", 1) for item in arguments.engines)
        values = side_by_side(pairs, arguments.home, arguments.rounds, arguments.seconds)
    path = RESULTS / f"tuning_{arguments.job}.json"
    path.write_text(json.dumps(values, indent=1) + "\n")
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
