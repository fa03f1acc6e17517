from __future__ import annotations

import pytest
from pydantic import Field

from throughline.contracts.config import StrictModel, parse
from throughline.contracts.errors import ConfigError, GateInconclusive, GateNoGo, InternalError, UserError
from throughline.contracts.text import did_you_mean


class Inner(StrictModel):
    max_batch_size: int = Field(default=8, ge=1)


class Outer(StrictModel):
    name: str
    engine: Inner = Inner()


def test_every_fault_is_reported_at_once_with_its_key_and_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {"engine": {"max_batchsize": 4, "max_batch_size": 0}}, where="build")
    text = str(caught.value)
    assert "build.name: missing" in text
    assert "build.engine.max_batchsize: unknown key, did you mean 'max_batch_size'?" in text
    assert "build.engine.max_batch_size=0" in text
    assert "3 fault(s)" in text


def test_keys_at_the_top_are_under_nothing() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Outer, {}, where="")
    assert str(caught.value) == "Outer does not validate (1 fault(s)) — seen: name: missing — correct these keys"


def test_a_valid_config_is_frozen() -> None:
    value = parse(Outer, {"name": "x"}, where="")
    with pytest.raises(Exception, match="frozen"):
        value.name = "y"  # type: ignore[misc]


def test_error_grammar_and_exit_codes() -> None:
    error = ConfigError("bad value", where="a.yaml:3", seen="'x'", fix="use y")
    assert str(error) == "bad value — a.yaml:3 — seen: 'x' — use y"
    assert [kind.exit_code for kind in (UserError, InternalError, GateNoGo, GateInconclusive)] == [2, 1, 3, 4]


def test_did_you_mean_lists_what_is_known_when_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["bf16", "int8"]) == "known: bf16, int8"
