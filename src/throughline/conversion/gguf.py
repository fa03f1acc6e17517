"""A GGUF file in, a Hugging Face checkpoint folder out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from throughline.conversion.card import CardFacts, grid_bits, model_card
from throughline.conversion.chatml import TURN_END, TURN_START
from throughline.conversion.gguf_file import GgufFile, open_gguf
from throughline.conversion.model_config import generation_config, model_config
from throughline.conversion.origin import Origin
from throughline.conversion.result import UNSTATED, Conversion
from throughline.conversion.templates import FILE_NAME, ModelSide, TemplateSpec, choose
from throughline.conversion.tokenizer import Vocabulary, build_tokenizer, read_vocabulary, write_tokenizer
from throughline.conversion.weights import write_weights


def convert_gguf(
    origin: Origin, folder: Path, template: TemplateSpec, *, dtype: str = "bfloat16", licence: str | None = None
) -> Conversion:
    """Converts a model.

    Args:
        origin: The file.
        folder: Where to write; exists and is empty.
        template: Which chat template it gets.
        dtype: Type of the written weights: `bfloat16`, `float16` or `float32`. bfloat16 rounds the weights of a
            4-bit file by far less than its grid is wide, and is what these models were trained in.
        licence: Licence terms; None takes what the file says.

    Raises:
        CheckpointError: If the file cannot be read, is of another family, has an unknown tokenizer, or its
            chat template would lose something. All but a damaged tensor is found before weights are written.
    """
    source = open_gguf(origin.path)
    config = model_config(source, dtype=dtype)
    vocabulary = read_vocabulary(source)
    chosen = choose(template, _model_side(source, vocabulary))
    terms = licence or source.find("general.license", str, UNSTATED)

    write_json(folder / "config.json", config)
    ends = vocabulary.id_of(TURN_END) if TURN_END in chosen.text else None
    write_json(folder / "generation_config.json", generation_config(source, ends))
    (folder / FILE_NAME).write_text(chosen.text, encoding="utf-8")
    tokenizer = build_tokenizer(source, vocabulary)
    write_tokenizer(tokenizer, vocabulary, folder, context_length=config["max_position_embeddings"])
    weights = write_weights(source, config, folder, dtype=dtype)
    facts = CardFacts(terms, dtype, chosen.origin, chosen.default_system)
    (folder / "README.md").write_text(model_card(source, origin, weights, facts), encoding="utf-8")
    if origin.licence_file is not None:
        shutil.copyfile(origin.licence_file, folder / "LICENSE")
    return Conversion(
        architecture=config["model_type"],
        parameters=weights.parameters,
        vocab_size=config["vocab_size"],
        tokenizer=f"byte-level BPE, {vocabulary.pre}" if vocabulary.pre else "SentencePiece BPE",
        template=chosen.origin,
        default_system=chosen.default_system,
        licence=terms,
        grid_bits=grid_bits(weights.source_types),
        largest_rounding=weights.largest_rounding,
    )


def _model_side(source: GgufFile, vocabulary: Vocabulary) -> ModelSide:
    return ModelSide(
        where=str(source.path),
        template=source.find("tokenizer.chat_template", str, ""),
        special_tokens=vocabulary.roles,
        has_turn_tokens=None not in (vocabulary.id_of(TURN_START), vocabulary.id_of(TURN_END)),
        begin=vocabulary.roles.get("bos_token", "") if vocabulary.add_bos else "",
    )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a JSON object as Hugging Face's tools do: two spaces, Unicode as it is."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
