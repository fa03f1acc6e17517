"""LoRA training against the loops that one would write oneself, on the same records in the same order.

python benchmarks/training_throughput.py --dataset artifacts/dataset/… --base artifacts/checkpoint/…

ours            `throughline.training`: NeMo AutoModel over packs with shared beginnings
bare, packed    the same packs, type and adapters (PEFT) in a loop of a dozen lines: the limit for `ours`
bare, padded    padded batches, logits on label positions only
HF Trainer      transformers' Trainer with PEFT, padded batches grouped by length, logits on every position

The candidates take turns in each round; a round's first step warms up and is not counted. Records/s, since the same
records cost different numbers of computed tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from results_file import command_line, write

from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training.packing import Record

PEFT = PeftSpec(dim=16, alpha=32)
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Clock:
    """Records/s of the steps after the first."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def tick(self) -> None:
        """Notes the end of a step."""
        self._times.append(time.perf_counter())

    def rate(self, records: int) -> float:
        """Returns records/s, with `records` in each step."""
        return records * (len(self._times) - 1) / (self._times[-1] - self._times[0])


def ours(dataset: Path, base: Path, spec: TrainerSpec) -> float:
    """Returns records/s of `fit_lora`."""
    from throughline.training.sft import fit_lora

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        fit_lora(
            dataset,
            base,
            Path(folder) / "adapter",
            peft=PEFT,
            trainer=spec,
            tracking=TrackingSpec(enabled=False),
            on_step=lambda *_: clock.tick(),
        )
    return clock.rate(spec.global_batch_size)


def batches(dataset: Path, spec: TrainerSpec) -> list[list[Record]]:
    """Returns the records of each step."""
    from throughline.training.sft import schedule

    plan = schedule(dataset, spec)
    return [[plan.records[index] for index in indices] for indices in plan.packs]


def adapted(base: Path, dtype: str, attention: str) -> Any:
    """Returns the model with PEFT's LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), attn_implementation=attention)
    return get_peft_model(model, LoraConfig(r=PEFT.dim, lora_alpha=PEFT.alpha, target_modules=list(PROJECTIONS)))


def bare(dataset: Path, base: Path, spec: TrainerSpec, *, packed: bool) -> float:
    """Returns records/s of a loop of one's own."""
    import torch

    from throughline.training import attention
    from throughline.training.packing import pack
    from throughline.training.sft import dtype_of

    dtype = dtype_of(spec)
    model = adapted(base, dtype, attention.register() if packed else "sdpa")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=spec.lr, betas=spec.betas, weight_decay=0.0)
    clock = Clock()
    for records in batches(dataset, spec):
        arguments = pack(records).batch() if packed else padded(records)
        labels = arguments.pop("labels")
        with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            loss = torch.nn.functional.cross_entropy(model(**arguments).logits.float().flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, spec.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.rate(spec.global_batch_size)


def padded(records: Sequence[Record]) -> dict[str, Any]:
    """Returns a right-padded batch that asks for logits from the first label of any record on."""
    import torch

    width = max(len(record.input_ids) for record in records)
    first = min(record.shareable for record in records) - 1
    labels = torch.full((len(records), width), -100)
    ids, mask = torch.zeros((len(records), width), dtype=torch.int64), torch.zeros((len(records), width))
    for row, record in enumerate(records):
        length = len(record.input_ids)
        ids[row, :length], mask[row, :length] = torch.tensor(record.input_ids), 1
        labels[row, : length - 1] = torch.tensor(record.labels[1:])
    keep = torch.arange(first, width)
    return {"input_ids": ids, "attention_mask": mask, "logits_to_keep": keep, "labels": labels[:, keep]}


def hf_trainer(dataset: Path, base: Path, spec: TrainerSpec) -> float:
    """Returns records/s of transformers' Trainer."""
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    from throughline.training.sft import dtype_of

    rows = [
        {"input_ids": list(record.input_ids), "labels": list(record.labels)}
        for records in batches(dataset, spec)
        for record in records
    ]
    clock = Clock()

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=spec.global_batch_size,
            max_steps=spec.max_steps,
            learning_rate=spec.lr,
            train_sampling_strategy="group_by_length",
            bf16=dtype_of(spec) == "bfloat16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=adapted(base, dtype_of(spec), "sdpa"),
            args=arguments,
            train_dataset=rows,
            data_collator=lambda items: trainer_batch(items),
            callbacks=[Ticks()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return clock.rate(spec.global_batch_size)


def trainer_batch(items: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Returns a right-padded batch as `DataCollatorForSeq2Seq` makes it."""
    import torch

    width = max(len(item["input_ids"]) for item in items)
    pads = {"input_ids": 0, "labels": -100}
    batch = {
        key: torch.tensor([item[key] + [pad] * (width - len(item[key])) for item in items]) for key, pad in pads.items()
    }
    mask = [[1] * len(item["input_ids"]) + [0] * (width - len(item["input_ids"])) for item in items]
    return batch | {"attention_mask": torch.tensor(mask)}


def main() -> None:
    """Measures, prints a table, and writes JSON."""
    parser = command_line(__doc__, "training_throughput")
    parser.add_argument("--dataset", type=Path, required=True, help="dataset artifact")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--batch", type=int, default=4, help="records in a step")
    parser.add_argument("--steps", type=int, default=6, help="steps of each candidate in a round")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    arguments = parser.parse_args()
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    candidates: dict[str, Callable[[Path, Path, TrainerSpec], float]] = {
        "ours": ours,
        "bare, packed": lambda *known: bare(*known, packed=True),
        "bare, padded": lambda *known: bare(*known, packed=False),
        "HF Trainer": hf_trainer,
    }
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(arguments.repeats):
        spec = TrainerSpec(
            max_tokens=0,
            max_steps=arguments.steps,
            global_batch_size=arguments.batch,
            local_batch_size=arguments.batch,
            val_records=1,
            seed=repeat,
        )
        # Each round begins with another candidate, so that none is always first on a warm or a hot machine.
        order = list(candidates)[repeat % len(candidates) :] + list(candidates)[: repeat % len(candidates)]
        for name in order:
            with contextlib.redirect_stdout(sys.stderr):
                found[name].append(candidates[name](arguments.dataset, arguments.base, spec))
            print(f"round {repeat + 1}  {name:14} {found[name][-1]:.2f} records/s", file=sys.stderr, flush=True)
    report(found, arguments)


def report(found: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    """Prints and writes medians and ratios to `ours`, least and most over the rounds."""
    from throughline.artifacts import describe_environment
    from throughline.contracts.report import Column, Table
    from throughline.reporting.terminal import print_table

    rows, values = [], {}
    for name, rates in found.items():
        ratios = [mine / other for mine, other in zip(found["ours"], rates, strict=True)]
        values[name] = {"records_per_second": rates, "ours_over_this": ratios}
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
        rows.append([name, f"{statistics.median(rates):.2f} [{min(rates):.2f}, {max(rates):.2f}]", spread])
    columns = [Column("loop", align="left"), Column("speed", "records/s"), Column("ours / this")]
    note = f"median [least, most] of {arguments.repeats} rounds of {arguments.steps - 1} steps of {arguments.batch}"
    print_table(Table("LoRA training", columns, rows, note=note))
    command = f"python benchmarks/training_throughput.py --batch {arguments.batch} --steps {arguments.steps}"
    result = {"command": command, "environment": describe_environment(), "candidates": values}
    write(arguments.out, result)


if __name__ == "__main__":
    main()
