"""Our build of a CPU engine against the bare tools: the same graph, NNCF's `compress_weights`, OpenVINO's `save_model`.

python benchmarks/engine_build.py --checkpoint FOLDER --precisions int8 int4
python benchmarks/engine_build.py --shape llama-3.2-1b --precisions int8

Each build runs in a process of its own, which has imported everything before the clock starts; the two take turns.
Ours checks the checkpoint, digests it, makes the detokenizer, records golden prompts and writes card and report
besides; the golden prompts are a run of the finished engine and are given apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cpu_engine
from results_file import command_line, spread, write

from throughline.contracts.engine import EngineSpec

ROOT = Path(__file__).resolve().parents[1]
# Methods that need no records, so that both do the same arithmetic.
METHODS = {"int8": {"precision": "int8"}, "int4": {"precision": "int4", "calibration": "none"}}


def ours(checkpoint: Path, spec: EngineSpec, out: Path) -> dict[str, float]:
    """Returns seconds by phase, and of the whole."""
    from throughline.engines.cpu.build import CpuEngineBuilder

    started = time.perf_counter()
    phases = CpuEngineBuilder().build(checkpoint, spec, out).seconds
    return {**phases, "seconds": time.perf_counter() - started}


def bare(checkpoint: Path, spec: EngineSpec, out: Path) -> dict[str, float]:
    """Does what a script of twenty lines would; the graph is ours, since the bare tools have none."""
    from throughline.engines.cpu import openvino_env
    from throughline.engines.cpu.graph import build_graph
    from throughline.engines.cpu.model_config import read_decoder_config
    from throughline.engines.safetensors_reader import SafetensorsFolder

    nncf, openvino = openvino_env.nncf(), openvino_env.openvino()
    modes = nncf.CompressWeightsMode
    started = time.perf_counter()
    values = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config = read_decoder_config(values, spec.max_seq_len)
    model = build_graph(config, SafetensorsFolder(checkpoint), bf16=False)
    if spec.precision == "int8":
        model = nncf.compress_weights(model, mode=modes.INT8_ASYM)
    else:
        model = nncf.compress_weights(model, mode=modes.INT4_ASYM, ratio=spec.int4_ratio, group_size=spec.group_size)
    out.mkdir()
    openvino.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
    return {"seconds": time.perf_counter() - started}


def child(job: dict[str, Any]) -> None:
    """Imports, builds once, and prints the seconds."""
    import throughline.engines.cpu.build  # noqa: F401
    from throughline.engines.cpu.openvino_env import nncf, openvino

    # With their telemetry off.
    openvino()
    nncf()
    spec = EngineSpec.model_validate({"max_seq_len": 1024} | METHODS[job["precision"]])
    with tempfile.TemporaryDirectory(dir=job["work"]) as name:
        build = {"ours": ours, "bare": bare}[job["who"]]
        print(json.dumps(build(Path(job["checkpoint"]), spec, Path(name) / "engine")))


def main() -> None:
    """Measures, prints a line a build, and writes JSON."""
    if sys.argv[1:2] == ["--child"]:
        child(json.loads(sys.argv[2]))
        return
    parser = command_line(__doc__, "engine_build")
    parser.add_argument("--checkpoint", type=Path, help="a Hugging Face folder; random weights of --shape without it")
    parser.add_argument("--shape", default="smollm2-135m", help="a name of engines/models")
    parser.add_argument("--precisions", nargs="+", choices=sorted(METHODS), default=["int8"])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        checkpoint = args.checkpoint
        if checkpoint is None:
            shape = json.loads((ROOT / "engines" / "models" / f"{args.shape}.json").read_text(encoding="utf-8"))
            checkpoint = Path(work) / "checkpoint"
            cpu_engine.random_checkpoint(shape, checkpoint)
        for repeat in range(args.repeats):
            for precision in args.precisions:
                for who in ("ours", "bare") if repeat % 2 == 0 else ("bare", "ours"):
                    job = {"who": who, "precision": precision, "checkpoint": str(checkpoint.resolve()), "work": work}
                    done = subprocess.run(
                        [sys.executable, __file__, "--child", json.dumps(job)],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    row = {"repeat": repeat, "precision": precision, "who": who}
                    row |= json.loads(done.stdout.strip().splitlines()[-1])
                    rows.append(row)
                    print(f"{precision} {who}: {row['seconds']:.1f} s", flush=True)
    summary = {}
    for precision in args.precisions:
        mine, theirs = ([r for r in rows if (r["precision"], r["who"]) == (precision, w)] for w in ("ours", "bare"))
        pairs = list(zip(mine, theirs, strict=True))
        summary[precision] = {
            "ours / bare": spread([m["seconds"] / t["seconds"] for m, t in pairs]),
            "ours without golden prompts / bare": spread(
                [(m["seconds"] - m["golden"]) / t["seconds"] for m, t in pairs]
            ),
        }
        for name, found in summary[precision].items():
            print(f"{precision}: {name} {found['median']:.3f} [{found['least']:.3f}, {found['most']:.3f}]")
    values = {
        "command": " ".join(["python", *sys.argv]),
        "checkpoint": str(args.checkpoint.name if args.checkpoint else args.shape),
        "device": f"{os.cpu_count()} cores",
        "summary": summary,
        "rows": rows,
    }
    write(args.out, values)


if __name__ == "__main__":
    main()
