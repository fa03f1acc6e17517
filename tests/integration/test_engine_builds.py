"""Engines of every precision build, verify and load with overrides; a broken one says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from throughline import engines
from throughline.contracts.engine import EngineInfo, EngineSpec, Precision, SamplingParams
from throughline.contracts.errors import CheckpointError, EngineError

pytestmark = pytest.mark.integration

SMALL = {"max_seq_len": 256, "kv_cache_bytes": 16 * 2**20, "num_threads": 1}
# Bytes a weight of the matrices; scales, zero points and float32 norms come on top.
NOMINAL_BYTES = {"bf16": 2.0, "int8": 1.0, "int4": 0.5, "fp8": 1.0}


def build(checkpoint: Path, out_dir: Path, **values: object) -> EngineInfo:
    return engines.build(checkpoint, EngineSpec.model_validate({**SMALL, **values}), out_dir).info


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4", "fp8"])
def test_build_verifies_and_is_as_small_as_its_precision_says(
    precision: Precision, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    heard: list[tuple[str, float]] = []
    spec = EngineSpec.model_validate({**SMALL, "precision": precision})
    report = engines.build(
        tiny_checkpoint, spec, tmp_path / "engine", lambda phase, fraction: heard.append((phase, fraction))
    )
    result = engines.verify(tmp_path / "engine")
    assert result.ok
    assert result.same_machine_kind
    assert all(item.expected == 16 for item in result.results)
    assert report.info == EngineInfo.read(tmp_path / "engine")
    # INT4 keeps the embedding in INT8, and it is two thirds of this model.
    nominal = 1.0 if precision == "int4" else NOMINAL_BYTES[precision]
    assert report.info.weight_bytes < 1.25 * nominal * report.info.parameters + 8192
    phases = ["check", "graph", *(["quantise"] if precision != "bf16" else []), "save", "golden"]
    assert list(dict.fromkeys(phase for phase, _ in heard)) == phases == list(report.seconds)
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert heard[-1] == ("golden", pytest.approx(1.0))
    card = (tmp_path / "engine" / "ENGINE_CARD.md").read_text()
    assert (tmp_path / "engine" / "LICENSE").is_file()
    assert "not a TensorRT engine" in card
    assert ("FP8 saves disk space only" in card) == (precision == "fp8")


def test_bf16_weights_are_the_rounded_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """In float32 arithmetic a bf16 engine equals the float32 engine of a checkpoint that was rounded by torch."""
    import torch
    from safetensors.torch import load_file, save_file

    rounded = tmp_path / "rounded"
    shutil.copytree(tiny_checkpoint, rounded)
    tensors = load_file(rounded / "model.safetensors")
    matrices = {name: tensor.bfloat16().float() for name, tensor in tensors.items() if tensor.ndim == 2}
    save_file({**tensors, **matrices}, rounded / "model.safetensors", {"format": "pt"})
    assert any(not torch.equal(tensors[name], value) for name, value in matrices.items())
    build(tiny_checkpoint, tmp_path / "a", precision="bf16", dtype="f32", kv_cache_dtype="f32")
    build(rounded, tmp_path / "b", precision="f32")
    answers = [json.loads((tmp_path / name / "golden.json").read_text())["prompts"] for name in "ab"]
    assert answers[0] == answers[1]


def test_damaged_weights_fail_the_verification(tiny_engine: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny_engine, engine)
    weights = bytearray((engine / "openvino_model.bin").read_bytes())
    start, size = len(weights) // 4, len(weights) // 4
    weights[start : start + size] = bytes(size)
    (engine / "openvino_model.bin").write_bytes(weights)
    assert not engines.verify(engine).ok


def test_overrides_change_what_may_change(tiny_engine: Path) -> None:
    runtime = engines.load(tiny_engine, max_seq_len=64, max_batch_size=2)
    try:
        runtime.submit("a", [5], SamplingParams(max_tokens=64))
        (refused,) = runtime.step()
        assert refused.finish_reason == "error"
        assert "max_seq_len 64" in (refused.error or "")
    finally:
        runtime.close()
    for name, value, words in (
        ("precision", "int8", "fixed when the engine is built"),
        ("max_seq_len", 513, "beyond what the engine was built for"),
        ("max_batchsize", 4, "did you mean 'max_batch_size'"),
        ("kv_cache_dtype", "fp8", "CPU back end does not have"),
    ):
        with pytest.raises(EngineError, match=words):
            engines.load(tiny_engine, **{name: value})


def test_a_directory_without_engine_json_is_no_engine(tiny_engine: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no engine here"):
        engines.load(tmp_path)
    shutil.copytree(tiny_engine, tmp_path / "engine")
    (tmp_path / "engine" / "openvino_model.bin").unlink()
    with pytest.raises(EngineError, match=r"engine is incomplete.*no openvino_model\.bin"):
        engines.load(tmp_path / "engine")
    (tmp_path / "engine" / "golden.json").write_text("{")
    shutil.copyfile(tiny_engine / "openvino_model.bin", tmp_path / "engine" / "openvino_model.bin")
    with pytest.raises(EngineError, match="golden prompts cannot be read"):
        engines.verify(tmp_path / "engine")


def test_a_build_that_fails_leaves_the_engine_as_it_was(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    before = build(tiny_checkpoint, tmp_path / "engine", precision="f32")
    with pytest.raises(CheckpointError, match=r"another shape than config\.json says"):
        build(checkpoint, tmp_path / "engine", precision="f32")
    assert EngineInfo.read(tmp_path / "engine") == before
    assert engines.verify(tmp_path / "engine").ok


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model_type", "gemma3", "model family is not supported"),
        ("hidden_act", "gelu", "activation is not supported"),
        ("quantization_config", {"quant_method": "gptq"}, "quantised already"),
        ("max_position_embeddings", 128, "longer than the model's context"),
        ("rope_parameters", {"rope_type": "yarn"}, "rotary scaling is not supported"),
    ],
)
def test_unsupported_checkpoints_are_refused_before_anything_is_written(
    key: str, value: object, words: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(EngineError, match=words) as caught:
        build(checkpoint, tmp_path / "engine", precision="f32")
    assert key in caught.value.where
    assert not (tmp_path / "engine").exists()


def test_bfloat16_arithmetic_reads_far_positions_as_float32_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Positions beyond 256 have no bfloat16 of their own; the first token after 480 tells."""
    from random import Random

    from throughline.engines.cpu.pipeline import machine_plan

    spec = EngineSpec.model_validate({**SMALL, "precision": "f32", "max_seq_len": 512})
    if machine_plan(spec.model_copy(update={"precision": "bf16"})).dtype != "bf16":
        pytest.skip("this processor computes in float32 alone")
    engines.build(tiny_checkpoint, spec, tmp_path / "engine")
    rng = Random(3)
    prompts = [[rng.randrange(10, 2000) for _ in range(480)] for _ in range(24)]
    first: dict[str, list[tuple[int, ...]]] = {}
    for dtype in ("f32", "bf16"):
        runtime = engines.load(tmp_path / "engine", dtype=dtype, kv_cache_dtype="u8")
        try:
            for index, prompt in enumerate(prompts):
                runtime.submit(str(index), prompt, SamplingParams(max_tokens=1, ignore_eos=True))
            done: dict[str, tuple[int, ...]] = {}
            while runtime.has_work():
                for output in runtime.step():
                    done[output.request_id] = (*done.get(output.request_id, ()), *output.token_ids)
            first[dtype] = [done[str(index)] for index in range(len(prompts))]
        finally:
            runtime.close()
    same = sum(a == b for a, b in zip(first["f32"], first["bf16"], strict=True))
    assert same >= 20, f"{same} of {len(prompts)}"


def test_a_signal_after_an_engine_was_freed_is_no_crash(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Ctrl-C in a lifecycle that has built its engines; in a process of its own, since it may die of it."""
    program = f"""
import os, signal
from pathlib import Path
from throughline import engines
from throughline.contracts.engine import EngineSpec

spec = EngineSpec(precision="f32", max_seq_len=64, num_threads=1, kv_cache_bytes=2**24)
engines.build(Path({str(tiny_checkpoint)!r}), spec, Path({str(tmp_path / "engine")!r}))
engines.load(Path({str(tmp_path / "engine")!r})).close()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: print("heard", number))
    os.kill(os.getpid(), number)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["heard", "2", "heard", "15"]), done.stderr
