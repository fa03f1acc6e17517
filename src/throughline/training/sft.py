"""LoRA supervised fine-tuning: a dataset and a base checkpoint in, a PEFT adapter out."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.checkpoint import read_checkpoint_config
from throughline.contracts.errors import DataError, InternalError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training import attention
from throughline.training.automodel import OnEstimate, OnStep, Probe, TrainLog, run_recipe, set_threads
from throughline.training.dataset import PackedDataset, Schedule
from throughline.training.ranks import check_batch, rank, world_size
from throughline.training.shim import default_dtype

# Written last: a folder with it holds a finished adapter.
CURVES_FILE = "training.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class FitReport:
    """The end of a run: last losses in nats, the best validation loss, the curves, records and tokens seen."""

    train_loss: float
    validation_loss: float
    best_validation_loss: float
    steps: int
    curves: TrainLog
    records: int
    tokens: int


def fit_lora(
    dataset: Path,
    base: Path,
    out: Path,
    *,
    peft: PeftSpec,
    trainer: TrainerSpec,
    tracking: TrackingSpec,
    on_step: OnStep,
    probe: Probe | None = None,
    tracking_dir: Path | None = None,
    on_estimate: OnEstimate | None = None,
) -> FitReport:
    """Trains a LoRA adapter with NeMo AutoModel.

    Under torchrun every rank calls it with the same arguments; the first one writes the files.

    Args:
        dataset: Folder with `train.parquet` and `validation.parquet` (see `TokenisedRecords`).
        base: Hugging Face folder of the base checkpoint.
        out: Folder of the adapter. `work/` below it holds resumable checkpoints while training; a run
            that was killed goes on from the newest one when called again with the same folder.
        peft: The adapter.
        trainer: The optimisation.
        tracking: Weights & Biases.
        on_step: Called after each step; the metrics hold `tokens`, `records`, `tokens_per_second` and
            `records_per_second` of the steps so far, records counted as often as they were seen.
        probe: Task metric, called at each validation.
        tracking_dir: Where Weights & Biases writes; beside `out` by default and never in it, because its
            service goes on writing for a while after the run has ended.
        on_estimate: Called before the first step with the seconds that training will take.

    Raises:
        CheckpointError: If the base cannot be used.
        ConfigError: If the ranks of a distributed run cannot share a step evenly.
        DataError: If the dataset cannot be read, or has too little to validate for all ranks.
        KeyboardInterrupt: If the process was told to end with SIGTERM; a checkpoint is kept.
    """
    read_checkpoint_config(base)
    check_batch(trainer)
    _check_validation(dataset, trainer)
    leads = rank() == 0
    set_threads(trainer.num_threads)
    work = out / "work"
    config = automodel_config(dataset, base, work, peft=peft, trainer=trainer, tracking=tracking)
    if "wandb" in config:
        folder = tracking_dir or out.parent / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        config["wandb"]["dir"] = str(folder)
    pace = _Pace(schedule(dataset, trainer), trainer, on_step)
    log_path = work / "curves.jsonl" if leads else None
    if (out / CURVES_FILE).is_file():
        # Killed between the end of training and that of its stage.
        if leads:
            shutil.rmtree(work, ignore_errors=True)
        return _report(TrainLog.read(out / CURVES_FILE), pace)
    if leads:
        work.mkdir(parents=True, exist_ok=True)
        (out / "automodel.json").write_text(json.dumps(config, indent=1) + "\n")
    curves = run_recipe(
        config,
        on_step=pace,
        probe=probe,
        log_path=log_path,
        autocast=dtype_of(trainer),
        on_estimate=on_estimate,
    )
    if not curves.train or curves.train[-1]["step"] + 1 < config["step_scheduler"]["max_steps"]:
        # AutoModel answers SIGTERM with a checkpoint and an ordinary return.
        raise KeyboardInterrupt("training was told to stop")
    if leads:
        _keep_adapter(work, out)
        curves.write(out / CURVES_FILE)
        shutil.rmtree(work)
    return _report(curves, pace)


def _report(curves: TrainLog, pace: _Pace) -> FitReport:
    losses = [row["val_loss"] for row in curves.validation]
    return FitReport(
        train_loss=curves.train[-1]["loss"],
        validation_loss=losses[-1],
        best_validation_loss=min(losses),
        steps=len(curves.train),
        curves=curves,
        records=pace.records[-1],
        tokens=pace.tokens[-1],
    )


class _Pace:
    """Adds to every step's metrics how many records and tokens there were, and how fast.

    `records[i]` and `tokens[i]` are those of the first i steps, as if nothing were shared.
    """

    def __init__(self, schedule: Schedule, trainer: TrainerSpec, on_step: OnStep) -> None:
        self.records, self.tokens = [0], [0]
        packs_per_step = trainer.global_batch_size // trainer.local_batch_size
        for start in range(0, len(schedule.packs), packs_per_step):
            packs = range(start, min(start + packs_per_step, len(schedule.packs)))
            self.records.append(self.records[-1] + sum(len(schedule.packs[index]) for index in packs))
            self.tokens.append(self.tokens[-1] + sum(schedule.tokens[index] for index in packs))
        self._on_step = on_step
        self._first: tuple[int, float] | None = None

    def __call__(self, step: int, steps: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        # The first step of a run warms up, so the pace is measured from its end.
        start, since = self._first = self._first or (step, now)
        found = {"records": float(self.records[step]), "tokens": float(self.tokens[step])}
        if now > since:
            found["records_per_second"] = (self.records[step] - self.records[start]) / (now - since)
            found["tokens_per_second"] = (self.tokens[step] - self.tokens[start]) / (now - since)
        self._on_step(step, steps, metrics | found)


def automodel_config(
    dataset: Path, base: Path, work: Path, *, peft: PeftSpec, trainer: TrainerSpec, tracking: TrackingSpec
) -> dict[str, Any]:
    """Renders the specs as NeMo AutoModel's config, the same on CPU and GPU but for `torch_dtype`."""
    dtype = dtype_of(trainer)
    packs_per_step = trainer.global_batch_size // trainer.local_batch_size
    rows = {
        "_target_": "throughline.training.dataset.PackedDataset",
        "batch_size": trainer.local_batch_size,
        "max_tokens_per_batch": trainer.max_tokens_per_batch,
        "group_by_task": trainer.group_by_task,
    }
    training = rows | {
        "path": str(dataset / "train.parquet"),
        "max_tokens": trainer.max_tokens,
        "max_steps": trainer.max_steps * packs_per_step,
        "multiple": packs_per_step,
        "seed": trainer.seed,
    }
    steps = len(schedule(dataset, trainer).packs) // packs_per_step
    loader = {
        "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
        "collate_fn": "throughline.training.dataset.single",
        # The dataset is in the order of training already.
        "shuffle": False,
    }
    config: dict[str, Any] = {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": trainer.seed,
        "step_scheduler": {
            # An item of the dataset is a pack, so AutoModel counts packs.
            "global_batch_size": packs_per_step,
            "local_batch_size": 1,
            "ckpt_every_steps": min(trainer.ckpt_every_steps, steps),
            "val_every_steps": min(trainer.val_every_steps or steps, steps),
            "save_checkpoint_every_epoch": False,
            "validate_on_checkpoint": False,
            "num_epochs": 1,
            "max_steps": steps,
        },
        "dist_env": {"backend": "nccl" if _has_cuda() else "gloo", "timeout_minutes": 10},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            "pretrained_model_name_or_path": str(base),
            "force_hf": True,
            "torch_dtype": dtype,
            "attn_implementation": attention.register(),
        },
        "peft": {
            "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
            "target_modules": target_modules(peft),
            "exclude_modules": list(peft.exclude_modules),
            "dim": peft.dim,
            "alpha": peft.alpha,
            "dropout": peft.dropout,
            "use_dora": peft.use_dora,
            "lora_dtype": "float32",
            "use_triton": False,
        },
        "dataset": training,
        "dataloader": loader,
        # As many packs for each rank: AutoModel would give some a pack twice.
        "validation_dataset": rows
        | {
            "path": str(dataset / "validation.parquet"),
            "limit": trainer.val_records,
            "multiple": world_size(),
        },
        "validation_dataloader": loader,
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": trainer.lr,
            "betas": list(trainer.betas),
            "weight_decay": trainer.weight_decay,
        },
        "lr_scheduler": {
            "lr_decay_style": "cosine",
            "lr_warmup_steps": min(trainer.lr_warmup_steps, max(0, steps - 1)),
            "min_lr": trainer.lr * trainer.min_lr_ratio,
        },
        "clip_grad_norm": {"max_norm": trainer.max_grad_norm},
        "distributed": {"strategy": trainer.strategy, "tp_size": 1, "cp_size": 1},
        "checkpoint": {
            "enabled": True,
            "checkpoint_dir": str(work),
            "model_save_format": "safetensors",
            "save_consolidated": False,
        },
    }
    if tracking.enabled and tracking.mode != "disabled":
        config["wandb"] = {"project": tracking.project, "mode": tracking.mode}
    return config


def target_modules(peft: PeftSpec) -> list[str]:
    """Returns AutoModel's wildcards of the modules that get an adapter."""
    if peft.layers_to_transform is None:
        return list(peft.target_modules)
    first, last = peft.layers_to_transform
    return [
        f"*.layers.{layer}.*{module.removeprefix('*')}"
        for layer in range(first, last + 1)
        for module in peft.target_modules
    ]


def schedule(dataset: Path, trainer: TrainerSpec) -> Schedule:
    """Returns the packs that a run trains on, in order.

    Raises:
        DataError: If the training split cannot be used.
    """
    packs_per_step = trainer.global_batch_size // trainer.local_batch_size
    return PackedDataset(
        str(dataset / "train.parquet"),
        batch_size=trainer.local_batch_size,
        max_tokens_per_batch=trainer.max_tokens_per_batch,
        group_by_task=trainer.group_by_task,
        max_tokens=trainer.max_tokens,
        max_steps=trainer.max_steps * packs_per_step,
        multiple=packs_per_step,
        seed=trainer.seed,
    ).schedule


def _check_validation(dataset: Path, trainer: TrainerSpec) -> None:
    """Checks that every rank has something to validate: AutoModel would report a loss of 0."""
    packs = PackedDataset(
        str(dataset / "validation.parquet"),
        batch_size=trainer.local_batch_size,
        max_tokens_per_batch=trainer.max_tokens_per_batch,
        group_by_task=trainer.group_by_task,
        limit=trainer.val_records,
    )
    if len(packs) < world_size():
        raise DataError(
            "the validation split is too small for all ranks",
            where=str(dataset / "validation.parquet"),
            seen=f"{len(packs)} packs of up to {trainer.local_batch_size} records, {world_size()} ranks",
            fix="raise data.validation_share, lower trainer.local_batch_size, or take fewer ranks",
        )


def dtype_of(trainer: TrainerSpec) -> str:
    """Returns the name of the type that `trainer` computes in on this machine."""
    return trainer.torch_dtype if trainer.torch_dtype != "auto" else default_dtype()


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _keep_adapter(work: Path, out: Path) -> None:
    checkpoints = sorted(work.glob("epoch_*_step_*"), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    if not checkpoints:
        raise InternalError("AutoModel left no checkpoint", where=str(work))
    source = checkpoints[-1] / "model"
    for name in ADAPTER_FILES:
        if not (source / name).is_file():
            raise InternalError(f"AutoModel's checkpoint has no {name}", where=str(source))
        shutil.copy2(source / name, out / name)
