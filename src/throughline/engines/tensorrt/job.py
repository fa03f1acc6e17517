"""A build written out for a GPU machine: script, container, settings, calibration texts. Planned, not built."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import yaml

from throughline.contracts.config import StrictModel
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError
from throughline.contracts.quantization import Quantised
from throughline.engines.card import mib, table
from throughline.engines.tensorrt import commands
from throughline.engines.tensorrt.check import CALIBRATED, check_spec

JOB_FILE, SCRIPT, MODEL_YAML, CARD = "job.json", "build.sh", "model.yaml", "ENGINE_CARD.md"
_HEADER = """#!/usr/bin/env bash
# {title}
# Planned, not built: this script has not run on a GPU. {backend} back end, TensorRT-LLM {version}.
#
#   docker run --rm --gpus all --ipc host -v $PWD:/job -v /path/to/checkpoint:/checkpoint -v /path/to/output:/output \\
#     {container} bash /job/{script}
#
# Needs {needs}.
set -euo pipefail
JOB="$(cd "$(dirname "${{BASH_SOURCE[0]}}")" && pwd)"
CHECKPOINT="${{CHECKPOINT:-/checkpoint}}"
OUTPUT="${{OUTPUT:-/output}}"
WORK="${{WORK:-/tmp/work}}"
{more}
if [[ ! -f "$CHECKPOINT/config.json" ]]; then
  echo "no checkpoint: $CHECKPOINT/config.json is missing; set CHECKPOINT" >&2
  exit 2
fi
mkdir -p "$OUTPUT" "$WORK"
"""
_MODELOPT = """MODELOPT="${{MODELOPT:-/opt/Model-Optimizer}}"
if [[ ! -d "$MODELOPT" ]]; then
  echo "no ModelOpt: check out NVIDIA/Model-Optimizer {version} to $MODELOPT, or set MODELOPT" >&2
  exit 2
fi"""


class Requirement(StrictModel):
    """What a build is expected to take; estimates that no run has confirmed.

    Attributes:
        gpus: GPUs.
        gpu_bytes: Memory on each while weights are quantised: the whole model in 16 bits.
        disk_bytes: Checkpoint of TensorRT-LLM and engine.
        seconds: Reading, calibrating and writing, without TensorRT's search for kernels.
    """

    gpus: int
    gpu_bytes: int
    disk_bytes: int
    seconds: float


class EnginePlan(StrictModel):
    """What the planner says of the engine on one of its GPUs.

    Attributes:
        gpu: Name of the board.
        compute_capability: E.g. 9.0; an engine runs on the architecture that it was built on.
        gpu_bytes: Memory of the board.
        weights_bytes: Weights and scales.
        kv_cache_dtype: What `auto` comes to.
        kv_bytes_per_token: Keys and values of a token.
        kv_token_capacity: Tokens that the KV cache holds.
        max_concurrent_sequences: Requests of `max_seq_len` tokens that fit at a time.
    """

    gpu: str
    compute_capability: float
    gpu_bytes: int
    weights_bytes: int
    kv_cache_dtype: str
    kv_bytes_per_token: float
    kv_token_capacity: int
    max_concurrent_sequences: int


class BuildJob(StrictModel):
    """`job.json`: what is to be built, from what, and where.

    `quantised` says of a checkpoint that comes quantised how it is, and what its score was. `plan` is of the GPU that
    was named, None where none was.
    """

    status: Literal["planned, not built"] = "planned, not built"
    name: str
    spec: EngineSpec
    checkpoint_digest: str
    dataset_digest: str | None
    quantised: str | None = None
    tensorrt_llm: str = commands.TENSORRT_LLM_VERSION
    container: str = commands.CONTAINER
    commands: tuple[tuple[str, ...], ...]
    requirement: Requirement
    plan: EnginePlan | None = None

    @classmethod
    def read(cls, folder: Path) -> BuildJob:
        """Reads `job.json`.

        Raises:
            EngineError: If there is none or it is damaged.
        """
        path = folder / JOB_FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(
                "no build job here",
                where=str(path),
                seen=str(error),
                fix="write one: python -m recipes.build engine=gpu",
            ) from None


def write_job(
    folder: Path,
    *,
    name: str,
    spec: EngineSpec,
    requirement: Requirement,
    checkpoint_digest: str,
    dataset_digest: str | None = None,
    texts: Sequence[str] = (),
    quantised: Quantised | None = None,
    plan: EnginePlan | None = None,
) -> BuildJob:
    """Writes a job into an empty folder.

    Args:
        folder: Where to.
        name: Name that the engine is to be served under.
        spec: Of the `tensorrt` or the `pytorch` back end.
        requirement: What it is expected to take.
        checkpoint_digest: Digest of the checkpoint to build from.
        dataset_digest: Digest of the dataset that `texts` are from.
        texts: Training records for a calibrated precision, in the checkpoint's own format.
        quantised: How the checkpoint is quantised already; then it is served as it is.
        plan: What is expected of the engine, where its GPU is known.

    Raises:
        EngineError: If the back end cannot honour the spec, or calibration texts are missing.
        EngineLintError: If two fields contradict each other.
    """
    check_spec(spec)
    if spec.precision in CALIBRATED and quantised is None and not texts:
        raise EngineError(
            "this precision is calibrated and there are no records to calibrate on",
            where="engine.precision",
            seen=spec.precision,
            fix="name a dataset (dataset=…)",
        )
    steps = commands.steps(spec) if quantised is None else ()
    job = BuildJob(
        name=name,
        spec=spec,
        checkpoint_digest=checkpoint_digest,
        dataset_digest=dataset_digest,
        quantised=f"{quantised.algorithm}, score: {quantised.score}" if quantised is not None else None,
        commands=tuple(step.words for step in steps),
        requirement=requirement,
        plan=plan,
    )
    if texts and spec.precision in CALIBRATED:
        (folder / "calibration").mkdir(parents=True)
        lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
        (folder / "calibration" / commands.CALIBRATION_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    if spec.backend == "pytorch":
        values = commands.model_yaml(spec, "/output" if steps else "/checkpoint")
        (folder / MODEL_YAML).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    script = folder / SCRIPT
    script.write_text(_script(job, steps), encoding="utf-8")
    script.chmod(0o755)
    (folder / CARD).write_text(_card(job), encoding="utf-8")
    (folder / JOB_FILE).write_text(job.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return job


def _script(job: BuildJob, steps: Sequence[commands.Step]) -> str:
    need = job.requirement
    modelopt = any(word.startswith(commands.MODELOPT_FOLDER) for step in steps for word in step.words)
    text = _HEADER.format(
        title=f"{job.name}: {job.spec.precision}",
        backend=job.spec.backend,
        version=job.tensorrt_llm,
        container=job.container,
        script=SCRIPT,
        needs=f"{need.gpus} GPU(s) of {math.ceil(need.gpu_bytes / 2**30)} GiB, "
        f"{math.ceil(need.disk_bytes / 2**30)} GiB of disk, about {math.ceil(need.seconds / 60)} min "
        "and TensorRT's search for kernels; estimates",
        more=_MODELOPT.format(version=commands.MODELOPT_VERSION) if modelopt else "",
    )
    for number, step in enumerate(steps, start=1):
        words = " ".join(_quoted(word) for word in step.words)
        text += f'echo "{number}/{len(steps)} {step.name}: $(date -u +%FT%TZ)"\n{words}\n'
    if not steps:
        text += 'echo "nothing to build: the PyTorch flow reads the checkpoint itself"\n'
    text += 'cp "$JOB/model.yaml" "$OUTPUT/"\n' if job.spec.backend == "pytorch" else ""
    return text + 'echo "done: $OUTPUT"\n'


def _card(job: BuildJob) -> str:
    need, plan = job.requirement, job.plan
    rows = {
        "Status": job.status,
        "Precision": job.spec.precision,
        "Checkpoint": f"sha256:{job.checkpoint_digest}" + (f", {job.quantised}" if job.quantised else ""),
        "Calibrated on": f"dataset {job.dataset_digest[:12]}" if job.dataset_digest else "nothing",
        "TensorRT-LLM": job.tensorrt_llm,
        "Container": f"`{job.container}`",
        "Building takes": f"{need.gpus} GPU(s) of {mib(need.gpu_bytes)}, {mib(need.disk_bytes)} of disk, about "
        f"{need.seconds:.0f} s and TensorRT's search for kernels: estimates",
    }
    parts = [f"# Build job {job.name}", table(("", ""), rows.items()), "## Plan"]
    if plan is None:
        parts.append("None: no GPU was named (`gpu=h100-sxm`).")
    else:
        planned = {
            "GPU": f"{plan.gpu}, {mib(plan.gpu_bytes)}, compute capability {plan.compute_capability}",
            "Weights on each": mib(plan.weights_bytes),
            "KV cache": f"{plan.kv_cache_dtype}, {plan.kv_token_capacity:,} tokens "
            f"of {plan.kv_bytes_per_token:,.0f} bytes",
            f"Requests of {job.spec.max_seq_len:,} tokens at a time": f"{plan.max_concurrent_sequences:,}",
        }
        parts.append(table(("", ""), planned.items()))
    lines = [" ".join(_quoted(word) for word in words) for words in job.commands]
    parts += [
        "## Commands",
        "```bash\n" + "\n".join(lines or ["# the PyTorch flow reads the checkpoint itself"]) + "\n```",
    ]
    parts += ["## Settings", "```json\n" + job.spec.model_dump_json(indent=2) + "\n```"]
    reads = "build readback" if job.spec.backend == "tensorrt" else "lint path"
    parts += ["## Check what was built", f"```bash\npython -m recipes.{reads}=/path/to/output\n```"]
    return "\n\n".join(parts) + "\n"


def _quoted(word: str) -> str:
    """A word for the shell, its variable left to be filled in."""
    return f'"{word}"' if word.startswith("$") else shlex.quote(word)
