"""The lifecycle's exit code follows the gate where that is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from recipes import lifecycle
from throughline.contracts.errors import GateInconclusive, GateNoGo, ThroughlineError


def decision(verdict: str, promoted: str | None = None) -> dict[str, Any]:
    reason = "triage_exact_match 0.1 [0.0, 0.2], at least 0.85 wanted, n=300"
    return {
        "promoted": promoted,
        "serve": "bf16",
        "verdicts": {"bf16": {"decision": verdict, "reasons": [reason]}},
    }


@pytest.mark.parametrize(("verdict", "error", "code"), [("NO_GO", GateNoGo, 3), ("INCONCLUSIVE", GateInconclusive, 4)])
def test_without_a_promoted_engine_the_gate_s_code_is_the_exit_code(
    verdict: str, error: type[ThroughlineError], code: int
) -> None:
    with pytest.raises(error, match=r"at least 0\.85 wanted") as found:
        lifecycle._exit_by(decision(verdict))
    assert found.value.exit_code == code


def test_a_promoted_engine_is_success() -> None:
    lifecycle._exit_by(decision("GO", promoted="bf16"))
