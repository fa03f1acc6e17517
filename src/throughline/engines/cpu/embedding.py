"""`EmbeddingRuntime` over OpenVINO: sequences of like length share a batch, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from throughline.contracts.embedding import EmbeddingInfo
from throughline.contracts.engine import EngineInfo, EngineSpec
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.lint import with_overrides
from throughline.engines.cpu.load import check_graph_files, not_loadable
from throughline.engines.cpu.openvino_env import openvino
from throughline.engines.cpu.pipeline import machine_plan
from throughline.engines.cpu.signal_stack import drop_signal_stack


class CpuEmbeddingRuntime:
    """See `EmbeddingRuntime`.

    Args:
        info: The engine.
        spec: Its settings after overrides.
        embedding: What its vectors are.
        model: Path of the graph.
    """

    def __init__(self, info: EngineInfo, spec: EngineSpec, embedding: EmbeddingInfo, model: Path) -> None:
        self.info, self.spec = info, spec
        self._dimensions = embedding.dimensions
        properties: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": machine_plan(spec).dtype,
            # Weight-only quantisation means what it says: activations are never quantised.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        }
        if spec.num_threads:
            properties["INFERENCE_NUM_THREADS"] = spec.num_threads
        self._core = openvino().Core()
        self._request: Any = self._core.compile_model(str(model), "CPU", properties).create_infer_request()

    def embed(self, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """See `EmbeddingRuntime.embed`."""
        for prompt in prompts:
            self.check(prompt)
        vectors = np.empty((len(prompts), self._dimensions), np.float32)
        for rows in batches([len(prompt) for prompt in prompts], self.spec.max_batch_size, self.spec.max_num_tokens):
            vectors[rows] = self._batch([prompts[row] for row in rows])
        return vectors

    def check(self, prompt: Sequence[int]) -> None:
        """See `EmbeddingRuntime.check`."""
        if not 1 <= len(prompt) <= self.spec.max_seq_len:
            raise EngineError(
                "sequence to embed is empty or too long",
                where="input_ids",
                seen=f"{len(prompt)} tokens, max_seq_len {self.spec.max_seq_len}",
                fix="shorten it, or build an engine with a larger max_seq_len",
            )
        if min(prompt) < 0 or max(prompt) >= self.info.vocab_size:
            raise EngineError(
                "token id is not in the vocabulary",
                where="input_ids",
                seen=f"ids {min(prompt)} to {max(prompt)}, vocabulary of {self.info.vocab_size}",
                fix="tokenize with this engine's tokenizer",
            )

    def close(self) -> None:
        """See `EmbeddingRuntime.close`."""
        self._request = self._core = None
        drop_signal_stack()

    def _batch(self, prompts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        lengths = np.array([len(prompt) for prompt in prompts])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        ids = np.zeros(mask.shape, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        found: npt.NDArray[np.float32] = self._request.infer({"input_ids": ids, "attention_mask": mask})[0]
        return found


def batches(lengths: Sequence[int], most_rows: int, most_tokens: int) -> Iterator[list[int]]:
    """Yields the indices of sequences that run together: few enough, and of like length.

    Args:
        lengths: Tokens of each sequence.
        most_rows: Sequences of a batch.
        most_tokens: Tokens of a batch, padding counted; a longer sequence goes alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == most_rows or (len(batch) + 1) * lengths[index] > most_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def load_embedding_runtime(engine_dir: Path, info: EngineInfo, overrides: dict[str, object]) -> CpuEmbeddingRuntime:
    """Loads the embedding engine that `info` describes.

    Raises:
        EngineError: If it makes no vectors, an override is refused, a file is missing, or OpenVINO cannot load the
            graph.
    """
    if info.embedding is None:
        raise EngineError(
            "this engine makes tokens, no vectors",
            where=str(engine_dir),
            seen="no embedding in engine.json",
            fix="build one that does: `python -m recipes.build engine=embedding`",
        )
    spec = with_overrides(info, overrides)
    check_graph_files(engine_dir)
    try:
        return CpuEmbeddingRuntime(info, spec, info.embedding, engine_dir / "openvino_model.xml")
    except RuntimeError as error:
        raise not_loadable(engine_dir, error) from error
