"""The fault library on a twin of the engine: each is named first, its lever helps; what it carries has no finding.

The real engine has its turn in `tests/diagnosis`; here every load takes a moment, so that there can be many.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes import faults
from tests.diagnosis.test_faults import HEALTHY, LEAST_GAIN, SLO, healthy
from tests.unit.diagnosis.test_faults import NAMES, spec
from tests.unit.diagnosis.twin import Twin
from throughline.contracts.diagnosis import Lever
from throughline.contracts.workload import Workload
from throughline.diagnosis import diagnose

ENGINE = {"max_batch_size": 64, "max_num_tokens": 128}


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_named_first_and_its_lever_helps(name: str) -> None:
    fault = spec(name)
    run = Twin(fault).run()
    found = diagnose(run)
    assert found.names[:1] == (fault.names,), found
    lever = faults.typed(found.findings[0])
    after = Twin(faults.pulled(fault, lever)).run()
    assert fault.gain(run, after) >= LEAST_GAIN, (lever.overrides, fault.value(run), fault.value(after))


@pytest.mark.parametrize("users", [12, 16, 24])
@pytest.mark.parametrize("name", ["tiny_batch", "kv_small", "booked_ahead"])
def test_more_users_never_silence_a_queue(name: str, users: int) -> None:
    fault = spec(name)
    more = faults.pulled(fault, Lever(overrides=(f"workload.arrivals.users={users}",), why="more of the fault"))
    assert fault.names in diagnose(Twin(more).run()).names


@pytest.mark.parametrize("seed", range(HEALTHY))
def test_what_the_engine_carries_has_no_finding(seed: int) -> None:
    found = diagnose(Twin(carried(healthy(seed)), seed).run())
    assert found.healthy, found


@settings(max_examples=40)
@given(
    tokens=st.integers(16, 300),
    answer=st.integers(4, 64),
    busy=st.floats(0.05, 0.45),
    seed=st.integers(0, 1000),
)
def test_an_engine_with_time_to_spare_is_healthy(tokens: int, answer: int, busy: float, seed: int) -> None:
    """Requests at a rate that keeps the engine busy for less than half of its time."""
    alone = tokens * 0.0025 + answer * 0.0135
    load = Workload.model_validate(
        {
            "input_tokens": tokens,
            "output_tokens": answer,
            "longest_input_tokens": tokens,
            "longest_output_tokens": answer,
            "arrivals": {"process": "poisson", "requests_per_second": busy / alone},
        }
    )
    found = diagnose(Twin(carried(load, seconds=60 * alone / busy), seed).run())
    assert not [each for each in found.findings if each.kind == "waste"], found
    assert found.over or found.healthy, found


def carried(load: Workload, seconds: float = 40.0) -> faults.FaultSpec:
    return faults.FaultSpec(names="-", engine=ENGINE, workload=load, slo=SLO, seconds=seconds)
