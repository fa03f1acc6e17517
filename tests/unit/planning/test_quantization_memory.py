"""What a quantisation is planned to take against what ones took, at records of 512 tokens (docs/log.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from throughline.contracts.quantization import QuantSpec
from throughline.planning.quantization import exported_bytes, quantisation_memory
from throughline.planning.shape import ModelShape, read_shape

ROOT = Path(__file__).resolve().parents[3]
MIB = 2**20


def shape(name: str) -> ModelShape:
    return read_shape(ROOT / "engines" / "models" / f"{name}.json")


@pytest.mark.parametrize(
    ("model", "qformat", "peak_mib"),
    [
        ("smollm2-135m", "fp8", 1447),
        ("smollm2-135m", "int8_sq", 1546),
        ("llama-3.2-1b", "fp8", 7749),
        ("llama-3.2-1b", "int8_sq", 7749),
    ],
)
def test_the_peak_of_a_process_on_a_cpu_without_bfloat16(model: str, qformat: str, peak_mib: int) -> None:
    spec = QuantSpec.model_validate({"qformat": qformat})
    found = quantisation_memory(shape(model), spec, device="cpu", tokens=512, computes_in_16_bits=False)
    assert found.host == pytest.approx(peak_mib * MIB, rel=0.08)
    assert found.device == 0


@pytest.mark.parametrize(
    ("model", "qformat", "scored", "peak"),
    [("llama-3.1-8b", "fp8", 0, 16.20e9), ("llama-3.2-1b", "int4_awq", 8, 3.18e9)],
)
def test_what_an_h100_allocated(model: str, qformat: str, scored: int, peak: float) -> None:
    spec = QuantSpec.model_validate({"qformat": qformat, "score_records": scored})
    found = quantisation_memory(shape(model), spec, device="cuda", tokens=512, computes_in_16_bits=True)
    assert found.device == pytest.approx(peak, rel=0.01)


def test_the_size_of_what_is_exported() -> None:
    # 9,081,281,048 bytes were written on the H100, the header of the files among them.
    assert exported_bytes(shape("llama-3.1-8b"), QuantSpec(qformat="fp8")) == pytest.approx(9_081_281_048, rel=1e-3)
    whole = 2 * shape("llama-3.1-8b").parameters
    for spec in (
        QuantSpec(recipe=Path("own.yaml")),
        QuantSpec(exclude_modules=("*layers.0.*",)),
        QuantSpec(qformat="int4"),
    ):
        assert exported_bytes(shape("llama-3.1-8b"), spec) is None
        found = quantisation_memory(shape("llama-3.1-8b"), spec, device="cpu", tokens=512, computes_in_16_bits=True)
        assert found.disk >= whole


def test_more_tokens_and_scores_take_more() -> None:
    def device(tokens: int, scored: int) -> float:
        spec = QuantSpec(score_records=scored)
        return quantisation_memory(
            shape("qwen3-0.6b"), spec, device="cuda", tokens=tokens, computes_in_16_bits=True
        ).device

    assert device(4096, 8) > device(1024, 8) > device(1024, 0) <= device(4096, 0)
