"""Writes the `llmapi` repository that stands for one of the engine flow, and says what became of everything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from throughline.contracts.errors import DeployError
from throughline.contracts.migration import Move
from throughline.documents import BrokenFile, Document, ModelConfigFile
from throughline.migration import contract, settings

MODEL = "tensorrt_llm"
Tensor = tuple[str, str, int]
_AROUND = ("preprocessing", "postprocessing", "tensorrt_llm_bls", "ensemble")
_HEADER = (
    "# Written by `python -m recipes.migrate` from {source}.\n"
    "# 1/model.py and 1/helpers.py come from NVIDIA's container: /app/all_models/llmapi/tensorrt_llm/1\n"
)
_INPUT = 'input {{ name: "{name}" data_type: {kind} dims: [ {size} ] optional: true }}\n'


@dataclass(frozen=True)
class Migration:
    """A repository to write.

    Attributes:
        options: `model.yaml`.
        decoupled: Whether the model streams.
        parameters: Of `config.pbtxt`.
        instances: Instances of the model.
        moves: What became of every setting and tensor.
    """

    options: dict[str, Any]
    decoupled: bool
    parameters: dict[str, str]
    instances: int
    moves: tuple[Move, ...]


def migrate(repository: Path, checkpoint: str, engine_dir: Path | None = None) -> Migration:
    """Reads a repository in the `inflight_batcher_llm` layout.

    Args:
        repository: Its folder.
        checkpoint: What `LLM()` is to load: a folder on the serving machine, or a name.
        engine_dir: The engine's folder, by default what `gpt_model_path` says.

    Raises:
        DeployError: If there is no such model, a file cannot be read, or the engine's `config.json` is not there.
    """
    path = repository / MODEL / "config.pbtxt"
    if not path.is_file():
        raise DeployError(
            "no model to migrate",
            where=str(repository),
            seen=f"no {MODEL}/config.pbtxt",
            fix="give a repository in the inflight_batcher_llm layout",
        )
    try:
        model = ModelConfigFile.read(path)
        folder = engine_dir or Path(model.parameter("gpt_model_path") or "")
        engine = _engine(folder)
    except BrokenFile as broken:
        raise DeployError(
            "file cannot be read", where=f"{broken.path}:{broken.line}", seen=broken.seen, fix="correct it"
        ) from None
    decoupled = model.config.model_transaction_policy.decoupled
    options: dict[str, Any] = {"model": checkpoint, "backend": "pytorch"}
    moves = [*settings.of_engine(engine, options), *settings.of_model(model, options)]
    options["triton_config"] = options.get("triton_config", {}) | {"max_batch_size": 0, "decoupled": decoupled}
    moves += _triton(model, decoupled)
    moves += [move for name in _AROUND for move in _around(repository / name)]
    devices = model.parameter("gpu_device_ids")
    return Migration(
        options=options,
        decoupled=decoupled,
        parameters={"gpu_device_ids": devices} if devices else {},
        instances=sum(max(1, group.count) for group in model.config.instance_group) or 1,
        moves=(*moves, *contract.MOVES),
    )


def _engine(folder: Path) -> Document:
    file = folder / "config.json"
    if not file.is_file():
        raise DeployError(
            "the engine's config.json is needed: it has the sizes that LLM() decides at its start",
            where="gpt_model_path",
            seen=f"no {file}",
            fix="give the engine's folder: engine_dir=…",
        )
    return Document.read(file)


def _triton(model: ModelConfigFile, decoupled: bool) -> list[Move]:
    batch = model.config.max_batch_size
    moves = [
        settings.setting("decoupled", str(decoupled).lower(), "mapped", "triton_config.decoupled, config.pbtxt"),
        settings.setting(
            "max_batch_size (Triton)", batch, "changed", "triton_config.max_batch_size", "0: LLM() batches by itself"
        ),
    ]
    if model.config.HasField("dynamic_batching"):
        size = model.config.dynamic_batching.default_queue_policy.max_queue_size
        note = "Triton does not queue for this model; limit requests in front of it, as our gateway does"
        moves.append(settings.setting("max_queue_size", size, "lost", note=note))
    return moves


def _around(folder: Path) -> list[Move]:
    """The models before and after the engine, which `LLM()` does by itself."""
    path = folder / "config.pbtxt"
    if not path.is_file():
        return []
    note = "one model does it all: clients call tensorrt_llm, by the names of its contract"
    moves = [settings.setting(f"model {folder.name}", "", "changed", MODEL, note)]
    file = ModelConfigFile.read(path)
    for name, what in (
        ("tokenizer_dir", "the checkpoint's tokenizer is taken"),
        ("add_special_tokens", "LLM() adds what the tokenizer says"),
        ("skip_special_tokens", "special tokens are left out"),
        ("accumulate_tokens", "LLM() detokenises what it has; each message has the new text"),
    ):
        value = file.parameter(name)
        if value is not None:
            moves.append(settings.setting(f"{folder.name}.{name}", value, "changed", "(LLM())", what))
    return moves


def write(
    migration: Migration, out_dir: Path, source: Path, *, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> list[Path]:
    """Writes the repository.

    Args:
        migration: What to write.
        out_dir: A folder that is empty or not there.
        source: The old repository, for the header.
        inputs: Tensors of the `llmapi` contract: name, type, size.
        outputs: The same of its answers.

    Returns:
        The files.

    Raises:
        DeployError: If the folder is not empty.
    """
    if out_dir.exists() and any(out_dir.iterdir()):
        raise DeployError(
            "the new repository's folder is not empty", where=str(out_dir), seen="files", fix="give another: out=…"
        )
    folder = out_dir / MODEL / "1"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'name: "{MODEL}"', 'backend: "python"', "max_batch_size: 0"]
    lines.append(f"model_transaction_policy {{ decoupled: {str(migration.decoupled).lower()} }}")
    lines.append(f"instance_group [ {{ count: {migration.instances} kind: KIND_CPU }} ]")
    text = _HEADER.format(source=source) + "\n".join(lines) + "\n"
    text += "".join(_INPUT.format(name=name, kind=kind, size=size) for name, kind, size in inputs)
    for name, kind, size in outputs:
        text += f'output {{ name: "{name}" data_type: {kind} dims: [ {size} ] }}\n'
    for key, value in migration.parameters.items():
        text += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    config, options = out_dir / MODEL / "config.pbtxt", folder / "model.yaml"
    config.write_text(text, encoding="utf-8")
    options.write_text(yaml.safe_dump(migration.options, sort_keys=False), encoding="utf-8")
    return [config, options]
