"""What a training run is asked to do; field names as NeMo AutoModel and PEFT use them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from throughline.contracts.config import StrictModel


class PeftSpec(StrictModel):
    """LoRA: `W + alpha / dim · B A` on the modules that match (Hu et al. 2021).

    `target_modules` are wildcards on a module's full path, `exclude_modules` the other way round: every linear layer
    but these; one of the two. `layers_to_transform` keeps the target modules of the layers from first to last alone:
    with the upper layers only, the backward pass ends above the lower ones. `use_dora` adds DoRA's magnitude vector.
    """

    dim: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("*_proj",)
    exclude_modules: tuple[str, ...] = ()
    layers_to_transform: tuple[int, int] | None = None
    use_dora: bool = False

    @model_validator(mode="after")
    def _one_way_to_choose(self) -> Self:
        if self.exclude_modules and self.target_modules:
            raise ValueError("target_modules and exclude_modules exclude one another: empty one of them")
        if self.layers_to_transform is not None and not self.target_modules:
            raise ValueError("layers_to_transform needs target_modules")
        return self


class TrainerSpec(StrictModel):
    """One supervised fine-tuning run.

    Attributes:
        max_tokens: Tokens of training records, counted each time that a record is seen; the run ends with the step
            that reaches it. 0 for no limit.
        max_steps: Optimiser steps; 0 for no limit. With neither limit it is one epoch.
        global_batch_size: Records in one optimiser step, over all ranks.
        local_batch_size: Records in one forward pass of one rank.
        max_tokens_per_batch: Most record tokens in one forward pass; long records make smaller batches.
        group_by_task: One forward pass has records of one task alone: they begin alike, and equal beginnings are
            computed once.
        lr: Peak learning rate; cosine decay to `min_lr_ratio` of it after `lr_warmup_steps`.
        betas: AdamW's decay rates of its two moments.
        weight_decay: AdamW's decoupled weight decay.
        max_grad_norm: Gradients are clipped to this global norm.
        val_every_steps: Steps between validations; 0 for one at the end.
        val_records: Records behind a validation loss; 0 for all.
        ckpt_every_steps: Steps between resumable checkpoints.
        probe_size: Development questions answered by greedy generation at each validation; 0 for none.
        probe_max_new_tokens: Length limit of those answers.
        torch_dtype: Type of the frozen weights and of the arithmetic; adapters are float32 always. `auto` is bfloat16
            where the processor or GPU computes in it, else float32.
        num_threads: CPU threads of torch; 0 takes every core.
        strategy: AutoModel's distributed strategy.
        seed: Seed of initialisation and data order.
    """

    max_tokens: int = Field(default=100_000, ge=0)
    max_steps: int = Field(default=0, ge=0)
    global_batch_size: int = Field(default=4, ge=1)
    local_batch_size: int = Field(default=4, ge=1)
    max_tokens_per_batch: int = Field(default=4096, ge=16)
    group_by_task: bool = True
    lr: float = Field(default=1e-3, gt=0)
    min_lr_ratio: float = Field(default=0.05, ge=0, le=1)
    lr_warmup_steps: int = Field(default=10, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    val_every_steps: int = Field(default=0, ge=0)
    val_records: int = Field(default=64, ge=0)
    ckpt_every_steps: int = Field(default=50, ge=1)
    probe_size: int = Field(default=0, ge=0)
    probe_max_new_tokens: int = Field(default=96, ge=1)
    torch_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    num_threads: int = Field(default=0, ge=0)
    strategy: Literal["ddp", "fsdp2"] = "ddp"
    seed: int = 0

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        if self.global_batch_size % self.local_batch_size:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is no multiple of local_batch_size {self.local_batch_size}"
            )
        return self


class TrackingSpec(StrictModel):
    """Weights & Biases; `offline` writes below the artifact and needs no account."""

    enabled: bool = True
    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "throughline"
