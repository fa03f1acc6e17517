"""What is handed to AutoModel, and what a bad base checkpoint gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from throughline.contracts.checkpoint import read_checkpoint_config
from throughline.contracts.config import parse
from throughline.contracts.errors import CheckpointError, ConfigError, DataError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training import sft
from throughline.training.dataset import PackedDataset, TokenisedRecords


def write(path: Path, rows: list[list[int]]) -> None:
    labels = [[-100, *row[1:]] for row in rows]
    pq.write_table(pa.table({"input_ids": rows, "labels": labels}), path)


def test_items_are_packs_in_the_order_of_training(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write(path, [[index, index, index] for index in range(10)])
    rows = PackedDataset(
        str(path), batch_size=4, max_tokens_per_batch=100, group_by_task=False, max_steps=5, multiple=2, seed=3
    )
    assert len(rows) == 4
    seen = [row["input_ids"][0].tolist() for row in (rows[index] for index in range(3))]
    assert [len(ids) for ids in seen] == [12, 12, 6]
    assert sorted(token for ids in seen for token in ids) == sorted(list(range(10)) * 3)
    assert rows[0]["labels"].shape[1] == rows[0]["logits_to_keep"].numel() == 8
    assert list(tmp_path.iterdir()) == [path]
    assert len(PackedDataset(str(path), batch_size=4, max_tokens_per_batch=100, limit=5)) == 2


def test_a_dataset_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"input_ids": [[1, 2]]}), path)
    with pytest.raises(DataError, match=r"lacks columns.*labels"):
        TokenisedRecords(path)
    with pytest.raises(DataError, match="is missing"):
        TokenisedRecords(tmp_path / "none.parquet")
    pq.write_table(
        pa.table({"input_ids": pa.array([], pa.list_(pa.int32())), "labels": pa.array([], pa.list_(pa.int32()))}), path
    )
    with pytest.raises(DataError, match="is empty"):
        TokenisedRecords(path)


def test_modules_are_chosen_one_way(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude one another"):
        parse(PeftSpec, {"target_modules": ["*_proj"], "exclude_modules": ["*lm_head*"]}, where="peft")
    with pytest.raises(ConfigError, match="needs target_modules"):
        parse(PeftSpec, {"target_modules": [], "layers_to_transform": [1, 2]}, where="peft")


def test_a_step_that_is_no_whole_number_of_batches_is_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple of local_batch_size 3"):
        parse(TrainerSpec, {"global_batch_size": 8, "local_batch_size": 3}, where="trainer")


def test_the_lora_config_says_what_the_specs_say(tmp_path: Path, tiny_checkpoint: Path) -> None:
    write(tmp_path / "train.parquet", [[index, index, index] for index in range(40)])
    trainer = TrainerSpec(
        max_steps=7,
        max_tokens=0,
        max_grad_norm=0.5,
        lr_warmup_steps=50,
        lr=1e-3,
        min_lr_ratio=0.1,
        torch_dtype="float32",
    )
    peft = PeftSpec(dim=4, alpha=8, layers_to_transform=(1, 2))
    config = sft.automodel_config(
        tmp_path, tiny_checkpoint, tmp_path / "work", peft=peft, trainer=trainer, tracking=TrackingSpec(enabled=False)
    )
    assert config["peft"]["dim"] == 4
    assert config["peft"]["target_modules"] == ["*.layers.1.*_proj", "*.layers.2.*_proj"]
    # AutoModel's scheduler refuses a warm-up as long as the run.
    assert config["lr_scheduler"]["lr_warmup_steps"] == 6
    assert config["lr_scheduler"]["min_lr"] == pytest.approx(1e-4)
    assert config["step_scheduler"]["ckpt_every_steps"] == 7
    assert config["clip_grad_norm"] == {"max_norm": 0.5}
    assert config["model"]["torch_dtype"] == "float32"
    assert config["peft"]["lora_dtype"] == "float32"
    assert "wandb" not in config
    json.dumps(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no folder", r"missing.*no config\.json"),
        ("family", r"family is not supported.*'gpt2'"),
        ("weights", "no safetensors weights"),
        ("tokenizer", r"no tokenizer\.json"),
    ],
)
def test_a_base_that_cannot_be_used_is_named(tmp_path: Path, change: str, message: str) -> None:
    folder = tmp_path / "base"
    if change != "no folder":
        folder.mkdir()
        family = "gpt2" if change == "family" else "llama"
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if change == "tokenizer":
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint_config(folder)


# A value other than the default of every setting that reaches AutoModel.
TRAINER_CHANGES: dict[str, Any] = {
    "max_tokens": 100,
    "max_steps": 3,
    "global_batch_size": 8,
    "local_batch_size": 2,
    "max_tokens_per_batch": 17,
    "group_by_task": False,
    "lr": 5e-4,
    "min_lr_ratio": 0.5,
    "lr_warmup_steps": 3,
    "betas": (0.8, 0.95),
    "weight_decay": 0.1,
    "max_grad_norm": 0.3,
    "val_every_steps": 2,
    "val_records": 5,
    "ckpt_every_steps": 2,
    "torch_dtype": "float64",
    "strategy": "fsdp2",
    "seed": 7,
}
# What the recipe and torch itself take.
TRAINER_ELSEWHERE = {"probe_size", "probe_max_new_tokens", "num_threads"}
PEFT_CHANGES: dict[str, Any] = {
    "dim": 3,
    "alpha": 5,
    "dropout": 0.25,
    "target_modules": ("*q_proj",),
    "exclude_modules": ("*lm_head*",),
    "layers_to_transform": (0, 1),
    "use_dora": True,
}


def test_every_setting_is_looked_at() -> None:
    assert set(TRAINER_CHANGES) | TRAINER_ELSEWHERE == set(TrainerSpec.model_fields)
    assert set(PEFT_CHANGES) == set(PeftSpec.model_fields)


@pytest.mark.parametrize("name", [*TRAINER_CHANGES, *PEFT_CHANGES])
def test_every_setting_reaches_automodel(tmp_path: Path, tiny_checkpoint: Path, name: str) -> None:
    write(tmp_path / "train.parquet", [[index, index, index] for index in range(80)])

    def rendered(trainer: TrainerSpec, peft: PeftSpec) -> dict[str, Any]:
        return sft.automodel_config(
            tmp_path, tiny_checkpoint, tmp_path / "work", peft=peft, trainer=trainer, tracking=TrackingSpec()
        )

    trainer, peft = TrainerSpec(max_tokens=0, torch_dtype="float32"), PeftSpec()
    if name in TRAINER_CHANGES:
        changed = rendered(trainer.model_copy(update={name: TRAINER_CHANGES[name]}), peft)
    else:
        changed = rendered(trainer, peft.model_copy(update={name: PEFT_CHANGES[name]}))
    assert changed != rendered(trainer, peft)
