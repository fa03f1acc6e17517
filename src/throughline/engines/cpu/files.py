"""What a build reads of a checkpoint folder and writes of an engine directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from throughline import resources
from throughline.checkpoints import EMBEDDING, HEAD, check_shapes, check_tokenizer, read_json, weight_files
from throughline.contracts.checkpoint import licence_files
from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import EngineError
from throughline.contracts.storage import full
from throughline.engines.cpu.guided import save_detokenizer
from throughline.engines.cpu.model_config import DecoderConfig, eos_token_ids, read_decoder_config
from throughline.engines.cpu.openvino_env import openvino
from throughline.engines.cpu.pooling import check_end_token, read_embedding_info
from throughline.engines.cpu.quantize import check_group_size
from throughline.engines.safetensors_reader import SafetensorsFolder
from throughline.resources import Resources
from throughline.vocabulary import Vocabulary

MODEL_FILE = "openvino_model.xml"
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_CONTROL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_PACKAGES = ("openvino", "openvino-genai", "nncf", "numpy", "tokenizers", "throughline")


class Checkpoint:
    """A checkpoint folder, read and checked as far as headers and configs go.

    Args:
        folder: In Hugging Face's layout.
        spec: What is built of it.

    Attributes:
        config: The decoder's facts.
        weights: The tensors.
        prefix: What names of tensors begin with.
        embedding: What the engine's vectors will be; None for one that makes tokens.
        parameters: Weights of the model, tied ones counted once.

    Raises:
        EngineError: If it is beyond the back end.
        CheckpointError: If it is missing or damaged.
    """

    def __init__(self, folder: Path, spec: EngineSpec) -> None:
        self.folder = folder
        if not folder.is_dir():
            weight_files(folder)
        self.values = read_json(folder / "config.json")
        self.config: DecoderConfig = read_decoder_config(self.values, spec.max_seq_len)
        if spec.precision == "int4":
            check_group_size(spec.group_size, self.config)
        self.weights = SafetensorsFolder(folder)
        entries = self.weights.entries
        self.prefix = "model."
        self.embedding: EmbeddingInfo | None = None
        if spec.embedding is not None:
            self.embedding = read_embedding_info(folder, self.values, spec.embedding, self.config.hidden_size)
            # One that was saved without a head has the stack's own names, as sentence-transformers' checkpoints do.
            self.prefix = "model." if EMBEDDING in entries else ""
            entries = {f"model.{name.removeprefix(self.prefix)}": entries[name] for name in entries if name != HEAD}
            check_shapes({**self.values, "tie_word_embeddings": True}, entries, folder)
            check_end_token(folder)
        else:
            check_shapes(self.values, entries, folder)
        check_tokenizer(folder, self.values, self.config.vocab_size)
        self.parameters = sum(entry.size for entry in entries.values())
        generation = folder / "generation_config.json"
        self.generation: dict[str, Any] = read_json(generation) if generation.is_file() else {}
        self.eos = eos_token_ids(self.values, self.generation)
        if spec.embedding is None:
            # Read for its errors: an engine whose tokens have no text should fail before the work is done.
            Vocabulary.from_tokenizer(folder / "tokenizer.json")

    def info(self, name: str | None, spec: EngineSpec) -> EngineInfo:
        """What `engine.json` will say; the size of the weights is not known yet."""
        config = self.config
        return EngineInfo(
            name=name or f"{self.folder.name}-{spec.precision}",
            spec=spec,
            architecture=config.architecture,
            precision=spec.precision,
            vocab_size=config.vocab_size,
            eos_token_ids=self.eos,
            control_token_ids=tuple(sorted({*self.eos, *_control_ids(self.folder)})),
            max_position_embeddings=config.max_position_embeddings,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            hidden_size=config.hidden_size,
            parameters=self.parameters,
            checkpoint_digest=self.weights.digest(),
            weight_bytes=0,
            versions=_versions(),
            embedding=self.embedding,
        )

    def copy_files(self, out_dir: Path) -> None:
        """Copies configs, tokenizer and terms."""
        known = [path for name in _COPIED if (path := self.folder / name).is_file()]
        for path in (*known, *licence_files(self.folder)):
            shutil.copyfile(path, out_dir / path.name)
        generation = self.generation | {"eos_token_id": list(self.eos)}
        (out_dir / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def save(model: Any, checkpoint: Checkpoint, info: EngineInfo, folder: Path, need: Resources) -> EngineInfo:
    """Writes the graph and what belongs to it; returns `info` with the size of the weights.

    Raises:
        EngineError: If OpenVINO cannot write it.
        StorageError: If the disk is full.
    """
    with _openvino_writes(folder, need):
        openvino().save_model(model, str(folder / MODEL_FILE), compress_to_fp16=False)
    checkpoint.copy_files(folder)
    if info.embedding is None:
        vocabulary = Vocabulary.from_tokenizer(folder / "tokenizer.json", info.control_token_ids)
        with _openvino_writes(folder, need):
            save_detokenizer(vocabulary, info.control_token_ids, folder)
    return info.model_copy(update={"weight_bytes": (folder / MODEL_FILE).with_suffix(".bin").stat().st_size})


@contextmanager
def _openvino_writes(folder: Path, need: Resources) -> Iterator[None]:
    """OpenVINO says that it could not write and not why, and may have removed what it wrote."""
    try:
        yield
    except RuntimeError as error:
        free = resources.available(folder).disk
        written = sum(path.stat().st_size for path in folder.iterdir())
        if "iostream" in str(error) and free + written < need.disk:
            raise full(folder.parent, f"{free} bytes free, about {need.disk - written} needed") from error
        raise EngineError(
            "OpenVINO cannot save the engine",
            where=str(folder.parent),
            seen=str(error).strip()[:300],
            fix="see that the disk takes files of this size (quota, ulimit -f), then build it again",
        ) from error


def _control_ids(folder: Path) -> Iterator[int]:
    """Ids of the tokens that `tokenizer_config.json` names as bos, eos, pad and unk."""
    path = folder / "tokenizer_config.json"
    names = read_json(path) if path.is_file() else {}
    tokenizer = read_json(folder / "tokenizer.json")
    added = {item["content"]: int(item["id"]) for item in tokenizer.get("added_tokens") or ()}
    for key in _CONTROL_TOKENS:
        value = names.get(key)
        content = value.get("content") if isinstance(value, Mapping) else value
        if content in added:
            yield added[content]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
