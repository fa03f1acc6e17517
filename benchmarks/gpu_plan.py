"""What `recipes.plan` says of a GPU against what PyTorch's allocator counts on it, with random weights.

python benchmarks/gpu_plan.py train                # steps of full and LoRA training, transformers' models, NeMo's LoRA
python benchmarks/gpu_plan.py serve                # weights, activations and a KV cache that fills the board
python benchmarks/gpu_plan.py limits               # the rates that the planner's times are shares of

Each configuration is planned without `other_bytes` and compared with the most that was allocated. What the process
takes beyond that is printed beside it: context, libraries, and what the allocator cannot use.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from throughline.contracts.config import parse
from throughline.contracts.planning import GpuSpec, PlanSpec, TrainingPlanSpec
from throughline.contracts.workload import Workload
from throughline.planning.memory import memory
from throughline.planning.shape import ModelShape
from throughline.planning.training import training_memory

ROOT = Path(__file__).resolve().parents[1]
LORA: dict[str, Any] = {"method": "lora", "lora_rank": 16}
QLORA: dict[str, Any] = {"method": "qlora", "lora_rank": 16}
FULL: dict[str, Any] = {"method": "full"}
CHECKPOINTING: dict[str, Any] = {"activation_checkpointing": True}


def size(batch: int, length: int) -> dict[str, Any]:
    """Returns the settings of a micro-batch."""
    return {"micro_batch_size": batch, "sequence_length": length}


TRAININGS: list[tuple[str, dict[str, Any]]] = [
    ("qwen3-0.6b", FULL | size(2, 1024)),
    ("qwen3-0.6b", LORA | size(4, 2048)),
    ("llama-3.2-1b", FULL | size(2, 2048)),
    ("llama-3.2-1b", FULL | CHECKPOINTING | size(4, 4096)),
    ("llama-3.2-1b", FULL | size(1, 256) | {"optimizer_kernel": "foreach"}),
    ("llama-3.2-1b", FULL | size(2, 1024) | {"gradient_accumulation_steps": 2}),
    ("llama-3.2-1b", LORA | size(4, 2048)),
    ("llama-3.2-1b", LORA | size(4, 2048) | {"memory_efficient_lora": False}),
    ("llama-3.2-3b", FULL | CHECKPOINTING | size(2, 2048)),
    ("llama-3.2-3b", LORA | size(4, 2048)),
    ("qwen2.5-7b", LORA | CHECKPOINTING | size(2, 2048)),
    ("mistral-7b", LORA | size(2, 4096)),
    ("mistral-7b-v0.1", LORA | size(2, 4096)),
    ("mistral-7b-v0.1", LORA | size(1, 6144)),
    ("qwen3-8b", LORA | size(1, 1024)),
    ("llama-3.1-8b", LORA | size(1, 2048)),
    ("llama-3.1-8b", LORA | CHECKPOINTING | size(4, 4096)),
    ("llama-3.1-8b", FULL | CHECKPOINTING | size(1, 1024)),
    ("llama-3.1-8b", FULL | CHECKPOINTING | size(1, 4096) | {"optimizer": "adamw_8bit"}),
    ("llama-3.2-1b", FULL | size(2, 2048) | {"optimizer": "adamw_8bit"}),
    ("llama-3.2-1b", QLORA | size(4, 2048)),
    ("llama-3.2-3b", QLORA | size(2, 2048)),
    ("llama-3.1-8b", QLORA | size(1, 2048)),
    ("llama-3.1-8b", QLORA | CHECKPOINTING | size(4, 4096)),
]
SERVINGS: list[tuple[str, dict[str, Any]]] = [
    (model, {"precision": precision, "kv_cache_dtype": kv, "max_num_tokens": tokens, "max_batch_size": 256})
    for precision, kv, models in (
        ("bf16", "bf16", ("qwen3-0.6b", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "llama-3.1-8b", "qwen3-8b")),
        ("fp8", "fp8", ("llama-3.2-1b", "llama-3.1-8b")),
        ("int4_awq", "bf16", ("llama-3.2-1b",)),
    )
    for model in models
    for tokens in (2048, 8192)
]
SMOKE: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


def model_config(name: str) -> dict[str, Any]:
    """Returns a `config.json` of the catalogue; `smoke` is a small one to try the program with.

    Mistral's first version differs from the catalogue's in its window of 4096 tokens and its vocabulary.
    """
    if name == "smoke":
        return SMOKE
    if name == "mistral-7b-v0.1":
        return model_config("mistral-7b") | {"sliding_window": 4096, "vocab_size": 32000}
    found: dict[str, Any] = json.loads((ROOT / "engines" / "models" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def random_model(config: dict[str, Any], device: str) -> Any:
    """Returns a model of that shape with random bfloat16 weights, made where it will stay."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(**config)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16, attn_implementation="sdpa")


def training_step(config: dict[str, Any], spec: TrainingPlanSpec, device: str) -> tuple[Any, Any, Callable[[], None]]:
    """Returns the model, its optimiser and a function that takes one step, as NeMo AutoModel takes it."""
    import torch
    from nemo_automodel.components._peft.lora import PeftConfig, apply_lora_to_linear_modules

    model = random_model(config, device)
    if spec.method != "full":
        model.requires_grad_(False)
        if spec.method == "qlora":
            to_nf4(model, device)
        peft = PeftConfig(target_modules=["*_proj"], dim=spec.lora_rank, alpha=2 * spec.lora_rank)
        peft.use_memory_efficient_lora = spec.memory_efficient_lora
        peft.use_triton = False
        peft.lora_dtype = torch.float32 if spec.lora_dtype == "fp32" else torch.bfloat16
        apply_lora_to_linear_modules(model, peft)
    model = model.to(device)
    if spec.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if spec.method != "full":
            model.enable_input_require_grads()
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    if spec.optimizer == "adamw_8bit":
        import bitsandbytes

        optimizer: Any = bitsandbytes.optim.AdamW8bit(trained, lr=1e-3)
    else:
        kernel: dict[str, Any] = {spec.optimizer_kernel: True}
        optimizer = torch.optim.AdamW(trained, lr=1e-3, **kernel)
    ids = torch.randint(0, config["vocab_size"], (spec.micro_batch_size, spec.sequence_length), device=device)

    def step() -> None:
        for _ in range(spec.gradient_accumulation_steps):
            # The output with its logits is there until the backward pass has ended.
            output = model(input_ids=ids, labels=ids, use_cache=False)
            output.loss.backward()
            del output
        optimizer.step()
        optimizer.zero_grad()

    return model, optimizer, step


def to_nf4(model: Any, device: str) -> None:
    """Puts NF4 with double quantisation in place of every projection, as transformers does with bitsandbytes."""
    import bitsandbytes
    import torch

    for name, old in [each for each in model.named_modules() if each[0].endswith("_proj")]:
        new = bitsandbytes.nn.Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=torch.bfloat16,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        weight = bitsandbytes.nn.Params4bit(
            old.weight.data.cpu(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=new
        )
        new.weight, new.bias = weight.to(device), old.bias
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, new)


class Peak:
    """Bytes that were allocated at most since it was made, and what the process takes of the board at its end."""

    def __init__(self) -> None:
        import torch

        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, float]:
        """Returns the figures now."""
        import torch

        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return {"allocated": float(torch.cuda.max_memory_allocated()), "taken": float(total - free)}


def train(models: list[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yields planned and measured bytes of each training."""
    import torch

    for name, settings in models:
        config, spec = model_config(name), parse(TrainingPlanSpec, {"other_bytes": 0.0} | settings, where=name)
        planned = training_memory(ModelShape.of(config, where=name), spec)
        started, peak = time.perf_counter(), Peak()
        model, optimizer, step = training_step(config, spec, "cuda")
        step()
        step()
        torch.cuda.synchronize()
        stepped = time.perf_counter()
        step()
        row = {"model": name, "settings": settings, "planned": planned.total, "moment": planned.moment} | peak.read()
        row |= {"step_seconds": time.perf_counter() - stepped, "seconds": time.perf_counter() - started}
        del model, optimizer, step
        yield row


def serve(models: list[tuple[str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yields planned and measured bytes: weights, a pass of `max_num_tokens`, a batch's sampling, a full cache."""
    import torch

    gpu = board()
    workload = Workload(input_tokens=1, output_tokens=1, longest_input_tokens=1, longest_output_tokens=1)
    for name, settings in models:
        config, spec = model_config(name), parse(PlanSpec, settings, where=name)
        shape = ModelShape.of(config, where=name)
        planned = memory(shape, gpu, spec, workload)
        peak = Peak()
        # ModelOpt keeps what it made last.
        left = float(torch.cuda.memory_allocated())
        model = random_model(config, "cuda").eval()
        if spec.precision != "bf16":
            model = compressed(model, spec.precision)
        gc.collect()
        torch.cuda.empty_cache()
        weights = float(torch.cuda.memory_allocated()) - left
        blocks = planned.kv_capacity // spec.tokens_per_block
        kind = torch.bfloat16 if spec.kv_cache_dtype == "bf16" else torch.float8_e4m3fn
        block = (2, shape.kv_heads, spec.tokens_per_block, shape.head_dim)
        cache = [torch.empty((blocks, *block), dtype=kind, device="cuda") for _ in range(shape.layers)]
        peak = Peak()
        before = float(torch.cuda.memory_allocated())
        with torch.inference_mode():
            ids = torch.randint(0, shape.vocab, (4, spec.max_num_tokens // 4), device="cuda")
            model(input_ids=ids, use_cache=False, logits_to_keep=1)
            prefill = peak.read()["allocated"] - before
            peak = Peak()
            ids = torch.randint(0, shape.vocab, (spec.max_batch_size, 1), device="cuda")
            logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
            torch.multinomial(torch.softmax(logits, -1), 1)
            sampling = peak.read()["allocated"] - before
        row = {"model": name, "settings": settings, "planned": planned.total - planned.other}
        row |= {
            "allocated": before - left + max(prefill, sampling),
            "fixed": [planned.fixed - planned.other, weights + max(prefill, sampling)],
            "taken": peak.read()["taken"],
            "terms": {
                "weights": [planned.weights, weights],
                "activations": [planned.activations, prefill],
                "logits": [planned.logits, sampling],
                "kv": [planned.kv_capacity * planned.kv_per_token, before - left - weights],
            },
        }
        del model, cache, logits, ids
        yield row


def compressed(model: Any, precision: str) -> Any:
    """Returns the model with weights in the precision's own type, by ModelOpt."""
    import modelopt.torch.quantization as mtq
    import torch

    config = {"fp8": mtq.FP8_DEFAULT_CFG, "int4_awq": mtq.INT4_BLOCKWISE_WEIGHT_ONLY_CFG}[precision]
    ids = torch.randint(0, model.config.vocab_size, (1, 128), device="cuda")
    with torch.inference_mode():
        found = mtq.quantize(model, config, lambda each: each(input_ids=ids, use_cache=False))
        mtq.compress(found)
    return found


def limits() -> Iterator[dict[str, Any]]:
    """Yields the rates that the board reaches: a large copy, and square products."""
    import torch

    gpu = board()
    source = torch.randint(0, 255, (4 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    yield {"what": "copy", "unit": "B/s", "rate": 2 * source.numel() / median(lambda: target.copy_(source))}
    yield {"what": "read", "unit": "B/s", "rate": source.numel() / median(lambda: source.view(torch.int64).sum())}
    side = 8192
    left, right = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    yield {"what": "bf16", "unit": "FLOP/s", "rate": 2 * side**3 / median(lambda: left @ right)}
    one = torch.ones((), device="cuda")
    eight, other = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).t()
    product = lambda: torch._scaled_mm(eight, other, one, one, out_dtype=torch.bfloat16)  # noqa: E731
    yield {"what": "fp8", "unit": "FLOP/s", "rate": 2 * side**3 / median(product)}
    yield {"what": "stated", "bandwidth": gpu.bandwidth, "bf16": gpu.bf16_flops, "fp8": gpu.fp8_flops}


def median(run: Callable[[], Any], repeats: int = 20) -> float:
    """Returns the median seconds of a call, by events on the device."""
    import torch

    for _ in range(3):
        run()
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end) / 1e3)
    return sorted(found)[repeats // 2]


def board() -> GpuSpec:
    """Returns our description of the board at hand, with the memory that its driver gives."""
    import torch

    name = "h200" if "H200" in torch.cuda.get_device_name() else "h100-sxm"
    values = yaml.safe_load((ROOT / "recipes" / "conf" / "gpu" / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse(GpuSpec, values | {"memory_bytes": float(torch.cuda.mem_get_info()[1])}, where=name)


def main() -> None:
    """Measures, prints a line each, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "serve", "limits"))
    parser.add_argument("--smoke", action="store_true", help="a small model in place of the catalogue's")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/gpu_plan_<what>.json")
    arguments = parser.parse_args()
    import torch
    import transformers

    out = arguments.out or Path(f"benchmarks/results/gpu_plan_{arguments.what}.json")
    measured: dict[str, Callable[[list[Any]], Iterator[dict[str, Any]]]] = {"train": train, "serve": serve}
    every = {"train": TRAININGS, "serve": SERVINGS}.get(arguments.what, [])
    if arguments.smoke:
        every = [("smoke", settings) for _, settings in every]
    rows = limits() if arguments.what == "limits" else measured[arguments.what](every)
    found = []
    for row in rows:
        found.append(row)
        text = f"{row.get('model', row.get('what'))} {row.get('settings', '')}"
        if "planned" in row:
            row["error"] = row["planned"] / row["allocated"] - 1
            beyond = row["taken"] - row["allocated"]
            text += f" planned {row['planned'] / 1e9:.2f} GB, allocated {row['allocated'] / 1e9:.2f}"
            text += f" ({100 * row['error']:+.1f} %), beyond it {beyond / 1e9:.2f}"
            if "fixed" in row:
                text += f"; without the cache {row['fixed'][0] / 1e9:.2f} and {row['fixed'][1] / 1e9:.2f}"
                text += f" ({100 * (row['fixed'][0] / row['fixed'][1] - 1):+.1f} %)"
        else:
            text += " ".join(f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
        print(text, flush=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {
            "command": f"python benchmarks/gpu_plan.py {arguments.what}",
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "rows": found,
        }
        out.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if "error" in found[0]:
        worst = max(found, key=lambda row: abs(row["error"]))
        print(f"worst {100 * worst['error']:+.1f} %: {worst['model']} {worst['settings']}")
    print(f"written {out}")


if __name__ == "__main__":
    main()
