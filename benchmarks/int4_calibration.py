"""Compares ways of making an INT4 engine: size, build time, distance from float32, answers to held-out questions.

    python benchmarks/int4_calibration.py --checkpoint DIR --dataset DIR [--out FILE] [--only NAME …] [--questions 240]

`DIR` is an artifact's folder, or a Hugging Face folder and one with `train.parquet`, `validation.parquet` and
`probe.jsonl`: a method is chosen here, so the acceptance set is not asked. Calibration takes training records only. The
distance is measured on the answers of validation records, in float32 arithmetic, so that the weights alone differ;
questions go through the engine as it is served.
Variants that the result file has already are not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results_file import command_line

from throughline import engines
from throughline.contracts.engine import CalibrationData, EngineSpec
from throughline.contracts.evaluation import SuiteSpec
from throughline.data import calibration_records
from throughline.engines.cpu.logits import answer_logits
from throughline.engines.cpu.openvino_env import processor
from throughline.evaluation.generate import generate
from throughline.evaluation.questions import load_questions
from throughline.evaluation.suite import score

MIB = 2**20
VARIANTS: dict[str, dict[str, Any]] = {
    "f32": {"precision": "f32"},
    "bf16": {"precision": "bf16"},
    "int8": {"precision": "int8"},
    "int4_rtn_g64": {},
    "int4_rtn_g32": {"group_size": 32},
    "int4_rtn_g64_sym": {"symmetric": True},
    "mixed_free_0.8_g64": {"int4_ratio": 0.8},
    "mixed_0.8_g64": {"int4_ratio": 0.8, "calibration": "mixed_precision"},
    "mixed_0.65_g64": {"int4_ratio": 0.65, "calibration": "mixed_precision"},
    "awq_g64": {"calibration": "awq"},
    "scale_estimation_g64": {"calibration": "scale_estimation"},
    "awq_scale_estimation_g64": {"calibration": "awq_scale_estimation"},
    "gptq_g64": {"calibration": "gptq"},
    "gptq_g32": {"calibration": "gptq", "group_size": 32},
    "scale_estimation_0.8_g64": {"calibration": "scale_estimation", "int4_ratio": 0.8},
    "awq_scale_estimation_0.8_g64": {"calibration": "awq_scale_estimation", "int4_ratio": 0.8},
    "gptq_0.8_g64": {"calibration": "gptq", "int4_ratio": 0.8},
}
Logits = list[npt.NDArray[np.float32]]


def held_out(dataset: Path, count: int) -> list[tuple[list[int], list[int]]]:
    """Returns token ids of validation records and the positions whose logits predict the answer's tokens."""
    import pyarrow.parquet as pq

    rows = pq.read_table(dataset / "validation.parquet", columns=["input_ids", "labels"]).to_pylist()[:count]
    return [
        (row["input_ids"], [index - 1 for index, label in enumerate(row["labels"]) if label >= 0 and index])
        for row in rows
    ]


def distance(reference: Logits, other: Logits) -> dict[str, float]:
    """Mean KL(reference ‖ other) in nats, and the share of positions where both prefer the same token."""
    divergences, agreements = [], []
    for left, right in zip(reference, other, strict=True):
        p, q = _log_softmax(left), _log_softmax(right)
        divergences.append((np.exp(p) * (p - q)).sum(-1))
        agreements.append(left.argmax(-1) == right.argmax(-1))
    return {
        "kl": round(float(np.concatenate(divergences).mean()), 6),
        "top1_agreement": round(float(np.concatenate(agreements).mean()), 4),
        "positions": sum(map(len, divergences)),
    }


def token_accuracy(logits: Logits, records: list[tuple[list[int], list[int]]]) -> float:
    """Share of answer tokens that the model prefers when it is given what stands before them."""
    hits = [
        each.argmax(-1) == [ids[position + 1] for position in positions]
        for each, (ids, positions) in zip(logits, records, strict=True)
    ]
    return round(float(np.concatenate(hits).mean()), 4)


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def quality(engine: Path, dataset: Path, questions: int) -> dict[str, Any]:
    """Asks the first `questions` of the probe through the engine, greedily and unconstrained."""
    spec = SuiteSpec(max_new_tokens={"triage": 96, "other": 48}, bootstrap_samples=100)
    asked = load_questions(dataset / "probe.jsonl")[:questions]
    runtime = engines.load(engine)
    started = time.perf_counter()
    try:
        answers = generate(runtime, asked, spec)
    finally:
        runtime.close()
    metrics = score(engine.name, asked, answers, spec).metrics
    found = {name: metrics[name].as_dict() for name in ("task_success", "triage_exact_match") if name in metrics}
    return {**found, "seconds": round(time.perf_counter() - started, 1)}


def measure(args: argparse.Namespace, values: dict[str, Any], scratch: Path, reference: Logits | None) -> Any:
    """Builds one variant; returns its row and its logits."""
    spec = EngineSpec.model_validate({"precision": "int4", "calib_size": args.records, **values})
    data = None
    if spec.calibration != "none":
        data = CalibrationData(calibration_records(args.dataset, args.records, args.seed), args.dataset.name)
    report = engines.build(args.checkpoint, spec, scratch, calibration=data)
    records = held_out(args.dataset, args.held_out)
    logits = list(answer_logits(scratch, records))
    row: dict[str, Any] = {
        "spec": values,
        "weights_mib": round(report.info.weight_bytes / MIB, 1),
        "build_seconds": {phase: round(value, 1) for phase, value in report.seconds.items()},
        **distance(reference or logits, logits),
        "token_accuracy": token_accuracy(logits, records),
    }
    if args.questions:
        row |= quality(scratch, args.dataset, args.questions)
    return row, logits


def main() -> int:
    """Measures what the result file lacks and writes it after each variant."""
    parser = command_line(__doc__, "int4_calibration")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", choices=sorted(VARIANTS), default=sorted(VARIANTS, key=list(VARIANTS).index)
    )
    parser.add_argument("--records", type=int, default=64, help="calibration records")
    parser.add_argument("--held-out", type=int, default=32, help="validation records to measure the distance on")
    parser.add_argument("--questions", type=int, default=240, help="questions of the probe, 0 for none")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration records")
    args = parser.parse_args()
    result: dict[str, Any] = {"rows": {}}
    if args.out.is_file():
        result = json.loads(args.out.read_text())
    with tempfile.TemporaryDirectory() as folder:
        row, reference = measure(
            argparse.Namespace(**{**vars(args), "questions": 0}), {"precision": "f32"}, Path(folder) / "f32", None
        )
        print(json.dumps({"reference": row}), flush=True)
        for name in args.only:
            if name in result["rows"]:
                continue
            row, _ = measure(args, VARIANTS[name], Path(folder) / name, reference)
            result["rows"][name] = row
            result |= {"machine": processor(), "records": args.records, "seed": args.seed}
            args.out.write_text(json.dumps(result, indent=1) + "\n")
            print(json.dumps({name: row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
