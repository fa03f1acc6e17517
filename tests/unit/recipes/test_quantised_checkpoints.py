"""Where a quantised checkpoint may go: into a job of the PyTorch flow if it was scored, and nowhere else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import app, build, build_job, convert, deploy, evaluate, lifecycle, quantize, references
from recipes.build_job import job_table
from tests import trtllm
from throughline.artifacts import Artifact, ArtifactStore
from throughline.contracts.errors import ArtifactError, CheckpointError, EngineError, GateInconclusive
from throughline.contracts.planning import GpuSpec
from throughline.contracts.quantization import NOT_SCORED, LossChange, Quantised, QuantReport
from throughline.engines.tensorrt import BuildJob
from throughline.planning.shape import read_shape

ROOT = Path(__file__).resolve().parents[3]
LOSS = LossChange(records=32, tokens=900, base=1.0, quantised=1.002, low=-0.001, high=0.005, agreement=0.99)
NEVER = "was never scored, so no gate lets it pass"


def report(algorithm: str, kv: str | None, loss: LossChange | None) -> QuantReport:
    status = "scored" if loss is not None else NOT_SCORED
    sizes = {"weight_bytes": 1, "calibration_records": 4, "calibration_tokens": 9, "seconds": {}}
    values = {"status": status, "quant_algo": algorithm, "kv_cache_quant_algo": kv, "loss": loss}
    return QuantReport.model_validate(values | sizes)


@pytest.fixture
def quantised(store: ArtifactStore, tiny_checkpoint: Path) -> Callable[..., Artifact]:
    def make(algorithm: str = "FP8", loss: LossChange | None = LOSS, *, kv: str | None = None) -> Artifact:
        config = {"algorithm": algorithm, "kv": kv, "scored": loss is not None}
        with store.stage("quantized-checkpoint", "tiny", config=config, code_version="1") as run:
            for path in tiny_checkpoint.iterdir():
                shutil.copyfile(path, run.directory / path.name)
            found = {"quantization": {"quant_algo": algorithm, "kv_cache_quant_algo": kv}}
            (run.directory / "hf_quant_config.json").write_text(json.dumps(found))
            (run.directory / "quant_report.json").write_text(report(algorithm, kv, loss).model_dump_json())
            return run.commit()

    return make


def config(store: ArtifactStore, *overrides: str) -> build.Config:
    return app.to_schema(app.compose("build", [f"paths.home={store.home}", *overrides]), build.Config)


def copied(artifact: Artifact, folder: Path) -> Path:
    """A user's own copy: the mark goes with the folder, not with the store."""
    shutil.copytree(artifact.path, folder)
    (folder / "manifest.json").unlink()
    return folder


def test_a_scored_one_becomes_a_job_that_serves_it_as_it_is(
    store: ArtifactStore, quantised: Callable[..., Artifact]
) -> None:
    source = quantised(kv="FP8")
    made = build.make_job(config(store, "engine=pytorch", "quant=fp8", f"checkpoint={source.digest}"))
    job = BuildJob.read(made.path)
    assert made.manifest.inputs == {"checkpoint": source.digest}
    assert job.quantised == "FP8, score: +0.0020 nats a token [-0.0010, +0.0050], 32 records"
    assert ["checkpoint", f"quantised before: {job.quantised}"] in job_table(job).rows
    assert job.commands == () and not (made.path / "calibration").exists()
    assert "nothing to build" in (made.path / "build.sh").read_text()
    options = yaml.safe_load((made.path / "model.yaml").read_text())
    assert options["model"] == "/checkpoint" and options["kv_cache_config"]["dtype"] == "fp8"
    # Without scales for it the cache stays in 16 bits, though FP8 weights have an FP8 cache elsewhere.
    plain = quantised()
    made = build.make_job(config(store, "engine=pytorch", "quant=fp8", f"checkpoint={plain.digest}"))
    assert yaml.safe_load((made.path / "model.yaml").read_text())["kv_cache_config"]["dtype"] == "auto"


def test_a_job_for_a_named_gpu_says_what_is_planned(store: ArtifactStore, quantised: Callable[..., Artifact]) -> None:
    words = ("engine=pytorch", "quant=fp8", f"checkpoint={quantised().digest}")
    made = build.make_job(config(store, *words, "gpu=h100-sxm"))
    job = BuildJob.read(made.path)
    assert job.plan is not None and job.plan.compute_capability == 9.0
    assert any("tokens of KV cache (" in str(row[1]) for row in job_table(job).rows)
    assert made.digest != build.make_job(config(store, *words, "gpu=l40s")).digest
    with pytest.raises(EngineError, match="no arithmetic"):
        build.make_job(config(store, *words, "gpu=a100-80g"))


def test_a_model_that_its_gpu_cannot_quantise_becomes_no_job(store: ArtifactStore, tiny_checkpoint: Path) -> None:
    small = GpuSpec(
        name="small",
        compute_capability=9.0,
        memory_bytes=2e9,
        bandwidth=1e12,
        bf16_flops=1e14,
        fp8_flops=2e14,
        other_bytes=1e8,
        source="made up",
    )
    asked = config(store, "engine=gpu", "quant=bf16", f"checkpoint={tiny_checkpoint}", "engine.max_seq_len=128")
    settings = {"max_batch_size": 4, "max_num_tokens": 128}
    spec = asked.engine.model_copy(update=settings)
    assert BuildJob.read(build.make_job(asked.model_copy(update={"gpu": small, "engine": spec})).path).plan is not None
    needs = build_job.requirement(read_shape(tiny_checkpoint), spec)
    with pytest.raises(EngineError, match="does not hold the model while it is quantised"):
        build_job.check_building(needs, small)


@pytest.mark.parametrize("copy", [False, True])
def test_what_was_not_scored_becomes_no_job(
    store: ArtifactStore, quantised: Callable[..., Artifact], tmp_path: Path, copy: bool
) -> None:
    source = quantised("NVFP4", None)
    reference = str(copied(source, tmp_path / "own")) if copy else source.digest
    with pytest.raises(GateInconclusive, match=rf"{NEVER}.*seen: NVFP4: not scored.*device=cuda") as caught:
        build.make_job(config(store, "engine=pytorch", "quant=nvfp4", f"checkpoint={reference}"))
    assert caught.value.exit_code == 4
    assert store.all("build-job") == []


def test_the_command_says_so_and_exits_with_4(
    store: ArtifactStore, quantised: Callable[..., Artifact], tmp_path: Path
) -> None:
    reference = quantised("NVFP4", None).digest[:12]
    arguments = ["engine=pytorch", "quant=nvfp4", f"checkpoint={reference}", f"paths.home={store.home}"]
    done = subprocess.run(
        [sys.executable, "-m", "recipes.build", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert f"GateInconclusive: quantised checkpoint {NEVER} — checkpoint={reference}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("loss", [LOSS, None])
def test_no_other_stage_takes_a_quantised_checkpoint(
    store: ArtifactStore, quantised: Callable[..., Artifact], tmp_path: Path, loss: LossChange | None
) -> None:
    source = quantised(loss=loss)
    for reference in (source.digest, str(source.path), str(copied(source, tmp_path / "own"))):
        words = r"is quantised already.*seen: FP8.*engine=pytorch"
        with pytest.raises(EngineError, match=words):
            build.make(config(store, "quant=bf16", f"checkpoint={reference}"))
        with pytest.raises(EngineError, match=words):
            build.make_job(config(store, "engine=gpu", "quant=fp8", f"checkpoint={reference}"))
        again = app.compose("quantize", [f"paths.home={store.home}", f"checkpoint={reference}"])
        with pytest.raises(EngineError, match=words):
            quantize.make(app.to_schema(again, quantize.Config))
    # As a base model it would lose its mark on the way to an engine, a gate and a deployment.
    base = app.compose("convert", [f"paths.home={store.home}", "model=hf", f"model.path={tmp_path / 'own'}"])
    with pytest.raises(CheckpointError, match=r"base checkpoint is quantised.*seen: FP8"):
        convert.make(app.to_schema(base, convert.Config))
    assert store.all("engine") == store.all("build-job") == store.all("checkpoint") == []


def test_a_line_that_would_promote_one_ends_at_its_build(
    store: ArtifactStore, quantised: Callable[..., Artifact]
) -> None:
    overrides = [f"paths.home={store.home}", f"stages.build=['checkpoint={quantised('NVFP4', None).digest}']"]
    run = lifecycle.Run(app.to_schema(app.compose("lifecycle", overrides), lifecycle.Config), table=None)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="is quantised already"):
        build.make(run.compose("build", build.Config, "quant=bf16", "checkpoint=base"))


def test_none_is_evaluated_or_deployed(store: ArtifactStore, quantised: Callable[..., Artifact]) -> None:
    digest = quantised("NVFP4", None).digest
    words = rf"does not name one engine.*seen: quantized-checkpoint tiny {digest[:12]}"
    with pytest.raises(ArtifactError, match=words):
        references.engine(store, digest, "laptop")
    for module in (evaluate, deploy):
        name = module.__name__.rpartition(".")[2]
        composed = app.compose(name, [f"paths.home={store.home}", f"target={digest}"])
        with pytest.raises(ArtifactError, match=words):
            module.make(app.to_schema(composed, module.Config))


def test_a_migration_to_one_that_was_not_scored_is_refused(
    store: ArtifactStore, quantised: Callable[..., Artifact], tmp_path: Path
) -> None:
    old = trtllm.write_repository(tmp_path, trtllm.write_engine(tmp_path))

    def move(source: Artifact, out: Path) -> subprocess.CompletedProcess[str]:
        values = [f"repository={old}", f"checkpoint={source.path}", f"out={out}", f"paths.home={store.home}"]
        return subprocess.run(
            [sys.executable, "-m", "recipes.migrate", *values], cwd=ROOT, capture_output=True, text=True, check=False
        )

    done = move(quantised("NVFP4", None), tmp_path / "new")
    assert done.returncode == 4 and NEVER in done.stderr and not (tmp_path / "new").exists()
    assert move(quantised(), tmp_path / "new").returncode == 0


@pytest.mark.parametrize(
    ("algorithm", "overrides", "words"),
    [
        ("FP8", ["quant=int4_awq"], r"quantised otherwise.*int4_awq asked for, the checkpoint is FP8.*quant=fp8"),
        ("FP8", ["quant=bf16"], r"quantised otherwise.*bf16 asked for"),
        ("W8A8_SQ_PER_CHANNEL", ["quant=fp8"], r"PyTorch flow does not run.*W8A8_SQ.*fp8, int4_awq"),
        ("FP8", ["quant=fp8", "engine.kv_cache_dtype=fp8"], r"another type.*fp8 asked for.*scales for none"),
    ],
)
def test_a_job_is_of_the_checkpoints_own_format(
    store: ArtifactStore,
    quantised: Callable[..., Artifact],
    algorithm: str,
    overrides: list[str],
    words: str,
) -> None:
    reference = f"checkpoint={quantised(algorithm).digest}"
    with pytest.raises(EngineError, match=words):
        build.make_job(config(store, "engine=pytorch", reference, *overrides))


def test_one_from_elsewhere_has_no_score_and_says_so(
    store: ArtifactStore, quantised: Callable[..., Artifact], tmp_path: Path
) -> None:
    folder = copied(quantised(), tmp_path / "own")
    (folder / "quant_report.json").unlink()
    job = BuildJob.read(build.make_job(config(store, "engine=pytorch", "quant=fp8", f"checkpoint={folder}")).path)
    assert job.quantised == "FP8, score: none known here: quantised elsewhere"


def test_a_report_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    values: dict[str, Any] = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert Quantised.read(tmp_path) == Quantised(algorithm="gptq")
    (tmp_path / "quant_report.json").write_text('{"status": "scored"}')
    with pytest.raises(CheckpointError, match=r"report of the quantisation cannot be read.*quant_report\.json"):
        Quantised.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        Quantised.read(tmp_path)
    assert Quantised.read(tmp_path / "nowhere") is None
