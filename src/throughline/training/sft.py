"""LoRA supervised fine-tuning: a dataset and a base checkpoint in, a PEFT adapter out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.contracts.errors import CheckpointError, InternalError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training.automodel import OnStep, Probe, TrainLog, run_recipe, set_threads
from throughline.training.shim import default_dtype

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")


@dataclass(frozen=True)
class FitReport:
    """The end of a run: last losses in nats, the best validation loss, and the curves."""

    train_loss: float
    validation_loss: float
    best_validation_loss: float
    steps: int
    curves: TrainLog


def check_base(base: Path) -> dict[str, Any]:
    """Reads and checks a base checkpoint's `config.json`.

    Raises:
        CheckpointError: If the folder is missing, incomplete or of another family.
    """
    config_path = base / "config.json"
    if not config_path.is_file():
        raise CheckpointError(
            "base checkpoint is missing",
            where=str(base),
            seen="no config.json",
            fix="give a Hugging Face folder with model=hf model.path=…",
        )
    config: dict[str, Any] = json.loads(config_path.read_text())
    if config.get("model_type") not in FAMILIES:
        raise CheckpointError(
            "model family is not supported",
            where=f"{config_path}:model_type",
            seen=repr(config.get("model_type")),
            fix=f"use one of {', '.join(FAMILIES)}",
        )
    if not list(base.glob("*.safetensors")):
        raise CheckpointError(
            "base checkpoint has no safetensors weights", where=str(base), fix="convert it with save_pretrained"
        )
    if not (base / "tokenizer.json").is_file():
        raise CheckpointError("base checkpoint has no tokenizer.json", where=str(base), fix="add its fast tokenizer")
    return config


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
) -> FitReport:
    """Trains a LoRA adapter with NeMo AutoModel.

    Args:
        dataset: Folder with `train.parquet` and `validation.parquet` (see `TokenisedDataset`).
        base: Hugging Face folder of the base checkpoint.
        out: Folder of the adapter. `work/` below it holds resumable checkpoints while training; a run
            that was killed goes on from the newest one when called again with the same folder.
        peft: The adapter.
        trainer: The optimisation.
        tracking: Weights & Biases.
        on_step: Called after each step.
        probe: Task metric, called at each validation.
        tracking_dir: Where Weights & Biases writes; beside `out` by default and never in it, because its
            service goes on writing for a while after the run has ended.

    Raises:
        CheckpointError: If the base cannot be used.
        DataError: If the dataset cannot be read.
    """
    check_base(base)
    set_threads(trainer.num_threads)
    work = out / "work"
    config = automodel_config(dataset, base, work, peft=peft, trainer=trainer, tracking=tracking)
    if "wandb" in config:
        folder = tracking_dir or out.parent / "tracking"
        folder.mkdir(parents=True, exist_ok=True)
        config["wandb"]["dir"] = str(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "automodel.json").write_text(json.dumps(config, indent=1) + "\n")
    log_path = work / "curves.json"
    work.mkdir(exist_ok=True)
    curves = run_recipe(config, on_step=on_step, probe=probe, log_path=log_path)
    _keep_adapter(work, out)
    curves.write(out / "training.json")
    shutil.rmtree(work)
    losses = [row["val_loss"] for row in curves.validation]
    return FitReport(
        train_loss=curves.train[-1]["loss"],
        validation_loss=losses[-1],
        best_validation_loss=min(losses),
        steps=len(curves.train),
        curves=curves,
    )


def automodel_config(
    dataset: Path, base: Path, work: Path, *, peft: PeftSpec, trainer: TrainerSpec, tracking: TrackingSpec
) -> dict[str, Any]:
    """Renders the specs as NeMo AutoModel's config, the same on CPU and GPU but for `torch_dtype`."""
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    pad = pad_token_id(base, tokenizer)
    rows = {"_target_": "throughline.training.dataset.TokenisedDataset", "pad_token_id": pad}
    collate = "nemo_automodel.components.datasets.utils.default_collater"
    loader = "torchdata.stateful_dataloader.StatefulDataLoader"
    dtype = trainer.torch_dtype if trainer.torch_dtype != "auto" else default_dtype()
    config: dict[str, Any] = {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": trainer.seed,
        "step_scheduler": {
            "global_batch_size": trainer.global_batch_size,
            "local_batch_size": trainer.local_batch_size,
            "ckpt_every_steps": min(trainer.ckpt_every_steps, trainer.max_steps),
            "val_every_steps": min(trainer.val_every_steps, trainer.max_steps),
            "save_checkpoint_every_epoch": False,
            "validate_on_checkpoint": False,
            "num_epochs": 1000,
            "max_steps": trainer.max_steps,
        },
        "dist_env": {"backend": "nccl" if _has_cuda() else "gloo", "timeout_minutes": 10},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            "pretrained_model_name_or_path": str(base),
            "force_hf": True,
            "torch_dtype": dtype,
            "attn_implementation": "sdpa",
        },
        "peft": {
            "_target_": "nemo_automodel.components._peft.lora.PeftConfig",
            "target_modules": list(peft.target_modules),
            "exclude_modules": list(peft.exclude_modules),
            "dim": peft.dim,
            "alpha": peft.alpha,
            "dropout": peft.dropout,
            "use_dora": peft.use_dora,
            "use_triton": False,
        },
        "dataset": rows | {"path": str(dataset / "train.parquet")},
        "dataloader": {"_target_": loader, "collate_fn": collate, "shuffle": True, "group_by_length": True},
        "validation_dataset": rows | {"path": str(dataset / "validation.parquet"), "limit": 256},
        "validation_dataloader": {"_target_": loader, "collate_fn": collate, "shuffle": False},
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": trainer.lr,
            "betas": [0.9, 0.99],
            "weight_decay": trainer.weight_decay,
        },
        "lr_scheduler": {
            "lr_decay_style": "cosine",
            "lr_warmup_steps": min(trainer.lr_warmup_steps, max(0, trainer.max_steps - 1)),
            "min_lr": trainer.lr * trainer.min_lr_ratio,
        },
        "max_grad_norm": trainer.max_grad_norm,
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


def pad_token_id(base: Path, tokenizer_config: dict[str, Any]) -> int:
    """Returns the id of the pad token, else of the end token.

    Raises:
        CheckpointError: If the tokenizer names neither.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    for key in ("pad_token", "eos_token"):
        value = tokenizer_config.get(key)
        text = value.get("content") if isinstance(value, dict) else value
        if text and (found := tokenizer.token_to_id(text)) is not None:
            return int(found)
    raise CheckpointError(
        "tokenizer has neither a pad nor an end token",
        where=str(base / "tokenizer_config.json"),
        fix="set pad_token or eos_token",
    )


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
