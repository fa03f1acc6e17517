"""Rules for a Hugging Face or ModelOpt checkpoint, from its headers and JSON files; numbers are read where asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from throughline.checkpoints import TOKENIZER as TOKENIZER_FILE
from throughline.checkpoints import check_finite, check_shapes, check_types, read_tensors
from throughline.contracts.checkpoint import FAMILIES
from throughline.contracts.errors import CheckpointError
from throughline.contracts.linting import Finding, Rule
from throughline.contracts.quantization import NOT_SCORED, REPORT_FILE
from throughline.documents import BrokenFile, Document
from throughline.linting.engine import Target, check_architecture

SHARDS = Rule("shards", "error", "every shard of the index is there, whole, and has the tensors that the index says")
TENSORS = Rule("tensors", "error", "a decoder has the tensors that config.json says, of its shapes, and no others")
FINITE = Rule("finite", "error", "every weight is a finite number: weights=true reads them all")
TOKENIZER = Rule("tokenizer", "error", "there is a tokenizer, and it has the tokens at which the model ends")
VOCABULARY = Rule("vocabulary", "error", "the tokenizer's ids are within the embedding")
QUANT_CONFIG = Rule("quant-config", "error", "hf_quant_config.json and quantization_config say the same")
QUANT_FLOW = Rule("quant-flow", "error", "INT8 SmoothQuant needs the engine flow: the PyTorch back end does not run it")
UNSCORED = Rule("unscored", "error", "a checkpoint that was quantised here was scored before it is served")
CHAT_TEMPLATE = Rule("chat-template", "warning", "the tokenizer has a chat template")
RULES = (SHARDS, TENSORS, FINITE, TOKENIZER, VOCABULARY, QUANT_CONFIG, QUANT_FLOW, UNSCORED, CHAT_TEMPLATE)
_INDEX = "model.safetensors.index.json"
# Other files that transformers takes a tokenizer from.
_TOKENIZERS = (TOKENIZER_FILE, "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "tiktoken.model")


def check_checkpoint(config: Document, target: Target) -> Iterator[Finding]:
    """Yields what contradicts in a checkpoint folder."""
    folder = config.path.parent
    names: dict[str, Any] = {}
    broken = list(_shards(folder, config, names))
    yield from broken
    if not broken:
        yield from _weights(folder, config, target)
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


def _weights(folder: Path, config: Document, target: Target) -> Iterator[Finding]:
    """What the checks of our own commands say; of a quantised checkpoint they know the numbers alone."""
    try:
        tensors = read_tensors(folder)
    except CheckpointError as error:
        yield Finding(SHARDS, config.path, 1, _key(error), _seen(error), str(error.fix))
        return
    quantised = config.get("quantization_config") or (folder / "hf_quant_config.json").is_file()
    try:
        if config.get("model_type") in FAMILIES and not quantised:
            check_types(tensors)
            check_shapes(config.values, tensors, folder)
    except CheckpointError as error:
        yield Finding(TENSORS, config.path, 1, _key(error), _seen(error), str(error.fix))
    try:
        if target.weights:
            check_finite(tensors)
    except CheckpointError as error:
        yield Finding(FINITE, config.path, 1, _key(error), _seen(error), str(error.fix))


def _key(error: CheckpointError) -> str:
    """The tensor or the setting where it is."""
    return str(error.where).rpartition(":")[2] if ":" in str(error.where) else "*.safetensors"


def _seen(error: CheckpointError) -> str:
    return f"{error.what}: {error.seen}"


def _vocabulary(folder: Path, config: Document, names: dict[str, Any]) -> Iterator[Finding]:
    file = folder / TOKENIZER_FILE
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        cure = "save the model's tokenizer beside the weights"
        yield Finding(TOKENIZER, config.path, 1, TOKENIZER_FILE, "the file is missing", cure)
    rows = next((shape[0] for name, shape in names.items() if name.endswith("embed_tokens.weight") and shape), None)
    rows = config.get("vocab_size") if rows is None else rows
    if not file.is_file():
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
    yield from _ends(folder, config, set(ids))
    highest = max(ids, default=-1)
    if isinstance(rows, int) and highest >= rows:
        cure = "take the tokenizer of this checkpoint, or enlarge the embedding"
        yield Finding(VOCABULARY, file, 1, "model.vocab", f"id {highest}, the embedding has {rows} rows", cure)


def _ends(folder: Path, config: Document, known: set[int]) -> Iterator[Finding]:
    """Tokens that end an answer, from `generation_config.json` where there is one, as every server reads them."""
    source = folder / "generation_config.json"
    place = Document.read(source) if source.is_file() else config
    if place.get("eos_token_id") is None:
        place = config
    ends = place.get("eos_token_id")
    foreign = [end for end in (ends if isinstance(ends, list) else [ends]) if end is not None and end not in known]
    if foreign:
        seen = f"{', '.join(map(repr, foreign))}, which the tokenizer does not have: answers would not end there"
        cure = f"take {TOKENIZER_FILE} and {place.path.name} of one model"
        yield Finding(TOKENIZER, place.path, place.line("eos_token_id"), "eos_token_id", seen, cure)


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
