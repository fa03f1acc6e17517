"""Pre-trains a small Llama from plain text through NeMo AutoModel."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from throughline.contracts.errors import InternalError
from throughline.contracts.training import PretrainSpec
from throughline.training.automodel import NANOGPT_MAGIC, OnStep, TrainLog, run_recipe, set_threads
from throughline.training.induction import induction_init
from throughline.training.merge import TOKENIZER_FILES
from throughline.training.shim import default_dtype


def write_tokens(documents: Iterable[str], tokenizer_dir: Path, path: Path, tokens: int) -> int:
    """Tokenises documents into one NanoGPT shard: int32[256] header, then uint16 ids.

    Args:
        documents: Text; each becomes `bos … eos`.
        tokenizer_dir: Folder with `tokenizer.json`; vocabulary below 65,536.
        path: The `.bin` file, written to a sibling first.
        tokens: Stop once that many tokens are written.

    Returns:
        Tokens written.
    """
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    bos, eos = tokenizer.token_to_id("<|bos|>"), tokenizer.token_to_id("<|end|>")
    source = iter(documents)
    pieces: list[Any] = []
    count = 0
    while count < tokens:
        texts = list(itertools.islice(source, 2000))
        if not texts:
            break
        for encoding in tokenizer.encode_batch(texts, add_special_tokens=False):
            pieces.append(np.asarray([bos, *encoding.ids, eos], dtype=np.uint16))
            count += len(pieces[-1])
    header = np.zeros(256, dtype=np.int32)
    header[:4] = (NANOGPT_MAGIC, 1, count, 2)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as handle:
        handle.write(header.tobytes())
        handle.write(np.concatenate(pieces).tobytes())
    partial.replace(path)
    return count


def pretrain(
    documents: Iterable[str], tokenizer_dir: Path, out: Path, spec: PretrainSpec, *, on_step: OnStep
) -> TrainLog:
    """Trains from scratch and writes a Hugging Face folder in bfloat16 with its tokenizer.

    Args:
        documents: Text, as much as `max_steps × global_batch_size × seq_len` tokens need.
        tokenizer_dir: Folder of the tokenizer.
        out: Folder to write; `work/` below it holds resumable checkpoints meanwhile.
        spec: The model and the optimisation.
        on_step: Called after each step.
    """
    set_threads(spec.num_threads)
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    shard = work / "tokens_000.bin"
    if not shard.is_file():
        write_tokens(documents, tokenizer_dir, shard, tokens_needed(spec))
    write_initial(work / "initial", tokenizer_dir, spec)
    curves = run_recipe(automodel_config(work, spec), on_step=on_step, log_path=work / "curves.json")
    _keep_checkpoint(work, tokenizer_dir, out)
    curves.write(out / "training.json")
    shutil.rmtree(work)
    return curves


def write_initial(folder: Path, tokenizer_dir: Path, spec: PretrainSpec) -> None:
    """Writes the untrained model as a Hugging Face folder, the same for the same spec.

    Raises:
        ConfigError: If its shape has no room for the initialisation that the spec asks for.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig
    from transformers.models.llama import modeling_llama

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    torch.manual_seed(spec.seed)
    make: Any = modeling_llama.LlamaForCausalLM
    model = make(
        LlamaConfig(
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_hidden_layers=spec.num_hidden_layers,
            num_attention_heads=spec.num_attention_heads,
            num_key_value_heads=spec.num_key_value_heads,
            max_position_embeddings=spec.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
            vocab_size=tokenizer.get_vocab_size(),
            tie_word_embeddings=True,
            pad_token_id=tokenizer.token_to_id("<|pad|>"),
            bos_token_id=tokenizer.token_to_id("<|bos|>"),
            eos_token_id=tokenizer.token_to_id("<|end|>"),
        )
    ).float()
    if spec.initialisation == "induction":
        induction_init(model, spec.seed)
    model.save_pretrained(folder, safe_serialization=True)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            shutil.copy2(tokenizer_dir / name, folder / name)


def tokens_needed(spec: PretrainSpec) -> int:
    """Returns the tokens of all steps with 2 % to spare, as packing cuts windows."""
    return int(spec.max_steps * spec.global_batch_size * spec.seq_len * 1.02) + 10_000


def automodel_config(work: Path, spec: PretrainSpec) -> dict[str, Any]:
    """Renders the spec as NeMo AutoModel's config."""
    return {
        "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
        "seed": spec.seed,
        "step_scheduler": {
            "global_batch_size": spec.global_batch_size,
            "local_batch_size": spec.global_batch_size,
            "ckpt_every_steps": min(spec.ckpt_every_steps, spec.max_steps),
            "num_epochs": 1,
            "max_steps": spec.max_steps,
        },
        "dist_env": {"backend": "gloo", "timeout_minutes": 10},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_pretrained",
            "pretrained_model_name_or_path": str(work / "initial"),
            "force_hf": True,
            "torch_dtype": spec.torch_dtype if spec.torch_dtype != "auto" else default_dtype(),
            "attn_implementation": "sdpa",
        },
        "dataset": {
            "_target_": "nemo_automodel.components.datasets.llm.nanogpt_dataset.NanogptDataset",
            "file_pattern": str(work / "tokens_*.bin"),
            "seq_len": spec.seq_len,
            "shuffle_files": False,
            "align_to_bos": False,
        },
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            "shuffle": False,
            "collate_fn": "nemo_automodel.components.datasets.utils.default_collater",
        },
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "lr": spec.lr,
            "betas": [0.9, 0.95],
            "weight_decay": spec.weight_decay,
            "fused": True,
        },
        "lr_scheduler": {
            "lr_decay_style": "cosine",
            "lr_warmup_steps": min(spec.lr_warmup_steps, max(0, spec.max_steps - 1)),
            "min_lr": spec.lr * spec.min_lr_ratio,
        },
        "distributed": {"strategy": "ddp", "tp_size": 1, "cp_size": 1},
        "checkpoint": {
            "enabled": True,
            "checkpoint_dir": str(work / "checkpoints"),
            "model_save_format": "safetensors",
            "save_consolidated": True,
        },
    }


def _keep_checkpoint(work: Path, tokenizer_dir: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    found = sorted(work.glob("checkpoints/epoch_*_step_*"), key=lambda path: int(path.name.rsplit("_", 1)[1]))
    if not found:
        raise InternalError("AutoModel left no checkpoint", where=str(work))
    model = AutoModelForCausalLM.from_pretrained(found[-1] / "model" / "consolidated", dtype=torch.bfloat16)
    model.save_pretrained(out, safe_serialization=True)
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).is_file():
            shutil.copy2(tokenizer_dir / name, out / name)
