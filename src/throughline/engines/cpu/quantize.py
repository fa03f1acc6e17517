"""Weight compression of the graph with NNCF: INT8, INT4 by group with or without calibration, FP8 as storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from throughline.contracts.engine import CalibrationData, CalibrationInfo, EngineSpec
from throughline.contracts.errors import EngineError
from throughline.engines.cpu.model_config import DecoderConfig
from throughline.engines.cpu.openvino_env import nncf, without_progress_bars

QUANTISED = ("int8", "int4", "fp8")
# Seconds for a model of 135M weights on two cores: of running it on a calibration record, and of the algorithms.
_RECORD_COST = 0.9
_COST = 8.0
_ALGORITHM_COST = {
    "none": 0.0,
    "mixed_precision": 4.0,
    "awq": 15.0,
    "scale_estimation": 30.0,
    "awq_scale_estimation": 45.0,
    "gptq": 80.0,
}
# NNCF's switches behind each `EngineSpec.calibration`.
_ALGORITHMS: dict[str, dict[str, bool]] = {
    "none": {},
    "mixed_precision": {},
    "awq": {"awq": True},
    "scale_estimation": {"scale_estimation": True},
    "awq_scale_estimation": {"awq": True, "scale_estimation": True},
    "gptq": {"gptq": True},
}
Records = tuple[tuple[int, ...], ...]


def compress(
    model: Any,
    spec: EngineSpec,
    config: DecoderConfig,
    records: Records = (),
    on_progress: Callable[[float], None] = lambda fraction: None,
) -> Any:
    """Quantises a float32 graph's matrices as the spec asks.

    INT8 has one scale a row. INT4 has one a group; the embedding, the head and the layers beyond `int4_ratio`
    are INT8. Without calibration the layers to spare are those whose INT8 error is largest, with it those
    whose inputs also vary most.

    Args:
        model: An `openvino.Model` from `build_graph(…, bf16=False)`.
        spec: Precision, group size, symmetry, INT4's share and calibration.
        config: The decoder, for its layer sizes.
        records: Token ids to calibrate on, from `calibration_records`.
        on_progress: Hears the fraction done; while records run, since NNCF's algorithms say nothing.

    Returns:
        The compressed model.

    Raises:
        EngineError: If the group size does not divide a layer's input size.
    """
    toolkit = nncf()
    modes = toolkit.CompressWeightsMode
    with without_progress_bars():
        if spec.precision == "int8":
            return toolkit.compress_weights(model, mode=modes.INT8_SYM if spec.symmetric else modes.INT8_ASYM)
        if spec.precision == "fp8":
            return toolkit.compress_weights(model, mode=modes.FP8_E4M3, group_size=-1, all_layers=True)
        check_group_size(spec.group_size, config)
        share = _RECORD_COST * spec.calib_size / quantising_cost(spec)

        def told(fraction: float) -> None:
            on_progress(share * fraction)

        return toolkit.compress_weights(
            model,
            mode=modes.INT4_SYM if spec.symmetric else modes.INT4_ASYM,
            ratio=spec.int4_ratio,
            group_size=spec.group_size,
            dataset=toolkit.Dataset(_Told(records, told), _inputs) if records else None,
            subset_size=len(records) or 1,
            **_ALGORITHMS[spec.calibration],
        )


def quantising_cost(spec: EngineSpec) -> float:
    """Returns seconds that `compress` would take for a small model; only their relation to others counts."""
    records = spec.calib_size if spec.calibration != "none" else 0
    return _COST + _RECORD_COST * records + _ALGORITHM_COST[spec.calibration]


def calibration_records(spec: EngineSpec, data: CalibrationData | None, config: DecoderConfig) -> Records:
    """Returns the records that a build of `spec` runs the model on, none if it needs none.

    Raises:
        EngineError: If there are none where the spec asks for some, or an id is beyond the vocabulary.
    """
    if spec.calibration == "none":
        return ()
    found = () if data is None else data.token_ids[: spec.calib_size]
    if not found or not all(found):
        raise EngineError(
            "calibration needs records of the training split, each with a token at least",
            where="engine.calibration",
            seen=f"{spec.calibration}, {len(found)} records",
            fix="give calibration records, or set calibration=none (quant=int4_rtn)",
        )
    ids = {token for record in found for token in record}
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise EngineError(
            "calibration records are not this model's tokens",
            where="engine.calibration",
            seen=f"token ids {min(ids)} to {max(ids)}, vocabulary of {config.vocab_size}",
            fix="make the dataset with this model's tokenizer",
        )
    return tuple(record[-spec.calib_max_seq_length :] for record in found)


def calibration_info(spec: EngineSpec, data: CalibrationData | None, records: Records) -> CalibrationInfo | None:
    """Returns what `engine.json` says of the calibration; None without one."""
    if data is None or not records:
        return None
    return CalibrationInfo(
        method=spec.calibration,
        dataset_digest=data.dataset_digest,
        records=len(records),
        tokens=sum(map(len, records)),
    )


class _Told:
    """A sequence that tells how much of it has been taken."""

    def __init__(self, records: Records, on_record: Callable[[float], None]) -> None:
        self._records = records
        self._on_record = on_record

    def __iter__(self) -> Iterator[Sequence[int]]:
        for index, record in enumerate(self._records):
            # Before it is given: NNCF takes its last record without asking for another.
            self._on_record(index / len(self._records))
            yield record


def _inputs(record: Sequence[int]) -> dict[str, Any]:
    """One record as a prefill of the stateful graph; NNCF resets the KV state before each."""
    length = len(record)
    return {
        "input_ids": np.array([record], np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def check_group_size(group_size: int, config: DecoderConfig) -> None:
    """Checks that groups tile every linear layer's input.

    Raises:
        EngineError: Naming the size that is not divisible and the group sizes that would do.
    """
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads * head_dim": config.num_attention_heads * config.head_dim,
    }
    wrong = {name: size for name, size in sizes.items() if size % group_size}
    if not wrong:
        return
    fitting = [size for size in (256, 128, 64, 32, 16) if not any(value % size for value in sizes.values())]
    raise EngineError(
        "INT4 group size does not divide a layer's input size",
        where="engine.group_size",
        seen=f"{group_size}; " + ", ".join(f"{name}={size}" for name, size in wrong.items()),
        fix=f"use {' or '.join(map(str, fitting))}"
        if fitting
        else "use int8: no group size of 16 or more divides them",
    )
