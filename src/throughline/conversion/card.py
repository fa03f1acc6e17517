"""The model card of a converted checkpoint: what it is, where it comes from, what was changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from throughline.conversion.gguf_file import GgufFile
from throughline.conversion.origin import Origin
from throughline.conversion.weights import WrittenWeights

# Bits of the grid that a block-quantised type puts weights on, by the type's first letters.
_GRIDS = {"Q2": 2, "Q3": 3, "Q4": 4, "IQ4": 4, "Q5": 5, "Q6": 6, "Q8": 8}


@dataclass(frozen=True)
class CardFacts:
    """What the card says beside the GGUF file's own metadata.

    Attributes:
        licence: Licence terms.
        dtype: Type of the written weights.
        template: Where the chat template is from.
        default_system: System message of conversations without one.
    """

    licence: str
    dtype: str
    template: str
    default_system: str


def grid_bits(source_types: Mapping[str, int]) -> int | None:
    """Returns the bits of the grid that most quantised tensors were on; None if none was quantised."""
    counts = {name: count for name, count in source_types.items() if _bits(name) is not None}
    return _bits(max(counts, key=lambda name: counts[name])) if counts else None


def _bits(tensor_type: str) -> int | None:
    return next((bits for start, bits in _GRIDS.items() if tensor_type.startswith(start)), None)


def model_card(source: GgufFile, origin: Origin, weights: WrittenWeights, facts: CardFacts) -> str:
    """Returns `README.md`."""
    name = source.find("general.name", str, origin.path.stem)
    by = source.find("general.organization", str, "")
    types = ", ".join(f"{count} {kind}" for kind, count in weights.source_types.items())
    lines = [
        "---",
        f"license: {facts.licence.lower()}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {name}",
        "",
        f"{f'By {by}. ' if by else ''}A {source.architecture} model of {weights.parameters:,} parameters, "
        "converted from GGUF by Throughline.",
        "",
        "## Provenance",
        "",
        f"- File: `{origin.path.name}`, SHA-256 `{origin.sha256}`",
        f"- Package: {f'`{origin.package}`' if origin.package else 'none; a file of your own'}",
        f"- Licence: {facts.licence}",
        f"- Tensors in the file: {types}",
        "",
        "## What conversion did",
        "",
        f"- Weights are in {facts.dtype}. {_rounding(weights, facts.dtype)}",
    ]
    bits = grid_bits(weights.source_types)
    if bits is not None:
        lines += [
            f"- The weights were on a {bits}-bit grid in the file and still are, up to that rounding. Quantising this "
            "checkpoint again therefore loses less than quantising the original would; after fine-tuning and merging "
            "the weights are on no grid, and what a precision costs is what it really costs.",
        ]
    lines += [
        f"- Chat template: {facts.template}. Checked: tools, calls, results and texts survive rendering.",
        f"- System message of conversations without one: {facts.default_system or 'none'}",
        "- Tokenizer: built from the file's vocabulary and merges with the pre-tokenizer that it names.",
        "",
    ]
    return "\n".join(lines)


def _rounding(weights: WrittenWeights, dtype: str) -> str:
    if not weights.largest_rounding:
        return "They are exactly what the file says."
    return (
        f"Against the file no weight moved by more than {weights.largest_rounding:.2%} of its tensor's largest weight "
        f"(rounding to {dtype})."
    )
