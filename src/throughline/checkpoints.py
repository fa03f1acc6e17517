"""Checks of a checkpoint folder before anything is made of it.

Its files are whole, its tensors are those that `config.json` says, its numbers are finite, its tokenizer is its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.contracts.checkpoint import DecoderSizes
from throughline.contracts.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TOKENIZER = "tokenizer.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# RoPE's buffer, which is computed and not read.
IGNORED_SUFFIX = "rotary_emb.inv_freq"
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# By safetensors' type: numpy's type of the same width, and the exponent's bits, all set in NaN and infinity.
_EXPONENTS = {"F32": ("uint32", 0x7F800000), "F16": ("uint16", 0x7C00), "BF16": ("uint16", 0x7F80)}
# Bytes looked at in one go: few enough for a processor's cache, where they are read twice.
_BLOCK_BYTES = 2**20
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies: its file, first byte there, dtype in safetensors' spelling, and shape."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def check_files(folder: Path) -> None:
    """Checks what costs no time: that every file is there and whole, and that the tokenizer is the weights' own.

    Raises:
        CheckpointError: Naming the file and what is wrong with it.
    """
    tensors = read_tensors(folder)
    values = read_json(folder / "config.json")
    embedding = next((tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")), None)
    rows = embedding.shape[0] if embedding is not None and embedding.shape else values.get("vocab_size")
    check_tokenizer(folder, values, rows if isinstance(rows, int) else None)


def check_weights(folder: Path, on_progress: Callable[[float], None] = lambda fraction: None) -> dict[str, Tensor]:
    """Checks the weights of a dense decoder: names, types and shapes, then every number, which reads them once.

    Args:
        folder: Of one of `FAMILIES`, not quantised.
        on_progress: Hears the fraction of the numbers read.

    Returns:
        The tensors by name.

    Raises:
        CheckpointError: Naming the tensor.
    """
    tensors = read_tensors(folder)
    check_types(tensors)
    check_shapes(read_json(folder / "config.json"), tensors, folder)
    check_finite(tensors, on_progress)
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CheckpointError: If the file is missing or no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"checkpoint has no {path.name}",
            where=str(path.parent),
            fix="give the path of a complete Hugging Face folder",
        ) from None
    except ValueError as error:
        raise CheckpointError(
            f"{path.name} is not JSON", where=str(path), seen=str(error), fix="copy it again"
        ) from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} is no JSON object", where=str(path), fix="copy it again")
    return values


def weight_files(folder: Path) -> list[Path]:
    """Returns the safetensors files of a folder.

    Raises:
        CheckpointError: If there are none, the index cannot be read, or shards are missing.
    """
    if not folder.is_dir():
        raise CheckpointError("no checkpoint here", where=str(folder), fix="give the path of a Hugging Face folder")
    index = folder / _INDEX
    if not index.is_file():
        single = folder / _SINGLE
        if not single.is_file():
            raise CheckpointError(
                "checkpoint has no safetensors weights",
                where=str(folder),
                seen=", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "an empty folder",
                fix="save it with save_pretrained(safe_serialization=True)",
            )
        return [single]
    shards = sorted(set(_weight_map(index).values()))
    missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            "shards of the checkpoint are missing",
            where=str(index),
            seen=", ".join(missing[:4]),
            fix="copy the whole folder",
        )
    return [folder / name for name in shards]


def open_weights(file: Path) -> Any:
    """Opens a safetensors file, for numpy arrays.

    Raises:
        CheckpointError: If the file is cut short or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(file, framework="numpy")
    except SafetensorError as error:
        with file.open("rb") as handle:
            pointer = handle.read(len(_LFS)) == _LFS
        raise CheckpointError(
            "safetensors file is damaged",
            where=str(file),
            seen=f"a Git LFS pointer of {file.stat().st_size} bytes" if pointer else str(error),
            fix="fetch the weights: git lfs pull" if pointer else "copy it again",
        ) from None


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors by name, from the files' headers.

    Raises:
        CheckpointError: If a file is missing or damaged, or lacks a tensor that the index says is in it.
    """
    tensors = {name: tensor for file in weight_files(folder) for name, tensor in _header(file).items()}
    if (folder / _INDEX).is_file():
        wanted = _weight_map(folder / _INDEX)
        lost = sorted(name for name, shard in wanted.items() if name not in tensors or tensors[name].file.name != shard)
        if lost:
            raise CheckpointError(
                "shards lack tensors that their index names",
                where=str(folder / wanted[lost[0]]),
                seen=f"{len(lost)}: {', '.join(lost[:4])}",
                fix="copy index and shards of one revision",
            )
    return tensors


def check_types(tensors: Mapping[str, Tensor]) -> None:
    """Refuses quantised and integer weights.

    Raises:
        CheckpointError: Naming the tensor.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _EXPONENTS:
            raise CheckpointError(
                "tensor type is not supported",
                where=f"{tensor.file.name}:{name}",
                seen=tensor.dtype,
                fix="give a checkpoint in F32, F16 or BF16, not a quantised one",
            )


def check_shapes(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Compares the tensors with what `config.json` says of a decoder of one of `FAMILIES`.

    Raises:
        CheckpointError: If one is missing, of another shape, or has no place in the model.
    """
    sizes = DecoderSizes.of(config, where=str(folder / "config.json"))
    required = dict(_required(sizes))
    linear = {name: shape for name, shape in required.items() if name.endswith("_proj.weight")}
    optional = {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in linear.items()}
    optional[HEAD] = required[EMBEDDING]
    missing = sorted(required.keys() - tensors.keys())
    if missing:
        raise CheckpointError(
            "checkpoint lacks a tensor",
            where=str(folder),
            seen=_some("no ", missing),
            fix="copy the whole checkpoint and check config.json:model_type",
        )
    for name, shape in (required | optional).items():
        if name in tensors and tensors[name].shape != shape and not (name == HEAD and sizes.tied):
            raise CheckpointError(
                "tensor has another shape than config.json says",
                where=f"{tensors[name].file}:{name}",
                seen=f"{list(tensors[name].shape)}, expected {list(shape)}",
                fix="use the config.json that belongs to these weights",
            )
    left = sorted(
        name for name in tensors if name not in required and name not in optional and not name.endswith(IGNORED_SUFFIX)
    )
    if left:
        raise CheckpointError(
            "checkpoint holds tensors that this architecture has no place for",
            where=str(folder),
            seen=_some("", left),
            fix="merge adapters first, and check config.json:model_type",
        )


def check_finite(tensors: Mapping[str, Tensor], on_progress: Callable[[float], None] = lambda fraction: None) -> None:
    """Looks for NaN and infinity in every F32, F16 and BF16 tensor, reading each once, a megabyte at a time.

    Raises:
        CheckpointError: Naming the first tensor that has some, how many, and in how many tensors there are any.
    """
    numbers = {name: tensor for name, tensor in tensors.items() if tensor.dtype in _EXPONENTS}
    total, done = max(1, sum(tensor.size for tensor in numbers.values())), 0
    bad: dict[str, tuple[int, int]] = {}
    for name, tensor in numbers.items():
        kind, exponent = _EXPONENTS[tensor.dtype]
        for block in _blocks(tensor, kind):
            if int((block & exponent).max()) == exponent:
                nan, infinite = bad.get(name, (0, 0))
                unsigned = block & ((1 << (8 * block.itemsize - 1)) - 1)
                bad[name] = nan + int((unsigned > exponent).sum()), infinite + int((unsigned == exponent).sum())
        done += tensor.size
        on_progress(done / total)
    if bad:
        name, (nan, infinite) = next(iter(bad.items()))
        raise CheckpointError(
            "weights are not all finite numbers",
            where=f"{numbers[name].file}:{name}",
            seen=f"{nan:,} NaN and {infinite:,} infinite of {numbers[name].size:,}; "
            f"such are in {len(bad)} of {len(tensors)} tensors",
            fix="copy it again if it was whole, else take a checkpoint from before its training diverged",
        )


def check_tokenizer(folder: Path, config: Mapping[str, Any], rows: int | None) -> None:
    """Checks that `tokenizer.json` can be read and is of this model.

    Fewer tokens than rows are usual, since embeddings are padded; ids without a row, and an end of sequence that the
    tokenizer does not know, are another model's.

    Args:
        folder: The checkpoint.
        config: Its parsed `config.json`.
        rows: Rows of the embedding; None where nobody says.

    Raises:
        CheckpointError: If it is missing, damaged or of another model.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint has no {TOKENIZER}", where=str(folder), fix="save its fast tokenizer beside the weights"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    # The library raises nothing narrower.
    except Exception as error:
        raise CheckpointError(
            "tokenizer cannot be read",
            where=str(path),
            seen=str(error),
            fix="copy it again, or save the tokenizer as a fast one beside the weights",
        ) from None
    known = set(tokenizer.get_vocab(with_added_tokens=True).values())
    largest = max(known, default=-1)
    if rows is not None and largest >= rows:
        raise CheckpointError(
            "tokenizer has ids that the model's embedding lacks",
            where=str(path),
            seen=f"id {largest}, vocab_size {rows}",
            fix="give the tokenizer that belongs to the weights",
        )
    source = folder / "generation_config.json"
    ends = read_json(source).get("eos_token_id") if source.is_file() else None
    if ends is None:
        source, ends = folder / "config.json", config.get("eos_token_id", [])
    ends = ends if isinstance(ends, list) else [ends]
    foreign = [end for end in ends if not isinstance(end, int) or end not in known]
    if foreign:
        raise CheckpointError(
            "the model ends at a token that the tokenizer does not have",
            where=f"{source}:eos_token_id",
            seen=f"{', '.join(map(repr, foreign))}; the tokenizer's largest id is {largest}",
            fix=f"give the {TOKENIZER} and {source.name} that belong to the weights",
        )


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
            raise TypeError("weight_map does not map tensors to files")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            "shard index cannot be read", where=str(index), seen=repr(error), fix="copy it again"
        ) from None
    return found


def _required(sizes: DecoderSizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the tensors that the model cannot do without."""
    hidden, wide = sizes.hidden, sizes.intermediate
    query, key = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    yield EMBEDDING, (sizes.vocab, hidden)
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (query, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (key, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (key, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, query)
        if sizes.family == "qwen3":
            yield f"{prefix}.self_attn.q_norm.weight", (sizes.head_dim,)
            yield f"{prefix}.self_attn.k_norm.weight", (sizes.head_dim,)
        yield f"{prefix}.mlp.gate_proj.weight", (wide, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (wide, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, wide)
    yield "model.norm.weight", (hidden,)
    if sizes.tied is False:
        yield HEAD, (sizes.vocab, hidden)


def _header(file: Path) -> dict[str, Tensor]:
    # Opened for the checks of the format's own library, which does not say where a tensor's bytes are.
    open_weights(file)
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        values = json.loads(handle.read(size))
    values.pop("__metadata__", None)
    return {
        name: Tensor(file, 8 + size + item["data_offsets"][0], item["dtype"], tuple(item["shape"]))
        for name, item in values.items()
    }


def _blocks(tensor: Tensor, kind: str) -> Iterator[npt.NDArray[np.unsignedinteger[Any]]]:
    """A tensor's bit patterns, flat and in order; each block takes the place of the one before it."""
    import numpy as np

    buffer = bytearray(_BLOCK_BYTES)
    left = tensor.size * np.dtype(kind).itemsize
    with tensor.file.open("rb") as handle:
        handle.seek(tensor.offset)
        while left:
            count = handle.readinto(memoryview(buffer)[: min(left, _BLOCK_BYTES)])
            if not count:
                raise CheckpointError("safetensors file was cut short while it was read", where=str(tensor.file))
            left -= count
            yield np.frombuffer(buffer, kind, count // np.dtype(kind).itemsize)


def _some(before: str, names: list[str]) -> str:
    return f"{before}{', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")
