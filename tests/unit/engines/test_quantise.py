"""INT4 with calibration: what it is built from, what it refuses, and that it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from throughline import engines
from throughline.contracts.engine import CalibrationData, CalibrationInfo, EngineInfo, EngineSpec
from throughline.contracts.errors import EngineError, EngineLintError

SMALL = {"precision": "int4", "group_size": 32, "max_seq_len": 128, "kv_cache_bytes": 16 * 2**20, "num_threads": 1}
RECORDS = tuple(tuple((7 * row + 3 * column) % 250 + 3 for column in range(20 + row)) for row in range(6))
DATA = CalibrationData(RECORDS, dataset_digest="d" * 64)


def build(checkpoint: Path, out_dir: Path, data: CalibrationData | None = DATA, **values: object) -> EngineInfo:
    spec = EngineSpec.model_validate({**SMALL, **values})
    return engines.build(checkpoint, spec, out_dir, calibration=data).info


def weights(out_dir: Path) -> bytes:
    return (out_dir / "openvino_model.bin").read_bytes()


@pytest.mark.parametrize("method", ["awq", "scale_estimation", "awq_scale_estimation", "gptq"])
def test_calibrated_weights_differ_from_rounded_ones_and_are_the_same_at_every_build(
    method: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    build(tiny_checkpoint, tmp_path / "rounded", None)
    for name in ("first", "second"):
        build(tiny_checkpoint, tmp_path / name, calibration=method)
    assert weights(tmp_path / "first") != weights(tmp_path / "rounded")
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert engines.verify(tmp_path / "first").ok


@pytest.mark.parametrize("method", ["none", "mixed_precision"])
def test_a_lower_int4_ratio_makes_a_larger_engine(method: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = build(tiny_checkpoint, tmp_path / "whole", None)
    part = build(tiny_checkpoint, tmp_path / "part", int4_ratio=0.5, calibration=method)
    int8 = build(tiny_checkpoint, tmp_path / "int8", None, precision="int8")
    assert whole.weight_bytes < part.weight_bytes < int8.weight_bytes


def test_the_engine_says_what_it_was_calibrated_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    info = build(tiny_checkpoint, tmp_path / "e", calibration="scale_estimation", calib_size=3, calib_max_seq_length=10)
    expected = CalibrationInfo(method="scale_estimation", dataset_digest="d" * 64, records=3, tokens=30)
    assert info.calibration == expected == EngineInfo.read(tmp_path / "e").calibration
    card = (tmp_path / "e" / "ENGINE_CARD.md").read_text()
    assert "scale_estimation on 3 records (30 tokens) of the training split of dataset dddddddddddd" in card
    rounded = build(tiny_checkpoint, tmp_path / "r")
    assert rounded.calibration is None
    assert "none: rounded to nearest" in (tmp_path / "r" / "ENGINE_CARD.md").read_text()


def test_of_a_long_record_the_end_counts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    ends = CalibrationData(tuple(record[-8:] for record in RECORDS), "d")
    build(tiny_checkpoint, tmp_path / "long", calibration="scale_estimation", calib_max_seq_length=8)
    build(tiny_checkpoint, tmp_path / "ends", ends, calibration="scale_estimation")
    assert weights(tmp_path / "long") == weights(tmp_path / "ends")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "needs records of the training split.*0 records.*int4_rtn"),
        (CalibrationData((), "d"), "needs records of the training split"),
        (CalibrationData(((3, 4), ()), "d"), "each with a token at least"),
        (CalibrationData(((3, 10**6),), "d"), "not this model's tokens.*3 to 1000000"),
        (CalibrationData(((-1,),), "d"), "not this model's tokens"),
    ],
)
def test_records_that_cannot_calibrate_are_refused_before_anything_is_written(
    data: CalibrationData | None, words: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=words):
        build(tiny_checkpoint, tmp_path / "engine", data, calibration="awq")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precision": "int8", "calibration": "awq"}, "calibration is of INT4 alone"),
        ({"precision": "bf16", "int4_ratio": 0.5}, "int4_ratio is of INT4 alone"),
        ({"calibration": "mixed_precision"}, "int4_ratio leaves none"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(
    values: dict[str, object], words: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(EngineLintError, match=words):
        build(tiny_checkpoint, tmp_path / "engine", **values)


def test_a_build_prints_nothing(tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build(tiny_checkpoint, tmp_path / "engine", calibration="gptq", int4_ratio=0.8)
    assert capfd.readouterr() == ("", "")


def test_progress_counts_the_calibration_records(tiny_checkpoint: Path, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    spec = EngineSpec.model_validate({**SMALL, "calibration": "scale_estimation"})
    engines.build(tiny_checkpoint, spec, tmp_path / "e", lambda *told: heard.append(told), calibration=DATA)
    fractions = [fraction for phase, fraction in heard if phase == "quantise"]
    assert fractions == sorted(fractions)
    # The start, each record but the last, and the end of what follows.
    assert len(set(fractions)) == 1 + len(RECORDS)
