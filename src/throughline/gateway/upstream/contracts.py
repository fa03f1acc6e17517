"""Which contract a route's model speaks."""

from __future__ import annotations

from collections.abc import Callable

from throughline.contracts.gateway import ModelRoute
from throughline.gateway.upstream.bls import BlsContract
from throughline.gateway.upstream.contract import Contract
from throughline.gateway.upstream.llmapi import LlmapiContract
from throughline.gateway.upstream.own import OwnContract


def contract_of(route: ModelRoute, count: Callable[[str], int]) -> Contract:
    """The contract of a route; `count` gives the tokens of a text."""
    adds = route.add_special_tokens
    if route.contract == "bls":
        return BlsContract(adds_special_tokens=bool(adds), count=count)
    if route.contract == "llmapi":
        return LlmapiContract(adds_special_tokens=adds is not False, count=count)
    return OwnContract()
