"""Planned bytes of a training step against PyTorch's allocator, with transformers' models and NeMo's LoRA, on a CPU."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recipes import app
from throughline.contracts.config import parse
from throughline.contracts.planning import GpuSpec, TrainingPlanSpec
from throughline.planning.shape import ModelShape
from throughline.planning.training import adapter_parameters, training_changes, training_fits, training_memory

ROOT = Path(__file__).resolve().parents[3]
SMALL: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 700,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 3000,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
# Few tokens to choose from: what the layers need outweighs the logits.
NARROW = SMALL | {"vocab_size": 300, "intermediate_size": 1500}
TIED = SMALL | {"model_type": "mistral", "tie_word_embeddings": True, "num_key_value_heads": 8, "sliding_window": None}
LLAMA_8B = SMALL | {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 128256}
LLAMA_8B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072}
WINDOW = TIED | {"sliding_window": 64, "num_key_value_heads": 2}
# Many rows in the embedding for few tokens.
FEW = {"vocab_size": 9000, "num_hidden_layers": 2}
SHORT = {"micro_batch_size": 1, "sequence_length": 64}
LORA = {"method": "lora", "lora_rank": 8}
CHECKPOINTING = {"activation_checkpointing": True}


def shape(config: dict[str, Any]) -> ModelShape:
    return ModelShape.of(config, where="config.json")


def gpu(name: str) -> GpuSpec:
    return parse(GpuSpec, yaml.safe_load((app.CONF / "gpu" / f"{name}.yaml").read_text()), where=name)


@contextlib.contextmanager
def no_products() -> Iterator[None]:
    """Leaves out the arithmetic of matrix products: their results are allocated, and have no values.

    A processor without bfloat16 would take minutes for what the allocator does not see.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    products = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func not in products:
                return func(*args, **(kwargs or {}))
            left, right = args[-2:]
            return left.new_empty(left.shape[0], right.shape[1])

    with Mode():
        yield


def allocated(config: dict[str, Any], spec: TrainingPlanSpec) -> tuple[int, int]:
    """Bytes of weights and optimiser, and the most beyond them within a step, as PyTorch's profiler counts them."""
    import torch

    from benchmarks.gpu_plan import training_step

    model, optimizer, step = training_step(config, spec, "cpu")
    step()
    kept = [*model.parameters(), *(value for state in optimizer.state.values() for value in state.values())]
    sizes = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return sum(sizes.values()), most


@pytest.mark.parametrize(
    ("config", "settings", "moment"),
    [
        (SMALL, {"method": "full"}, "loss"),
        (SMALL, LORA, "loss"),
        (SMALL, {"method": "full"} | CHECKPOINTING, "loss"),
        (SMALL, LORA | {"memory_efficient_lora": False}, "loss"),
        (SMALL, {"method": "full", "gradient_accumulation_steps": 2}, "loss"),
        (
            SMALL,
            {"method": "full", "micro_batch_size": 1, "sequence_length": 32, "optimizer_kernel": "foreach"},
            "step",
        ),
        (SMALL | {"model_type": "qwen2"}, LORA | CHECKPOINTING, "loss"),
        (SMALL | {"model_type": "qwen3", "head_dim": 48}, {"method": "full"}, "loss"),
        (SMALL | {"model_type": "qwen3", "head_dim": 48, "vocab_size": 700}, LORA | CHECKPOINTING, "layer"),
        (TIED, {"method": "full"}, "loss"),
        (NARROW, LORA, "layer"),
        (NARROW, LORA | CHECKPOINTING, "layer"),
        (NARROW, {"method": "full"} | CHECKPOINTING, "layer"),
        (NARROW, {"method": "full", "gradient_accumulation_steps": 2}, "layer"),
        (NARROW, LORA | {"memory_efficient_lora": False}, "layer"),
        (TIED | FEW, {"method": "full"} | SHORT, "embedding"),
        (SMALL | FEW, {"method": "full"} | SHORT, "embedding"),
        (WINDOW, LORA, "loss"),
        (WINDOW | {"vocab_size": 300}, LORA, "layer"),
    ],
)
def test_a_step_takes_what_the_allocator_counts(config: dict[str, Any], settings: dict[str, Any], moment: str) -> None:
    values = {"micro_batch_size": 2, "sequence_length": 192, "other_bytes": 0.0} | settings
    spec = parse(TrainingPlanSpec, values, where="test")
    found = training_memory(shape(config), spec)
    with no_products():
        static, most = allocated(config, spec)
    assert found.moment == moment
    # The optimiser's counters of steps are the difference.
    assert found.weights + found.optimizer == pytest.approx(static, rel=1e-3)
    assert found.total == pytest.approx(static + most, rel=0.03)
    assert found.total - found.weights - found.optimizer == pytest.approx(most, rel=0.05)


@pytest.mark.parametrize("settings", [{"method": "full"}, LORA | CHECKPOINTING])
def test_the_allocator_does_not_see_arithmetic(settings: dict[str, Any]) -> None:
    spec = parse(TrainingPlanSpec, {"other_bytes": 0.0} | SHORT | settings, where="test")
    with no_products():
        without = allocated(SMALL, spec)
    # The optimiser counts its steps in a few bytes.
    assert allocated(SMALL, spec) == pytest.approx(without, rel=1e-4)


def test_adapters_are_as_many_as_nemo_makes() -> None:
    import torch
    from nemo_automodel.components._peft.lora import PeftConfig, apply_lora_to_linear_modules
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SMALL), dtype=torch.bfloat16)
    apply_lora_to_linear_modules(model, PeftConfig(target_modules=["*_proj"], dim=8, alpha=8))
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert adapter_parameters(shape(SMALL), 8) == trained


def test_bytes_for_each_weight_are_the_published_ones() -> None:
    """Megatron's mixed precision 18 with float32 gradients (2 + 4 + 12), QLoRA's double quantisation 4.127 bits."""
    each = shape(LLAMA_8B)
    full = training_memory(each, TrainingPlanSpec(method="full", optimizer="adamw_master"))
    assert (full.weights + full.gradients + full.optimizer) / each.parameters == pytest.approx(18)
    eight_bit = training_memory(each, TrainingPlanSpec(method="full", optimizer="adamw_8bit"))
    assert eight_bit.optimizer / each.parameters == pytest.approx(2, rel=0.02)
    packed = training_memory(each, TrainingPlanSpec(method="qlora")).weights
    whole = training_memory(each, TrainingPlanSpec(method="lora")).weights
    assert 16 - 8 * (whole - packed) / each.linear == pytest.approx(4.127, abs=0.001)


SPECS = st.builds(
    TrainingPlanSpec,
    method=st.sampled_from(["full", "lora", "qlora"]),
    micro_batch_size=st.sampled_from([1, 4, 16]),
    sequence_length=st.sampled_from([512, 4096, 16384]),
    activation_checkpointing=st.booleans(),
    optimizer=st.sampled_from(["adamw", "adamw_8bit", "adamw_master"]),
    data_parallel_shards=st.sampled_from([1, 2]),
)


@given(SPECS, st.sampled_from(["l4", "a100-80g", "h200"]))
def test_what_does_not_fit_comes_with_changes_that_do(spec: TrainingPlanSpec, board: str) -> None:
    model, card = shape(LLAMA_8B), gpu(board)
    found = training_changes(model, card, spec)
    assert found or not training_fits(training_memory(model, spec), card)
    for change in found:
        assert training_fits(training_memory(model, spec.model_copy(update=change.settings)), card)


@given(SPECS)
def test_more_tokens_never_take_less(spec: TrainingPlanSpec) -> None:
    longer = spec.model_copy(update={"sequence_length": 2 * spec.sequence_length})
    wider = spec.model_copy(update={"micro_batch_size": 2 * spec.micro_batch_size})
    totals = [training_memory(shape(LLAMA_8B), each).total for each in (spec, longer, wider)]
    assert totals[0] <= totals[1] and totals[1] == pytest.approx(totals[2])


def test_the_command_plans_a_training(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "recipes.plan", "job=train", f"config={tmp_path}/config.json", *arguments]
        command += [f"paths.home={tmp_path}/home"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("gpu=a100-80g", "training.method=lora", "training.micro_batch_size=1", "format=json")
    values = json.loads(done.stdout)
    assert done.returncode == 0 and values["fits"] and values["changes"] == []
    own = {"sequence_length": 2048, "micro_batch_size": 1, "total_bytes": values["total_bytes"], "fits": True}
    assert own in values["sizes"]
    shown = run("gpu=a100-80g", "training.method=full")
    assert shown.returncode == 2 and "Traceback" not in shown.stderr
    assert "the training step does not fit" in shown.stderr and "training.micro_batch_size=1" in shown.stderr
    page = Path(next(line for line in shown.stdout.splitlines() if line.startswith("page ")).split()[-1])
    assert page.is_relative_to(tmp_path) and "stacked areas" in page.read_text()
