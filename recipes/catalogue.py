"""Writes the catalogue in `engines/`: a plan for every model, GPU and precision that go together.

python -m recipes.catalogue            # writes what has changed
python -m recipes.catalogue check      # exits with 2 if a file is not what the planner says now
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from recipes import app
from throughline.contracts.config import parse
from throughline.contracts.planning import GpuSpec, PlannedPrecision, PlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.advise import fits, recommended, supported
from throughline.planning.advise import options as planned_options
from throughline.planning.memory import kv_dtype, memory
from throughline.planning.shape import ModelShape, read_shape

ENGINES = Path(__file__).resolve().parents[1] / "engines"
GPUS = ("l4", "a100-80g", "h100-sxm", "h200", "b200")
WORKLOAD = "chat"
_SIZES = (1, 2, 4, 8)


def entries() -> Iterator[tuple[str, str]]:
    """Yields the name and the text of every file: one where a model fits on one to eight of a GPU."""
    workload = _read(Workload, "workload", WORKLOAD)
    for path in sorted((ENGINES / "models").glob("*.json")):
        shape = read_shape(path)
        for board in GPUS:
            gpu = _read(GpuSpec, "gpu", board)
            for precision in supported(gpu):
                plan = _smallest(shape, gpu, precision, workload)
                if plan is not None:
                    yield f"{path.stem}_{board}_{precision}.yaml", _text(path, board, shape, gpu, plan, workload)


def _smallest(shape: ModelShape, gpu: GpuSpec, precision: PlannedPrecision, workload: Workload) -> PlanSpec | None:
    """The plan on the fewest GPUs that it fits; none of them without a head of its own."""
    for size in _SIZES:
        plan = PlanSpec(precision=precision, tp_size=size)
        if shape.heads % size == 0 and fits(memory(shape, gpu, plan, workload), plan, workload):
            return plan
    return None


def _text(path: Path, board: str, shape: ModelShape, gpu: GpuSpec, plan: PlanSpec, workload: Workload) -> str:
    own = next(item for item in planned_options(shape, gpu, plan, workload) if item.precision == plan.precision)
    limits = recommended([own], plan, workload) or {}
    found, speed = own.memory, own.estimate
    values: dict[str, Any] = {
        "model": path.stem,
        "gpu": board,
        "status": "planned, never built",
        "spec": {
            "precision": plan.precision,
            "kv_cache_dtype": kv_dtype(plan),
            "tp_size": plan.tp_size,
            **{name: limits[name] for name in ("max_batch_size", "max_num_tokens", "max_seq_len")},
            "tokens_per_block": plan.tokens_per_block,
        },
        "planned": {
            "workload": WORKLOAD,
            "weights_bytes": round(found.weights),
            "kv_bytes_per_token": round(found.kv_per_token),
            "kv_token_capacity": found.kv_capacity,
            "total_bytes": round(found.total),
            "max_concurrent_sequences": speed.concurrency if speed else 0,
            "ttft_seconds": float(f"{speed.ttft:.3g}") if speed else None,
            "tpot_seconds": float(f"{speed.tpot:.3g}") if speed else None,
            "tokens_per_second": round(speed.tokens_per_second) if speed else None,
        },
    }
    settings = f"plan.precision={plan.precision}" + (f" plan.tp_size={plan.tp_size}" if plan.tp_size > 1 else "")
    command = f"# python -m recipes.plan config=engines/models/{path.name} gpu={board} {settings}\n"
    return command + yaml.safe_dump(values, sort_keys=False)


def _read(kind: type[Any], group: str, name: str) -> Any:
    values = yaml.safe_load((app.CONF / group / f"{name}.yaml").read_text())
    # Hydra's, which takes the fields that a preset leaves out from the schema, as `parse` does.
    values.pop("defaults", None)
    return parse(kind, values, where=f"{group}={name}")


def main() -> int:
    """Writes or checks the files; returns the exit code."""
    if sys.argv[1:] not in ([], ["check"]):
        print((__doc__ or "").strip())
        return 0 if sys.argv[1:] in (["-h"], ["--help"]) else 2
    wanted = dict(entries())
    found = {path.name: path.read_text() for path in ENGINES.glob("*.yaml")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if sys.argv[1:] == ["check"]:
        for name in stale:
            print(f"engines/{name} is not what the planner says; run `python -m recipes.catalogue`", file=sys.stderr)
        print(f"checked  {len(wanted)} plans in {ENGINES}, {len(stale)} stale")
        return 2 if stale else 0
    for name in stale:
        if name in wanted:
            (ENGINES / name).write_text(wanted[name])
        else:
            (ENGINES / name).unlink()
    print(f"wrote    {len(stale)} of {len(wanted)} plans in {ENGINES}")
    print("next     python -m recipes.plan config=engines/models/llama-3.1-8b.json gpu=h100-sxm")
    return 0


if __name__ == "__main__":
    sys.exit(main())
