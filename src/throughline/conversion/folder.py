"""A Hugging Face folder taken over as it is, but for a chat template that would lose something."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.checkpoints import check_finite, check_shapes, check_tokenizer, check_types, read_tensors
from throughline.contracts.checkpoint import DecoderSizes, licence_files, read_checkpoint_config
from throughline.contracts.errors import CheckpointError
from throughline.contracts.quantization import Quantised
from throughline.conversion.chatml import TURN_END, TURN_START
from throughline.conversion.gguf import write_json
from throughline.conversion.result import UNSTATED, Conversion
from throughline.conversion.template_check import special_tokens_of
from throughline.conversion.templates import FILE_NAME, KEEP, ModelSide, Template, TemplateSpec, choose

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# What a checkpoint needs. Weights of other kinds, code and caches stay behind.
_SUFFIXES = {".safetensors", ".json", ".jinja", ".txt", ".model", ".md"}


def adopt_folder(source: Path, folder: Path, template: TemplateSpec, *, licence: str | None = None) -> Conversion:
    """Brings a Hugging Face folder in; weights are linked where the file system can, else copied.

    Args:
        source: The user's folder.
        folder: Where to write; exists and is empty.
        template: Which chat template it gets.
        licence: Licence terms; None takes what its model card says.

    Raises:
        CheckpointError: If the folder is incomplete, quantised, of another family, or its chat template would lose
            something.
    """
    config = read_checkpoint_config(source)
    _check_whole(source)
    tensors = read_tensors(source)
    check_types(tensors)
    check_tokenizer(source, config, DecoderSizes.of(config, where=str(source / "config.json")).vocab)
    check_shapes(config, tensors, source)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    chosen = choose(template, _model_side(source, tokenizer))
    check_finite(tensors)
    wanted = {path for path in source.iterdir() if path.is_file() and path.suffix in _SUFFIXES}
    for path in sorted(wanted.union(licence_files(source))):
        _bring(path, folder / path.name)
    if template.choice != KEEP:
        _put_template(folder, chosen, tokenizer)
    return Conversion(
        architecture=config["model_type"],
        parameters=sum(tensor.size for tensor in tensors.values()),
        vocab_size=config["vocab_size"],
        tokenizer=str(json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"]),
        template=chosen.origin,
        default_system=chosen.default_system,
        licence=licence or _card_licence(source) or UNSTATED,
    )


def _check_whole(source: Path) -> None:
    """Refuses quantised weights: nothing here computes in them, and what was not scored must stay marked so."""
    quantised = Quantised.read(source)
    if quantised is not None:
        raise CheckpointError(
            "base checkpoint is quantised",
            where=str(source),
            seen=quantised.algorithm,
            fix="give the one that it was made from, or serve this one as it is: "
            "python -m recipes.build engine=pytorch",
        )


def template_of(folder: Path) -> tuple[str, dict[str, str]]:
    """Returns a checkpoint's own chat template, "" without one, and the special tokens that templates see.

    The template is in a file of its own or, as older tools wrote it, within `tokenizer_config.json`.

    Raises:
        CheckpointError: If a file of it is no JSON.
    """
    config = _read_json(folder / "tokenizer_config.json")
    special = special_tokens_of(_read_json(folder / "special_tokens_map.json"), config)
    return _own_template(folder, config), special


def _model_side(source: Path, tokenizer: Tokenizer) -> ModelSide:
    own, special = template_of(source)
    return ModelSide(
        where=str(source),
        template=own,
        special_tokens=special,
        has_turn_tokens=None not in (tokenizer.token_to_id(TURN_START), tokenizer.token_to_id(TURN_END)),
        begin=special.get("bos_token", "") if "bos_token" in own else "",
    )


def _own_template(source: Path, config: dict[str, Any]) -> str:
    path = source / FILE_NAME
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else ""


def _put_template(folder: Path, chosen: Template, tokenizer: Tokenizer) -> None:
    (folder / FILE_NAME).write_text(chosen.text, encoding="utf-8")
    config = _read_json(folder / "tokenizer_config.json")
    if config.pop("chat_template", None) is not None:
        write_json(folder / "tokenizer_config.json", config)
    end = tokenizer.token_to_id(TURN_END)
    if end is None or TURN_END not in chosen.text:
        return
    path = folder / "generation_config.json"
    generation = _read_json(path)
    ends = generation.get("eos_token_id", _read_json(folder / "config.json").get("eos_token_id"))
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if end not in known:
        write_json(path, {**generation, "eos_token_id": [*known, end]})


def _bring(path: Path, target: Path) -> None:
    # Resolved, since a download cache holds links to where its files really are.
    real = path.resolve()
    if path.suffix == ".safetensors":
        try:
            os.link(real, target)
        except OSError:
            shutil.copyfile(real, target)
    else:
        shutil.copyfile(real, target)


def _card_licence(source: Path) -> str:
    import yaml

    path = source / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text.startswith("---\n"):
        return ""
    try:
        front = yaml.safe_load(text.split("---\n", 2)[1])
    except yaml.YAMLError:
        return ""
    return str(front.get("license") or "") if isinstance(front, dict) else ""


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON", where=str(path), seen=str(error), fix="copy it again"
        ) from None
    return values if isinstance(values, dict) else {}
