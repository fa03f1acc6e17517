"""Speculative decoding on the CPU: OpenVINO GenAI's prompt lookup, and its draft model as an engine of ours."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from throughline.contracts.engine import EngineInfo, SpeculativeConfig
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.openvino_env import openvino

_ENCODER_FILE = "openvino_tokenizer.xml"
_TOKENIZER_FILE = "tokenizer.json"


def speculate(config: Any, speculation: SpeculativeConfig | None) -> None:
    """Sets what a speculating pipeline wants of every request: one without it ends the pipeline."""
    if speculation is None:
        return
    config.num_assistant_tokens = speculation.max_draft_len
    if speculation.decoding_type == "NGram":
        config.max_ngram_size = speculation.max_matching_ngram_size


@contextlib.contextmanager
def draft_folders(engine_dir: Path, info: EngineInfo, draft_dir: Path) -> Iterator[tuple[Path, Path]]:
    """Yields both engines as GenAI wants to see them while it loads.

    GenAI compares the tokenizers of both by encoding a sentence, which an engine of ours, fed with token ids, cannot.
    So each is shown with an encoder that says nothing, and the tokenizers are compared here.

    Raises:
        EngineError: If there is no such engine, or its tokenizer is another one.
    """
    draft = EngineInfo.read(draft_dir)
    if draft.vocab_size != info.vocab_size or not _same(engine_dir, draft_dir):
        raise EngineError(
            "draft engine has another tokenizer",
            where="engine.speculative_config.speculative_model_dir",
            seen=f"{draft.name} of {draft.vocab_size} tokens beside {info.name} of {info.vocab_size}",
            fix="build it from a smaller model of the same family",
        )
    with tempfile.TemporaryDirectory(prefix="throughline-draft-") as name:
        shown = []
        for label, folder in (("target", engine_dir), ("draft", draft_dir)):
            place = Path(name) / label
            place.mkdir()
            for path in folder.iterdir():
                (place / path.name).symlink_to(path.resolve())
            _save_silent_encoder(place / _ENCODER_FILE)
            shown.append(place)
        yield shown[0], shown[1]


def _same(one: Path, other: Path) -> bool:
    return (one / _TOKENIZER_FILE).read_bytes() == (other / _TOKENIZER_FILE).read_bytes()


def _save_silent_encoder(path: Path) -> None:
    ov = openvino()
    from openvino import opset13

    text = opset13.parameter([-1], ov.Type.string)
    results = []
    for name, value in (("input_ids", 0), ("attention_mask", 1)):
        constant = opset13.constant(np.full((1, 1), value, dtype=np.int64))
        constant.output(0).set_names({name})
        results.append(opset13.result(constant))
    ov.save_model(ov.Model(results, [text], "encoder"), str(path))
