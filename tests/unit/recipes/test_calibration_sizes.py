"""What a comparison of calibration sizes concludes: from which size on none is told from the largest."""

from __future__ import annotations

import pytest

from recipes.calibration_sizes import Sizes, remarks, table, verdict
from throughline.contracts.quantization import LossChange, SizeLoss


def change(low: float, high: float) -> LossChange:
    return LossChange(records=32, tokens=900, base=1.0, quantised=1.1, low=low, high=high, agreement=0.9)


def sizes(*against: tuple[float, float], left_out: tuple[int, ...] = ()) -> Sizes:
    """Sizes 16, 32, … with the interval of each change from the largest, which comes last."""
    changes = [*(change(*interval) for interval in against), None]
    found = [
        SizeLoss(records=16 << step, tokens=9, loss=change(0.1, 0.2), against_largest=each)
        for step, each in enumerate(changes)
    ]
    return Sizes(quantised_to="fp8", available=500, left_out=left_out, sizes=tuple(found))


@pytest.mark.parametrize(
    ("found", "enough", "words"),
    [
        (sizes(), 16, "one size alone, 16 records"),
        (
            sizes((0.01, 0.03), (0.001, 0.02)),
            64,
            "64 records are told from the next smaller size: a larger one may gain",
        ),
        (sizes((-0.01, 0.03), (0.001, 0.02)), 64, "64 records are told from the next smaller size"),
        (sizes((0.01, 0.03), (-0.01, 0.02)), 32, "from 32 records on no size is told from 64: 32 cost 0.0200 nats"),
        (sizes((-0.01, 0.03), (-0.01, 0.02)), 16, "from 16 records on no size is told from 64: 16 cost 0.0300 nats"),
    ],
)
def test_enough_is_where_no_larger_size_is_told_from_the_largest(found: Sizes, enough: int, words: str) -> None:
    assert found.enough().records == enough
    assert verdict(found).startswith(words)
    assert remarks(found) == [f"verdict  {verdict(found)}"]


def test_what_is_left_out_is_said() -> None:
    found = sizes((-0.01, 0.03), left_out=(1024, 4096))
    assert remarks(found)[1] == "left out 1,024, 4,096: the training split has 500 records to calibrate on"
    rows = table(found).rows
    assert [row[0] for row in rows] == [16, 32] and [row[4] is None for row in rows] == [False, True]
