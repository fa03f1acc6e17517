"""Logits of a CPU engine's graph on whole records, which its pipeline does not give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from throughline.engines.cpu.openvino_env import openvino


def answer_logits(
    engine_dir: Path, records: Sequence[tuple[Sequence[int], Sequence[int]]], *, dtype: str = "f32"
) -> Iterator[npt.NDArray[np.float32]]:
    """Yields logits [positions, vocabulary] of each record.

    Args:
        engine_dir: An engine of the CPU back end.
        records: Token ids, and the positions whose logits are wanted.
        dtype: Type that activations are computed in; `f32` shows what the weights alone lose.
    """
    settings = {
        "INFERENCE_PRECISION_HINT": dtype,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "KV_CACHE_PRECISION": "f32" if dtype == "f32" else "f16",
    }
    model = openvino().Core().compile_model(str(engine_dir / "openvino_model.xml"), "CPU", settings)
    request = model.create_infer_request()
    for ids, positions in records:
        request.reset_state()
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        yield request.infer(inputs)["logits"][0, list(positions)].astype(np.float32)
