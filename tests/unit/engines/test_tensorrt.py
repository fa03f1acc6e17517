"""Jobs for GPU machines: scripts as reviewed and as a shell runs them, refusals by name, engines read back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recipes import app, plan
from recipes.build_job import check_built, engine_plan, requirement
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError, EngineLintError
from throughline.contracts.planning import GpuSpec
from throughline.engines.tensorrt import BuildJob, Requirement, read_back, write_job
from throughline.engines.tensorrt.check import CALIBRATED, QFORMATS, check_shape, check_spec
from throughline.engines.tensorrt.commands import model_yaml, steps
from throughline.linting import lint
from throughline.planning.shape import ModelShape, read_shape

ROOT = Path(__file__).resolve().parents[3]
NEED = Requirement(gpus=1, gpu_bytes=2**34, disk_bytes=2**34, seconds=90.0)
# FP8 on two GPUs, with adapters.
SPEC: dict[str, Any] = {
    "backend": "tensorrt",
    "precision": "fp8",
    "max_batch_size": 64,
    "max_num_tokens": 8192,
    "max_seq_len": 4096,
    "tp_size": 2,
    "max_lora_rank": 32,
}


def spec(**more: Any) -> EngineSpec:
    return EngineSpec(**(SPEC | more))


def job(folder: Path, settings: EngineSpec) -> BuildJob:
    texts = ("one é", "two\nlines")
    return write_job(folder, name="llama-fp8", spec=settings, requirement=NEED, checkpoint_digest="abc", texts=texts)


def run(folder: Path, *, fail: str = "") -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Runs `build.sh` with programs that write down how they were called."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir()
    for name in ("python3", "trtllm-build"):
        program = programs / name
        script = f'#!/bin/sh\nfor w in {name} "$@"; do printf "%s\\0" "$w"; done >> {calls}\nprintf "\\n" >> {calls}\n'
        program.write_text(script + ("exit 7\n" if name == fail else ""))
        program.chmod(0o755)
    (folder / "in").mkdir()
    (folder / "in" / "config.json").write_text("{}")
    (folder / "modelopt").mkdir()
    paths = {"CHECKPOINT": "in", "OUTPUT": "out put", "WORK": "work", "MODELOPT": "modelopt"}
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"} | {
        key: f"{folder}/{path}" for key, path in paths.items()
    }
    done = subprocess.run(
        ["bash", str(folder / "build.sh")], env=environment, capture_output=True, text=True, check=False
    )
    lines = calls.read_text().splitlines() if calls.is_file() else []
    return done, [line.rstrip("\0").split("\0") for line in lines]


def options(words: list[str]) -> dict[str, str]:
    return {words[index]: words[index + 1] for index, word in enumerate(words[:-1]) if word.startswith("--")}


def test_the_script_runs_the_commands_in_order(tmp_path: Path) -> None:
    made = job(tmp_path, spec())
    done, calls = run(tmp_path)
    assert done.returncode == 0, done.stderr
    quantise, build = calls
    assert quantise[:2] == ["python3", "/app/tensorrt_llm/examples/quantization/quantize.py"]
    asked = options(quantise)
    assert (asked["--qformat"], asked["--kv_cache_dtype"], asked["--tp_size"]) == ("fp8", "fp8", "2")
    assert asked["--calib_dataset"] == f"{tmp_path}/calibration"
    # One word each, though the folder's name has a blank in it.
    asked = options(build)
    assert build[0] == "trtllm-build" and asked["--output_dir"] == f"{tmp_path}/out put"
    assert asked["--checkpoint_dir"] == f"{tmp_path}/work/checkpoint"
    expected = {"--max_batch_size": "64", "--max_num_tokens": "8192", "--max_seq_len": "4096", "--workers": "2"}
    expected |= {"--use_paged_context_fmha": "enable", "--use_fp8_context_fmha": "enable", "--kv_cache_type": "paged"}
    expected |= {"--lora_plugin": "auto", "--max_lora_rank": "32", "--gemm_plugin": "auto"}
    assert expected.items() <= asked.items()
    rows = [json.loads(line) for line in (tmp_path / "calibration" / "train.jsonl").read_text().splitlines()]
    assert rows == [{"text": "one é"}, {"text": "two\nlines"}]
    assert BuildJob.read(tmp_path) == made and made.status == "planned, not built"


def board(name: str) -> GpuSpec:
    return GpuSpec.model_validate(yaml.safe_load((ROOT / "recipes" / "conf" / "gpu" / f"{name}.yaml").read_text()))


def model(name: str) -> ModelShape:
    return read_shape(ROOT / "engines" / "models" / f"{name}.json")


def test_a_job_is_planned_for_its_gpu_as_the_planner_does(tmp_path: Path) -> None:
    settings = spec(tp_size=1, max_lora_rank=0)
    found = engine_plan(model("llama-3.1-8b"), settings, board("h100-sxm"))
    words = [f"config={ROOT}/engines/models/llama-3.1-8b.json", "plan.precision=fp8", "plan.max_batch_size=64"]
    planned = plan.make(app.to_schema(app.compose("plan", [*words, "plan.max_num_tokens=8192"]), plan.Config))
    assert (found.weights_bytes, found.kv_token_capacity) == (planned.weights_bytes, planned.kv_token_capacity)
    assert found.max_concurrent_sequences == min(64, found.kv_token_capacity // 4096)
    text = "one"
    write_job(
        tmp_path, name="llama", spec=settings, requirement=NEED, checkpoint_digest="abc", texts=(text,), plan=found
    )
    assert BuildJob.read(tmp_path).plan == found
    card = (tmp_path / "ENGINE_CARD.md").read_text()
    assert "planned, not built" in card and "H100" in card and f"{found.kv_token_capacity:,} tokens" in card
    assert "trtllm-build" in card and "sha256:abc" in card


@pytest.mark.parametrize(
    ("name", "gpu", "settings", "message"),
    [
        ("llama-3.1-8b", "a100-80g", {}, r"no arithmetic for this precision.*fp8 on .*8\.0.*int4_awq"),
        ("llama-3.1-70b", "h100-sxm", {"precision": "bf16", "tp_size": 1}, r"does not fit its GPU.*— quant=fp8 "),
        ("llama-3.1-70b", "h100-sxm", {"tp_size": 1, "max_seq_len": 131072}, r"131,072 tokens takes"),
        (
            "llama-3.1-70b",
            "a100-80g",
            {"backend": "pytorch", "precision": "bf16", "tp_size": 1, "max_lora_rank": 0},
            r"— quant=int4_awq \([^)]*\) or engine\.tp_size=2",
        ),
    ],
)
def test_what_its_gpu_cannot_run_becomes_no_job(name: str, gpu: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine_plan(model(name), spec(**settings), board(gpu))


def test_a_step_that_fails_ends_the_script(tmp_path: Path) -> None:
    job(tmp_path, spec())
    done, calls = run(tmp_path, fail="python3")
    assert done.returncode == 7 and len(calls) == 1 and "done:" not in done.stdout


def test_a_missing_checkpoint_is_said_before_anything_runs(tmp_path: Path) -> None:
    job(tmp_path, spec())
    done = subprocess.run(
        ["bash", str(tmp_path / "build.sh")],
        env=os.environ | {"CHECKPOINT": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "set CHECKPOINT" in done.stderr


def test_the_pytorch_flow(tmp_path: Path) -> None:
    settings = spec(backend="pytorch", precision="nvfp4", kv_cache_bytes=2**33)
    job(tmp_path, settings)
    done, [export] = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert options(export)["--qformat"] == "nvfp4" and options(export)["--kv_cache_qformat"] == "fp8"
    values = yaml.safe_load((tmp_path / "out put" / "model.yaml").read_text())
    assert values == model_yaml(settings, "/output")
    assert values["kv_cache_config"]["max_gpu_total_bytes"] == 2**33
    assert lint(tmp_path / "model.yaml") == []


@pytest.mark.parametrize(
    "speculation",
    [{"decoding_type": "NGram"}, {"decoding_type": "Draft_Target", "speculative_model_dir": "/draft"}],
)
def test_speculation_goes_to_llm_as_it_is(tmp_path: Path, speculation: dict[str, Any]) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(model_yaml(spec(backend="pytorch", speculative_config=speculation), "/checkpoint")))
    written = yaml.safe_load(path.read_text())["speculative_config"]
    assert speculation.items() <= written.items() and written["max_draft_len"] == 4
    assert lint(path) == []


def test_bf16_needs_no_build_in_the_pytorch_flow(tmp_path: Path) -> None:
    job(tmp_path, spec(backend="pytorch", precision="bf16"))
    done, calls = run(tmp_path)
    assert done.returncode == 0 and calls == []
    assert yaml.safe_load((tmp_path / "out put" / "model.yaml").read_text())["model"] == "/checkpoint"
    assert not (tmp_path / "calibration").exists()


@given(
    st.builds(
        spec,
        backend=st.sampled_from(["tensorrt", "pytorch"]),
        precision=st.sampled_from(["bf16", "fp8", "int4_awq", "w4a8_awq", "nvfp4"]),
        group_size=st.just(128),
        kv_cache_dtype=st.sampled_from(["auto", "bf16", "fp8"]),
        enable_block_reuse=st.booleans(),
        max_batch_size=st.integers(1, 4096),
        max_num_tokens=st.integers(4096, 16384),
        max_lora_rank=st.sampled_from([0, 8, 64]),
    )
)
def test_what_is_written_keeps_the_linters_rules(
    tmp_path_factory: pytest.TempPathFactory, settings: EngineSpec
) -> None:
    check_spec(settings)
    for step in steps(settings):
        flags = [word for word in step.words if word.startswith("--")]
        assert len(flags) == len(set(flags)), "a setting stands in one place"
    if settings.backend == "pytorch":
        path = tmp_path_factory.mktemp("yaml") / "model.yaml"
        path.write_text(yaml.safe_dump(model_yaml(settings, "/checkpoint")))
        assert lint(path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "f32"}, r"does not have this precision.*engine\.precision.*f32"),
        ({"backend": "pytorch", "precision": "int8_sq"}, r"pytorch back end does not have this precision"),
        ({"kv_cache_dtype": "u8"}, r"does not have this KV cache.*u8"),
        ({"calibration": "awq"}, r"calibration is of the CPU back end"),
        ({"num_threads": 2}, r"num_threads is of the CPU back end"),
        ({"backend": "pytorch", "multiple_profiles": True}, r"multiple_profiles is of TensorRT engines"),
        ({"speculative_config": {"decoding_type": "NGram"}}, r"built here without speculative decoding.*pytorch"),
        ({"max_num_tokens": 32}, r"a token of every sequence.*max_batch_size=64"),
        ({"enable_chunked_context": False, "max_num_tokens": 2048}, r"whole prompt must fit one iteration"),
        ({"precision": "int4_awq", "group_size": 64}, r"blocks of 128 alone.*64"),
        ({"precision": "bf16", "gemm_plugin": "fp8"}, r"gemm_plugin=fp8 needs weights of that type"),
    ],
)
def test_what_the_back_end_cannot_do_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        job(tmp_path, spec(**change))
    assert list(tmp_path.iterdir()) == []


def test_calibration_without_records_is_refused(tmp_path: Path) -> None:
    for precision in sorted(CALIBRATED):
        settings = spec(precision=precision, group_size=128)
        with pytest.raises(EngineError, match="no records to calibrate on"):
            write_job(tmp_path, name="x", spec=settings, requirement=NEED, checkpoint_digest="abc")


def test_a_models_sizes_are_checked() -> None:
    awq = spec(precision="int4_awq", group_size=128, tp_size=1)
    check_shape(awq, heads=32, inputs={"hidden_size": 4096})
    with pytest.raises(EngineError, match=r"hidden_size=576.*take fp8"):
        check_shape(awq, heads=9, inputs={"hidden_size": 576, "intermediate_size": 1536})
    with pytest.raises(EngineError, match=r"2, 9 heads.*take one of 1, 3"):
        check_shape(spec(), heads=9, inputs={})


def test_the_expected_need_of_llama_8b() -> None:
    shape = read_shape(ROOT / "engines" / "models" / "llama-3.1-8b.json")
    need = requirement(shape, spec(tp_size=1))
    # 16.06 GB of weights in 16 bits, and twice the 9.08 GB of the FP8 checkpoint that NVIDIA publishes.
    assert need.gpu_bytes == pytest.approx(16.06e9 + 3e9, rel=0.01)
    assert need.disk_bytes == pytest.approx(2 * 9.08e9, rel=0.02)
    assert requirement(shape, spec(tp_size=2)).gpu_bytes < need.gpu_bytes


def built(folder: Path, settings: EngineSpec, **changes: Any) -> Path:
    """An engine directory as `trtllm-build` would leave it, with some fields changed by their path."""
    values: dict[str, Any] = {
        "version": "1.2.1",
        "pretrained_config": {
            "mapping": {"tp_size": settings.tp_size, "pp_size": settings.pp_size},
            "quantization": {"quant_algo": QFORMATS[settings.precision][1], "kv_cache_quant_algo": "FP8"},
        },
        "build_config": {
            "max_batch_size": settings.max_batch_size,
            "max_num_tokens": settings.max_num_tokens,
            "max_seq_len": settings.max_seq_len,
            "max_beam_width": 1,
            "kv_cache_type": "KVCacheType.PAGED",
            "plugin_config": {"use_paged_context_fmha": True, "gemm_plugin": "bfloat16", "lora_plugin": "bfloat16"},
        },
    }
    for path, value in changes.items():
        *way, last = path.split("__")
        place = values
        for key in way:
            place = place[key]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(values))
    for rank in range(settings.tp_size * settings.pp_size):
        (folder / f"rank{rank}.engine").touch()
    return folder


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"build_config__max_batch_size": 32}, "max_batch_size"),
        ({"build_config__max_seq_len": 2048}, "max_seq_len"),
        ({"build_config__kv_cache_type": "DISABLED"}, "kv_cache_type"),
        ({"build_config__plugin_config__use_paged_context_fmha": False}, "use_paged_context_fmha"),
        ({"build_config__plugin_config__lora_plugin": None}, "lora_plugin"),
        ({"pretrained_config__quantization__quant_algo": "W4A16_AWQ"}, "quant_algo"),
        ({"pretrained_config__mapping__tp_size": 1}, "tp_size"),
        ({"version": "1.1.0"}, "version"),
    ],
)
def test_an_engine_is_read_back_field_by_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    settings = spec()
    assert read_back(built(tmp_path, settings), settings) == ()
    assert check_built(tmp_path, settings) == ()
    [difference] = read_back(built(tmp_path, settings, **changes), settings)
    assert difference.field == field
    with pytest.raises(EngineLintError, match=rf"not what was asked for.*{field}: asked"):
        check_built(tmp_path, settings)


def test_missing_ranks_and_folders(tmp_path: Path) -> None:
    settings = spec()
    built(tmp_path, settings)
    (tmp_path / "rank1.engine").unlink()
    assert [item.field for item in read_back(tmp_path, settings)] == ["rank engines"]
    with pytest.raises(EngineError, match="no TensorRT-LLM engine here"):
        read_back(tmp_path / "nowhere", settings)
    with pytest.raises(EngineError, match="no build job here"):
        BuildJob.read(tmp_path)
