"""Rules for a Hugging Face or ModelOpt checkpoint, from its headers and JSON files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from throughline.contracts.linting import Finding, Rule
from throughline.contracts.quantization import NOT_SCORED, REPORT_FILE
from throughline.documents import BrokenFile, Document
from throughline.linting.engine import Target, check_architecture

SHARDS = Rule("shards", "error", "every shard of the index is there, whole, and has the tensors that the index says")
VOCABULARY = Rule("vocabulary", "error", "the tokenizer's ids are within the embedding")
QUANT_CONFIG = Rule("quant-config", "error", "hf_quant_config.json and quantization_config say the same")
QUANT_FLOW = Rule("quant-flow", "error", "INT8 SmoothQuant needs the engine flow: the PyTorch back end does not run it")
UNSCORED = Rule("unscored", "error", "a checkpoint that was quantised here was scored before it is served")
CHAT_TEMPLATE = Rule("chat-template", "warning", "the tokenizer has a chat template")
RULES = (SHARDS, VOCABULARY, QUANT_CONFIG, QUANT_FLOW, UNSCORED, CHAT_TEMPLATE)
_INDEX = "model.safetensors.index.json"


def check_checkpoint(config: Document, target: Target) -> Iterator[Finding]:
    """Yields what contradicts in a checkpoint folder; weights are not read."""
    folder = config.path.parent
    names: dict[str, Any] = {}
    yield from _shards(folder, config, names)
    yield from _vocabulary(folder, config, names)
    yield from _quantisation(folder, config, target)
    yield from check_scored(folder)
    if not (folder / "chat_template.jinja").is_file() and (folder / "tokenizer_config.json").is_file():
        tokenizer = Document.read(folder / "tokenizer_config.json")
        if not tokenizer.get("chat_template"):
            cure = "add chat_template.jinja, or serve plain completions alone"
            yield Finding(CHAT_TEMPLATE, tokenizer.path, 1, "chat_template", "none", cure)


def check_scored(folder: Path) -> Iterator[Finding]:
    """Yields that a quantisation's report says `not scored`; nothing without a report."""
    file = folder / REPORT_FILE
    if not file.is_file():
        return
    report = Document.read(file)
    if report.get("status") == NOT_SCORED:
        cure = "quantise where the format can be computed: `python -m recipes.quantize device=cuda`"
        yield Finding(UNSCORED, file, report.line("status"), "status", NOT_SCORED, cure)


def _shards(folder: Path, config: Document, names: dict[str, Any]) -> Iterator[Finding]:
    """Fills `names` with the shapes of all tensors by name."""
    from safetensors import SafetensorError, safe_open

    index = Document.read(folder / _INDEX) if (folder / _INDEX).is_file() else None
    wanted: dict[str, set[str]] = {}
    places = index.get("weight_map") if index else {}
    if index and (not isinstance(places, Mapping) or not all(isinstance(shard, str) for shard in places.values())):
        raise BrokenFile(index.path, index.line("weight_map"), "weight_map does not map tensors to files")
    for tensor, shard in places.items():
        wanted.setdefault(shard, set()).add(tensor)
    files = sorted(wanted) if wanted else sorted(path.name for path in folder.glob("*.safetensors"))
    place = index or config
    if not files:
        yield Finding(
            SHARDS, config.path, 1, "*.safetensors", "no weights in safetensors", "copy them, or convert them"
        )
    for name in files:
        path = folder / name
        if not path.is_file():
            line = place.line("weight_map", min(wanted[name]))
            yield Finding(SHARDS, place.path, line, name, "the file is missing", "copy it again")
            continue
        try:
            with safe_open(path, framework="numpy") as weights:
                found = {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            yield Finding(SHARDS, path, 1, name, str(error), "copy it again: the file is cut short or damaged")
            continue
        names |= found
        missing = sorted(wanted.get(name, set()) - found.keys())
        if missing:
            seen = f"{len(missing)} tensors of the index are not in it, e.g. {missing[0]}"
            yield Finding(SHARDS, path, 1, name, seen, "copy index and shards of one revision")


def _vocabulary(folder: Path, config: Document, names: dict[str, Any]) -> Iterator[Finding]:
    file = folder / "tokenizer.json"
    rows = next((shape[0] for name, shape in names.items() if name.endswith("embed_tokens.weight") and shape), None)
    rows = config.get("vocab_size") if rows is None else rows
    if not file.is_file() or not isinstance(rows, int):
        return
    tokenizer = Document.read(file)
    vocabulary = tokenizer.get("model", "vocab", default={})
    added = tokenizer.get("added_tokens", default=[]) or []
    try:
        ids = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else list(range(len(vocabulary)))
        ids += [item["id"] for item in added]
        if not all(isinstance(number, int) for number in ids):
            raise TypeError
    except (TypeError, KeyError):
        raise BrokenFile(file, 1, "no vocabulary: tokens do not have numbers for ids") from None
    highest = max(ids, default=-1)
    if highest >= rows:
        cure = "take the tokenizer of this checkpoint, or enlarge the embedding"
        yield Finding(VOCABULARY, file, 1, "model.vocab", f"id {highest}, the embedding has {rows} rows", cure)


def _quantisation(folder: Path, config: Document, target: Target) -> Iterator[Finding]:
    file = folder / "hf_quant_config.json"
    own = config.get("quantization_config", "quant_algo")
    beside = Document.read(file) if file.is_file() else None
    if beside is not None:
        algorithm = beside.get("quantization", "quant_algo")
        if own and algorithm != own:
            seen = f"{algorithm} there, {own} in config.json: TensorRT-LLM takes the former"
            cure = "export the checkpoint again"
            yield Finding(QUANT_CONFIG, file, beside.line("quantization", "quant_algo"), "quant_algo", seen, cure)
        place, keys = beside, ("quantization",)
    else:
        algorithm, place, keys = own, config, ("quantization_config",)
    if not algorithm:
        return
    if str(algorithm).startswith("W8A8_SQ"):
        cure = "serve it with an engine (releases up to 1.2.x), or quantise to FP8 or INT4 AWQ"
        key = ".".join((*keys, "quant_algo"))
        yield Finding(QUANT_FLOW, place.path, place.line(*keys, "quant_algo"), key, str(algorithm), cure)
    yield from check_architecture(str(algorithm), target, place, keys)
