"""Runs NeMo AutoModel's recipe class from a plain config, with our progress and task metric."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TextIO

from throughline.contracts.errors import InternalError, MissingDependencyError
from throughline.ranges import range_of
from throughline.training.shim import cpu_shim

# step, of steps, metrics of the step
OnStep = Callable[[int, int, dict[str, float]], None]
# seconds that the steps to come will take, from a few of their passes timed
OnEstimate = Callable[[float], None]
# the model in training, to be scored: metrics to add to the validation's
Probe = Callable[[Any], dict[str, float]]

# Packs differ in their cost a token: short ones are slower. A handful is 1 or 2 % of a laptop's run.
_TIMED_PACKS = 4
# What a whole run takes over its passes alone: optimiser, checkpoints, validation, and steps that get slower
# (docs/log.md). Three runs of 430 steps took 1.22, 1.26 and 1.28 times what the timed passes said.
_WHOLE_RUN = 1.25


@dataclass
class TrainLog:
    """What a run measured, in order; losses are mean negative log-likelihoods in nats."""

    train: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Writes both curves as JSON, whole or not at all."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"train": self.train, "validation": self.validation}) + "\n")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text()))


def set_threads(threads: int) -> None:
    """Sets torch's CPU threads; 0 takes every core this process may use."""
    import torch

    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))


def run_recipe(
    config: dict[str, Any],
    *,
    on_step: OnStep,
    probe: Probe | None = None,
    log_path: Path | None = None,
    autocast: str = "float32",
    on_estimate: OnEstimate | None = None,
) -> TrainLog:
    """Runs AutoModel's `TrainFinetuneRecipeForNextTokenPrediction` to its end, resuming by itself.

    Args:
        config: AutoModel's own config as plain values (`_target_` names what to build).
        on_step: Called after every optimiser step.
        probe: Called with the model at each validation.
        log_path: Curves are written here, a JSON object a line, so that a resumed run keeps them whole; what
            AutoModel prints goes to `automodel.log` beside it. None writes neither.
        autocast: Type of the arithmetic; other than float32 it runs under torch's autocast, because adapters are
            float32.
        on_estimate: Called before the first step.

    Returns:
        The curves, those from before an interruption included.

    Raises:
        MissingDependencyError: If NeMo AutoModel is not installed.
    """
    _quiet_environment()
    try:
        import nemo_automodel  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "NeMo AutoModel cannot be imported", seen=str(error), fix="pip install 'throughline[train]'"
        ) from error
    with cpu_shim(), contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        # AutoModel prints its config and model; progress goes to standard error and stays visible.
        log = log_path.with_name("automodel.log") if log_path is not None else Path(os.devnull)
        output = stack.enter_context(log.open("a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(output))
        recipe = _recipe_class(on_step, probe, log_path, autocast)
        from nemo_automodel.components.config.loader import ConfigNode

        run = recipe(ConfigNode(config))
        run.setup()
        if log_path is not None:
            run.log = stack.enter_context(log_path.open("a", encoding="utf-8"))
        if on_estimate is not None:
            on_estimate(run.estimate())
        run.run_train_validation_loop()
        run.validate_last_step()
        _finish_wandb()
        _await_others()
        curves: TrainLog = run.curves
        return curves


def _quiet_environment() -> None:
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # AutoModel prints its whole config at INFO; 30 is logging.WARNING.
    os.environ.setdefault("LOGGING_LEVEL", "30")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # AutoModel initialises torch.distributed even for one process.
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0")


def _recipe_class(on_step: OnStep, probe: Probe | None, log_path: Path | None, autocast: str) -> Any:
    import torch
    from nemo_automodel.recipes.llm.train_ft import TrainFinetuneRecipeForNextTokenPrediction

    class Recipe(TrainFinetuneRecipeForNextTokenPrediction):  # type: ignore[misc]
        """AutoModel's recipe with curves kept in memory and our progress in place of its bar."""

        def setup(self) -> None:
            super().setup()
            self.curves = _read_log(log_path, self.step_scheduler.step)
            self.log: TextIO | None = None

        def estimate(self) -> float:
            """Times forward and backward of a few packs to come, after one to warm up; weights stay as they are."""
            dataset, done = self.dataloader.dataset, self.step_scheduler.step * self.step_scheduler.grad_acc_steps
            first = min(done, max(0, len(dataset) - 1 - _TIMED_PACKS))
            seconds, tokens = 0.0, 0
            with torch.random.fork_rng(devices=[]):
                for index in range(first, min(first + 1 + _TIMED_PACKS, len(dataset))):
                    batch = dataset[index]
                    size, labels = batch["input_ids"].numel(), batch["labels"].numel()
                    started = time.perf_counter()
                    self._forward_backward_step(0, batch, loss_buffer=[], num_label_tokens=labels, num_batches=1)
                    if torch.cuda.is_available():
                        # A GPU is still at work when the call returns.
                        torch.cuda.synchronize()
                    if index > first or len(dataset) == 1:
                        seconds += time.perf_counter() - started
                        tokens += size
            for optimizer in self.optimizer:
                optimizer.zero_grad()
            left = sum(int(dataset[index]["input_ids"].numel()) for index in range(done, len(dataset)))
            return _WHOLE_RUN * seconds / tokens * left

        def _make_progress_bar(self, total: int | None = None, initial: int = 0) -> None:
            return None

        def _forward_backward_step(self, *arguments: Any, **keywords: Any) -> None:
            dtype = getattr(torch, autocast)
            kind = "cuda" if torch.cuda.is_available() else "cpu"
            autocasts = torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)
            with range_of("train.forward_backward"), autocasts:
                super()._forward_backward_step(*arguments, **keywords)

        def log_train_metrics(self, log_data: Any) -> None:
            super().log_train_metrics(log_data)
            metrics = {key: float(value) for key, value in log_data.metrics.items() if _is_number(value)}
            self._keep("train", {"step": float(log_data.step), **metrics})
            on_step(log_data.step + 1, self.step_scheduler.max_steps, metrics)

        def log_val_metrics(self, val_name: str, log_data: Any, metric_logger: Any = None) -> None:
            if probe is not None:
                if len(self.model_parts) != 1:
                    raise InternalError("the task probe needs an unsplit model", seen=len(self.model_parts))
                log_data.metrics.update(probe(self.model_parts[0]))
            super().log_val_metrics(val_name, log_data, metric_logger)
            metrics = {key: float(value) for key, value in log_data.metrics.items() if _is_number(value)}
            # After the last step AutoModel's counter stands one further.
            step = min(log_data.step, self.step_scheduler.max_steps - 1)
            self._keep("validation", {"step": float(step), **metrics})

        def validate_last_step(self) -> None:
            """Validates once more if the run ended at a step that AutoModel does not validate, or was killed in it."""
            last = float(self.step_scheduler.max_steps - 1)
            ended = bool(self.curves.train) and self.curves.train[-1]["step"] == last
            if ended and not (self.curves.validation and self.curves.validation[-1]["step"] == last):
                for name, loader in self.val_dataloaders.items():
                    self.log_val_metrics(name, self._run_validation_epoch(loader), self.metric_logger_valid[name])

        def _keep(self, curve: str, row: dict[str, float]) -> None:
            getattr(self.curves, curve).append(row)
            if self.log is not None:
                self.log.write(json.dumps({"curve": curve, **row}) + "\n")
                self.log.flush()

    return Recipe


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "numel", lambda: 0)() == 1)


def _read_log(path: Path | None, before_step: int) -> TrainLog:
    """Reads the rows of steps that a checkpoint knows, and leaves only them in the file."""
    log = TrainLog()
    if path is None or not path.is_file():
        return log
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            # A kill in the middle of a line; its step is run again.
            continue
        if row["step"] < before_step:
            kept.append(line)
            getattr(log, row.pop("curve")).append(row)
    partial = path.with_suffix(".partial")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.replace(path)
    return log


def _await_others() -> None:
    """Waits until every rank has written its part of the last checkpoint."""
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()


def _finish_wandb() -> None:
    import wandb

    if wandb.run is not None:
        wandb.finish()
