"""What is handed to AutoModel, and what a bad base checkpoint gets."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from throughline.contracts.errors import CheckpointError, DataError
from throughline.contracts.training import PeftSpec, TrackingSpec, TrainerSpec
from throughline.training import sft
from throughline.training.dataset import IGNORE_INDEX, TokenisedDataset


def test_labels_are_shifted_because_the_loss_does_not_shift(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    ids, labels = [1, 5, 6, 7, 2], [IGNORE_INDEX, IGNORE_INDEX, 6, 7, 2]
    pq.write_table(pa.table({"input_ids": [ids, ids], "labels": [labels, labels]}), path)
    rows = TokenisedDataset(str(path), pad_token_id=0)
    item = rows[1]
    assert len(rows) == 2
    assert item["input_ids"] == [1, 5, 6, 7]
    assert item["labels"] == [IGNORE_INDEX, 6, 7, 2]
    assert item["___PAD_TOKEN_IDS___"] == {"input_ids": 0, "labels": IGNORE_INDEX, "attention_mask": 0}
    assert list(tmp_path.iterdir()) == [path]


def test_a_dataset_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"input_ids": [[1, 2]]}), path)
    with pytest.raises(DataError, match="lacks columns"):
        TokenisedDataset(str(path), pad_token_id=0)
    with pytest.raises(DataError, match="is missing"):
        TokenisedDataset(str(tmp_path / "none.parquet"), pad_token_id=0)


def test_the_lora_config_says_what_the_specs_say(tmp_path: Path, tiny_checkpoint: Path) -> None:
    trainer = TrainerSpec(max_steps=7, lr_warmup_steps=50, lr=1e-3, min_lr_ratio=0.1, torch_dtype="float32")
    peft = PeftSpec(dim=4, alpha=8, exclude_modules=("*lm_head*",))
    config = sft.automodel_config(
        tmp_path, tiny_checkpoint, tmp_path / "work", peft=peft, trainer=trainer, tracking=TrackingSpec(enabled=False)
    )
    assert config["peft"]["dim"] == 4
    assert config["peft"]["exclude_modules"] == ["*lm_head*"]
    # AutoModel's scheduler refuses a warm-up as long as the run.
    assert config["lr_scheduler"]["lr_warmup_steps"] == 6
    assert config["lr_scheduler"]["min_lr"] == pytest.approx(1e-4)
    assert config["step_scheduler"]["ckpt_every_steps"] == 7
    assert config["model"]["torch_dtype"] == "float32"
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
        sft.check_base(folder)
