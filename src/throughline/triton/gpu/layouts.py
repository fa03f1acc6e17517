"""Writes a layout's folder: every configuration checked, our models with the modules that they import."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from throughline.contracts.errors import DeployError, InternalError
from throughline.contracts.serving import ServeSpec
from throughline.triton import carried
from throughline.triton.gpu import inflight_batcher, llmapi_layout, wiring
from throughline.triton.gpu.engine import ServedEngine
from throughline.triton.gpu.settings import settle
from throughline.triton.model_config import CONFIG_NAME, parse_config, to_text

REPOSITORY = "repository"
TOKENIZER_INFO = "xgrammar_tokenizer_info.json"
_HEADER = (
    "# Written by `python -m recipes.deploy action=render`; the settings are those under serve.gpu.\n"
    "# Checked against Triton's schema and our linter. It has not run on a GPU.\n"
)
_MODELS = Path(__file__).parent / "models"
# Model → its source; the others are TensorRT-LLM's, or Triton's own.
_OURS = {"preprocessing": "preprocessing.py", "postprocessing": "postprocessing.py", "tensorrt_llm_bls": "bls.py"}


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of the model that is served, on this machine.

    Attributes:
        folder: Holds `tokenizer.json`.
        stop_token_ids: Ids that end an answer.
    """

    folder: Path
    stop_token_ids: tuple[int, ...]


def write_inflight_batcher(
    folder: Path, engine: ServedEngine, spec: ServeSpec, *, tokenizer: Tokenizer | None = None
) -> wiring.Wiring:
    """Writes the `inflight_batcher_llm` layout below `folder/repository`.

    Args:
        folder: An empty folder, which is copied to `serve.gpu.deployment_dir` of the serving machine.
        engine: What is served.
        spec: How.
        tokenizer: Needed for guided decoding, unless its tokenizer info is on the serving machine already.

    Returns:
        What the ensemble leaves unused.

    Raises:
        DeployError: If the settings contradict the engine or one another.
    """
    settings = settle(spec, engine)
    repository = folder / REPOSITORY
    info = _tokenizer_info(spec, tokenizer)
    configs = inflight_batcher.render(engine, spec, settings, tokenizer_info=info)
    found = wiring.check_ensemble(configs["ensemble"], configs)
    if found.faults:
        raise InternalError("the rendered ensemble is not wired", where=str(repository), seen="; ".join(found.faults))
    for name, config in configs.items():
        _write_model(repository / name, config)
        if name in _OURS:
            _write_code(repository / name / "1", _OURS[name])
    if info is not None and spec.gpu.xgrammar_tokenizer_info_path is None and tokenizer is not None:
        file = repository / inflight_batcher.ENGINE_MODEL / TOKENIZER_INFO
        file.write_text(json.dumps(tokenizer_info(tokenizer), ensure_ascii=False), encoding="utf-8")
    if settings.warm_up:
        samples = repository / inflight_batcher.ENGINE_MODEL / "warmup"
        samples.mkdir()
        for name, value in inflight_batcher.WARM_UP_FILES.items():
            (samples / name).write_bytes(struct.pack("<i", value))
    return found


def write_llmapi(folder: Path, engine: ServedEngine, spec: ServeSpec, *, options: Mapping[str, Any]) -> None:
    """Writes the `llmapi` layout below `folder/repository`; NVIDIA's `model.py` joins it where it is served.

    Args:
        folder: As in `write_inflight_batcher`.
        engine: What is served.
        spec: How.
        options: Arguments of `LLM()` that the build decides.

    Raises:
        DeployError: If the settings contradict the engine or the layout.
    """
    values = llmapi_layout.model_yaml(engine, spec, settle(spec, engine), options)
    model = folder / REPOSITORY / inflight_batcher.ENGINE_MODEL
    _write_model(model, llmapi_layout.render(spec))
    text = _HEADER + yaml.safe_dump(values, sort_keys=False)
    (model / "1" / "model.yaml").write_text(text, encoding="utf-8")


def tokenizer_info(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns what xgrammar has to know of a tokenizer, in the C++ back end's names.

    Raises:
        DeployError: If there is no `tokenizer.json`.
    """
    from tokenizers import Tokenizer as Loaded

    file = tokenizer.folder / "tokenizer.json"
    if not file.is_file():
        raise DeployError("guided decoding needs the tokenizer", where=str(file), seen="no such file")
    loaded = Loaded.from_file(str(file))
    vocabulary = loaded.get_vocab(with_added_tokens=True)
    return {
        "encoded_vocab": sorted(vocabulary, key=vocabulary.__getitem__),
        "tokenizer_str": loaded.to_str(),
        "stop_token_ids": list(tokenizer.stop_token_ids),
    }


def _tokenizer_info(spec: ServeSpec, tokenizer: Tokenizer | None) -> str | None:
    """Where the serving machine finds xgrammar's tokenizer info; None without guided decoding."""
    gpu = spec.gpu
    if gpu.guided_decoding_backend is None:
        return None
    if gpu.xgrammar_tokenizer_info_path:
        return gpu.xgrammar_tokenizer_info_path
    if tokenizer is None:
        raise DeployError(
            "guided decoding needs the tokenizer: without it the back end turns it off in silence",
            where="serve.gpu.guided_decoding_backend",
            seen="an engine folder without its checkpoint",
            fix="render the build job (target=<digest>), or set serve.gpu.xgrammar_tokenizer_info_path",
        )
    return f"{gpu.deployment_dir}/{REPOSITORY}/{inflight_batcher.ENGINE_MODEL}/{TOKENIZER_INFO}"


def _write_model(model: Path, config: Any) -> None:
    text = to_text(config, _HEADER)
    parse_config(text, where=str(model / CONFIG_NAME), directory_name=model.name, server="container")
    version = model / "1"
    version.mkdir(parents=True)
    (model / CONFIG_NAME).write_text(text, encoding="utf-8")
    # Triton wants the folder of a version even where a model has no file in it, and copies may drop empty ones.
    (version / ".keep").touch()


def _write_code(version: Path, source: str) -> None:
    """Copies a model, and the modules of ours that it imports."""
    path = _MODELS / source
    (version / "model.py").write_bytes(path.read_bytes())
    carried.write(version, carried.carried_files(path))
