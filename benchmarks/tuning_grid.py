"""Measures every point of the space `batching` once, so that a search can be compared with looking everywhere.

    python benchmarks/tuning_grid.py --engines bf16=/engines/bf16 int8=/engines/int8 --minutes 10

Each point loads the engine anew, warms it and loads it for `--seconds`. What is measured is kept after every point: a
run that ends after `--minutes` exits with 3 while points are left, and the same command goes on. `--points` measures
the first so many of a shuffled order and writes nothing, to see what limits make sense.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from pydantic import BaseModel

from recipes import app
from recipes.tune_probe import StackProbe
from recipes.tune_report import machine
from throughline.artifacts import Artifact, ArtifactStore, Manifest
from throughline.contracts.config import parse
from throughline.contracts.engine import EngineInfo
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Workload
from throughline.tuning import Limits, SpaceSpec
from throughline.tuning.space import identity

RESULTS = Path(__file__).parent / "results" / "tuning_grid.json"
WORKLOAD = "desk"
LEFT = 3
M = TypeVar("M", bound=BaseModel)


def foreign(path: Path) -> Artifact:
    """An engine folder that no store has made, as an artifact."""
    info = EngineInfo.read(path)
    manifest = Manifest(
        kind="engine",
        name=info.name,
        digest=info.checkpoint_digest,
        created="",
        inputs={},
        config={"engine": info.spec.model_dump(mode="json")},
        code_version="",
        seed=0,
        seconds=0.0,
        metrics={"weight_bytes": info.weight_bytes},
        licences=(),
        environment={},
        files=(),
    )
    return Artifact(path.resolve(), manifest)


def main() -> int:
    """Measures what is left; returns 0 when all points are there, 3 when some are left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", required=True, help="precision=folder, the default first")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--slo", default="reading", help="a preset of recipes/conf/slo")
    parser.add_argument("--points", type=int, default=0)
    parser.add_argument("--home", default="artifacts", help="the artifact store")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    started = time.monotonic()
    engines = {name: foreign(Path(path)) for name, _, path in (item.partition("=") for item in arguments.engines)}
    # The first one is the default's.
    infos = [EngineInfo.read(engine.path) for engine in engines.values()]
    space = preset(SpaceSpec, "space", "batching")
    store = ArtifactStore(arguments.home)
    workload, slo = preset(Workload, "workload", WORKLOAD), preset(SloSpec, "slo", arguments.slo)
    probe = StackProbe("raw", workload, slo, store, lambda built: engines[built["precision"]])
    limits = Limits(slo)
    rows = json.loads(arguments.out.read_text())["points"] if arguments.out.is_file() and not arguments.points else []
    known = {identity(row["settings"]) for row in rows}
    # In shuffled order, so that a machine that slows down does not slow one corner of the space.
    order = [point for point in space.points() if identity(point) not in known]
    random.Random(0).shuffle(order)
    for number, point in enumerate(order[: arguments.points or None]):
        if time.monotonic() - started > 60 * arguments.minutes - 45:
            print(f"{len(order) - number} points are left: run the same command again", flush=True)
            return LEFT
        begin = time.monotonic()
        found = probe(point, seconds=arguments.seconds, seed=0)
        broken = {name: round(value, 2) for name, value in limits.pressure(found).items()}
        goodput = limits.value(found, "goodput")
        took = time.monotonic() - begin
        rate = found.tokens_per_second.value
        print(
            f"{len(rows) + 1} {list(point.values())} {goodput:.2f}/s {rate:.0f} tokens/s {broken} {took:.0f} s",
            flush=True,
        )
        rows.append({"settings": point, "took_seconds": round(took, 1), "measurement": found.model_dump(mode="json")})
        if not arguments.points:
            plain = {
                "workload": workload.model_dump(mode="json"),
                "slo": slo.model_dump(mode="json"),
                "space": space.model_dump(mode="json"),
                "engine": infos[0].model_dump(mode="json"),
            }
            write(arguments.out, plain, rows, arguments.seconds)
    return 0


def preset(kind: type[M], group: str, name: str) -> M:
    """Reads a preset; what it leaves out is the contract's default."""
    values = yaml.safe_load((app.CONF / group / f"{name}.yaml").read_text())
    return parse(kind, {key: value for key, value in values.items() if key != "defaults"}, where=f"{group}={name}")


def write(path: Path, presets: dict[str, object], rows: list[dict[str, object]], seconds: float) -> None:
    """Writes what is measured so far, whole or not at all."""
    values = {
        "command": "python benchmarks/tuning_grid.py --engines bf16=… int8=…",
        "machine": machine(),
        "seconds": seconds,
        **presets,
        "points": rows,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, separators=(",", ":")) + "\n")
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
