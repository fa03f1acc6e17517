"""The engine card: what an engine directory is, in Markdown, for the person who finds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import CalibrationInfo, EngineInfo, EngineSpec

_PRECISIONS = {
    "f32": "float32 weights. The reference: gives the same greedy tokens as transformers in float32.",
    "bf16": "bfloat16 weights, rounded to nearest even from the checkpoint.",
    "int8": "INT8 weight-only: one scale a row, activations are not quantised (W8A16 in TensorRT-LLM's words).",
    "int4": "INT4 weight-only by groups; embedding and head stay INT8, activations are not quantised (W4A16).",
    "fp8": "FP8 (E4M3) storage only: the weights are widened when the engine is loaded, "
    "so the file is smaller and nothing else is. No FP8 arithmetic takes place on a CPU.",
}
# By whether it makes vectors.
_RUNTIMES = {
    False: "OpenVINO GenAI with paged attention and in-flight batching",
    True: "OpenVINO, whole sequences in a batch",
}


def render_card(
    info: EngineInfo,
    files: Mapping[str, int],
    seconds: Mapping[str, float],
    *,
    machine: str,
    kv_cache: str,
    notes: Sequence[str] = (),
) -> str:
    """Renders `ENGINE_CARD.md`.

    Args:
        info: The engine's facts.
        files: Bytes of each file.
        seconds: Duration of each build phase.
        machine: Processor and types that the golden prompts were recorded with.
        kv_cache: The KV cache's type and size in words; empty for an embedding engine, which has none.
        notes: Caveats, one line each.
    """
    spec = info.spec
    quantised = spec.precision in {"int8", "int4"}
    rows = {
        "Architecture": f"{info.architecture}, {info.num_hidden_layers} layers, hidden {info.hidden_size}, "
        f"{info.num_attention_heads}/{info.num_key_value_heads} heads of {info.head_dim}",
        "Parameters": f"{info.parameters:,}",
        "Vocabulary": f"{info.vocab_size:,}; ends at ids {', '.join(map(str, info.eos_token_ids))}",
        **({} if info.embedding is None else {"Vectors": _vectors(info.embedding)}),
        "Precision": _PRECISIONS.get(spec.precision, spec.precision),
        "Weights": f"{mib(info.weight_bytes)} ({8 * info.weight_bytes / max(1, info.parameters):.1f} bits a parameter)",
        "Context": f"{spec.max_seq_len} tokens of the model's {info.max_position_embeddings}",
        "Batching": f"up to {spec.max_batch_size} sequences and {spec.max_num_tokens} tokens an iteration",
        **({"KV cache": kv_cache} if kv_cache else {}),
        "Golden prompts": f"recorded on {machine}",
        "Checkpoint": f"sha256:{info.checkpoint_digest}",
    }
    if quantised:
        rows["Quantisation"] = _quantisation(spec)
    if spec.precision == "int4":
        rows["Calibration"] = _calibration(info.calibration)
    parts = [
        f"# Engine {info.name}",
        f"Back end `{spec.backend}`: {_RUNTIMES[info.embedding is not None]}. "
        "It runs on any x86 or Arm machine with OpenVINO and is not a TensorRT engine.",
        table(("", ""), rows.items()),
        "## Files",
        table(("File", "Size"), [(name, mib(size)) for name, size in sorted(files.items())]),
        "## Made with",
        table(("Package", "Version"), sorted(info.versions.items())),
        "## Build time",
        table(("Phase", "Seconds"), [(phase, f"{value:.2f}") for phase, value in seconds.items()]),
    ]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    parts += [
        "## Settings",
        "```json\n" + spec.model_dump_json(indent=2) + "\n```",
        "## Check it",
        '```python\nfrom throughline.engines import verify\n\nprint(verify("path/to/this/folder"))\n```',
    ]
    return "\n\n".join(parts) + "\n"


def _quantisation(spec: EngineSpec) -> str:
    kind = "symmetric" if spec.symmetric else "asymmetric"
    if spec.precision != "int4":
        return kind
    return f"{kind}, group size {spec.group_size}, {spec.int4_ratio:.0%} of the linear layers' weights in INT4"


def _vectors(embedding: EmbeddingInfo) -> str:
    pooled = {"last": "the last token's state", "mean": "the mean of all states", "cls": "the first token's state"}
    sizes = "fewer dimensions are no vectors"
    if embedding.is_matryoshka:
        known = embedding.matryoshka_dimensions
        sizes = "any smaller number of dimensions" if known is None else f"or {', '.join(map(str, known))} dimensions"
    length = "length 1" if embedding.normalize else "any length"
    return f"{embedding.dimensions} dimensions, {pooled[embedding.pooling]}, {length}; {sizes}"


def _calibration(calibration: CalibrationInfo | None) -> str:
    if calibration is None:
        return "none: rounded to nearest, without data"
    return (
        f"{calibration.method} on {calibration.records} records ({calibration.tokens:,} tokens) "
        f"of the training split of dataset {calibration.dataset_digest[:12]}"
    )


def mib(size: int) -> str:
    """Bytes for people."""
    if size >= 2**31:
        return f"{size / 2**30:.1f} GiB"
    return f"{size / 2**20:.2f} MiB" if size >= 2**18 else f"{size / 2**10:.1f} KiB"


def table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    """Returns a table of two columns in Markdown."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines)
