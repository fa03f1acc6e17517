"""What a training run is asked to do; field names as NeMo AutoModel and PEFT use them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from throughline.contracts.config import StrictModel


class PeftSpec(StrictModel):
    """LoRA: `W + alpha / dim · B A` on the modules that match (Hu et al. 2021).

    `target_modules` are wildcards on a module's full path; `use_dora` adds DoRA's magnitude vector.
    """

    dim: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("*_proj",)
    exclude_modules: tuple[str, ...] = ()
    use_dora: bool = False


class TrainerSpec(StrictModel):
    """One supervised fine-tuning run.

    Attributes:
        max_steps: Optimiser steps.
        global_batch_size: Sequences in one optimiser step, over all ranks.
        local_batch_size: Sequences in one forward pass of one rank.
        lr: Peak learning rate; cosine decay to `min_lr_ratio` of it after `lr_warmup_steps`.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: Gradients are clipped to this global norm.
        val_every_steps: Steps between validations.
        ckpt_every_steps: Steps between resumable checkpoints.
        probe_size: Validation prompts answered by greedy generation at each validation; 0 for none.
        probe_max_new_tokens: Length limit of those answers.
        torch_dtype: `auto` is float32 on a CPU and bfloat16 on a GPU.
        num_threads: CPU threads of torch; 0 takes every core.
        strategy: AutoModel's distributed strategy.
        seed: Seed of initialisation and data order.
    """

    max_steps: int = Field(default=400, ge=1)
    global_batch_size: int = Field(default=16, ge=1)
    local_batch_size: int = Field(default=16, ge=1)
    lr: float = Field(default=2e-3, gt=0)
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    lr_warmup_steps: int = Field(default=30, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    val_every_steps: int = Field(default=100, ge=1)
    ckpt_every_steps: int = Field(default=100, ge=1)
    probe_size: int = Field(default=48, ge=0)
    probe_max_new_tokens: int = Field(default=80, ge=1)
    torch_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    num_threads: int = Field(default=0, ge=0)
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    seed: int = 0


class TrackingSpec(StrictModel):
    """Weights & Biases; `offline` writes below the artifact and needs no account."""

    enabled: bool = True
    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "throughline"
