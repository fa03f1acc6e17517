"""Brings a base model in: a GGUF file or a Hugging Face folder becomes a checked checkpoint.

python -m recipes.convert
python -m recipes.convert model=gguf model.path=/models/qwen2.5-0.5b-instruct-q8_0.gguf
python -m recipes.convert model=hf model.path=/models/Qwen3-0.6B
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import app, inputs
from throughline.artifacts import Artifact, code_version
from throughline.checkpoints import weight_files
from throughline.contracts.checkpoint import read_checkpoint_config
from throughline.contracts.errors import ConfigError

if TYPE_CHECKING:
    from throughline import conversion

# Seconds until weights are touched, and bytes a second from then on; measured on two cores with SmolLM2.
START_SECONDS = 5.0
CONVERTED_BYTES = 35e6
LINKED_BYTES = 500e6


class Config(app.RecipeConfig):
    """Settings of `recipes.convert`."""

    model: app.ModelSpec


def make(config: inputs.HasModel) -> Artifact:
    """Makes the base model's checkpoint artifact, or finds it."""
    from throughline import conversion

    model = config.model
    origin = _origin(model)
    template = conversion.TemplateSpec(model.chat_template, model.system_prompt)
    stage = config.store().stage(
        "checkpoint",
        model.name,
        config={**_settings(model), **_source(origin)},
        code_version=code_version("throughline.conversion", "throughline.vocabulary", extras=("convert",)),
    )
    with stage as run:
        if run.cached:
            return run.cached
        if isinstance(origin, Path):
            done = conversion.adopt_folder(origin, run.directory, template, licence=model.licence)
        else:
            done = conversion.convert_gguf(origin, run.directory, template, dtype=model.dtype, licence=model.licence)
        return run.commit(metrics=done.as_dict(), licences=[done.licence])


def _origin(model: app.ModelSpec) -> conversion.Origin | Path:
    """Returns the GGUF file, or the Hugging Face folder."""
    from throughline import conversion

    if model.package and model.file and model.source == "gguf":
        return conversion.packaged_file(model.package, model.file)
    if model.path is None:
        raise ConfigError(
            "the base model has no place",
            where="model.path",
            seen=f"model.source={model.source}",
            fix="give model.path, or for a GGUF file in an installed package model.package and model.file",
        )
    if model.source == "gguf":
        return conversion.own_file(model.path)
    read_checkpoint_config(model.path)
    return model.path.resolve()


def _settings(model: app.ModelSpec) -> dict[str, Any]:
    """What of the settings changes the result; a template file counts by what is in it."""
    wanted = {"source", "chat_template", "system_prompt", "licence"} | ({"dtype"} if model.source == "gguf" else set())
    settings = model.model_dump(mode="json", include=wanted)
    own = Path(model.chat_template)
    if own.is_file():
        settings["chat_template"] = hashlib.sha256(own.read_bytes()).hexdigest()
    return settings


def _source(origin: conversion.Origin | Path) -> dict[str, str]:
    if isinstance(origin, Path):
        return {"digest": inputs.folder_digest(origin)}
    return {"digest": origin.sha256, "file": origin.path.name, "package": origin.package}


def announcement(model: app.ModelSpec) -> str:
    """Returns the line that says what is to be done, and how long it takes on two cores."""
    from throughline.reporting import format as fmt

    origin = _origin(model)
    files = weight_files(origin) if isinstance(origin, Path) else [origin.path]
    size = sum(path.stat().st_size for path in files)
    seconds = START_SECONDS + size / (LINKED_BYTES if isinstance(origin, Path) else CONVERTED_BYTES)
    return (
        f"base model {model.name} from {model.path or model.package}: {fmt.bytes_(size)}, "
        f"about {fmt.eta(seconds)} if it is not made yet"
    )


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    from recipes.results import mapping_table
    from throughline.reporting.terminal import print_table

    app.echo(announcement(config.model))
    known = {item.digest for item in config.store().all("checkpoint")}
    artifact = make(config)
    figures = artifact.manifest.metrics
    rows = {
        "architecture": figures["architecture"],
        "parameters": figures["parameters"],
        "vocabulary": figures["vocab_size"],
        "tokenizer": figures["tokenizer"],
        "chat template": f"{figures['template']}; keeps texts, tools, calls and results",
        "default system message": figures["default_system"] or "none",
        "licence": ", ".join(artifact.manifest.licences),
    }
    if figures["grid_bits"]:
        rows["weights in the file"] = f"on a {figures['grid_bits']}-bit grid"
    print_table(mapping_table(f"Base model {config.model.name}", rows))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.data")


if __name__ == "__main__":
    main()
