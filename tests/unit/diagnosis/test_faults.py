"""The fault library's files, and what a lever changes of a fault; the faults themselves run in tests/diagnosis."""

from __future__ import annotations

import pytest
import yaml

from recipes import app, faults
from tests.unit.diagnosis.runs import run, times
from throughline.contracts.config import parse
from throughline.contracts.diagnosis import FINDINGS, Lever
from throughline.contracts.engine import EngineSpec
from throughline.contracts.errors import EngineError

NAMES = sorted(path.stem for path in (app.CONF / "fault").glob("*.yaml"))


def spec(name: str) -> faults.FaultSpec:
    return parse(faults.FaultSpec, yaml.safe_load((app.CONF / "fault" / f"{name}.yaml").read_text()), where=name)


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_well_formed(name: str) -> None:
    fault = spec(name)
    assert fault.names in FINDINGS
    engine = EngineSpec.model_validate(fault.engine)
    longest = fault.workload.longest_input_tokens + fault.workload.longest_output_tokens
    assert longest <= engine.max_seq_len
    assert fault.value(run()) > 0


def test_no_finding_has_two_faults_of_one_cause() -> None:
    named = [spec(name).names for name in NAMES]
    assert len(named) == len(set(named))


def test_a_lever_changes_engine_load_or_precision() -> None:
    fault = spec("tiny_batch")
    lever = Lever(
        overrides=(
            "engine.max_batch_size=8",
            "engine.enable_block_reuse=false",
            "workload.arrivals.users=4",
            "workload.output_tokens=16",
            "quant=int4",
        ),
        why="all at once",
    )
    changed = faults.pulled(fault, lever)
    assert changed.engine["max_batch_size"] == 8
    assert changed.engine["enable_block_reuse"] is False
    assert changed.workload.arrivals.users == 4
    assert changed.workload.output_tokens == 16
    assert changed.precision == "int4"
    assert fault.engine["max_batch_size"] == 2


def test_a_lever_of_another_part_is_refused() -> None:
    with pytest.raises(EngineError, match="no part of a fault"):
        faults.pulled(spec("tiny_batch"), Lever(overrides=("gateway.workers=2",), why="x"))


def test_a_gain_is_more_than_one_where_it_became_better() -> None:
    fault = spec("tiny_batch")
    assert fault.gain(run(ttft=times(2.0)), run(ttft=times(0.5))) == pytest.approx(4)
    throughput = fault.model_copy(update={"improves": "tokens_per_second"})
    assert throughput.gain(run(), run()) == 1
