"""The engines behind the gateway: text and vectors from Triton, in each of the contracts that its models speak."""

from throughline.gateway.upstream.contract import Ask, Contract
from throughline.gateway.upstream.contracts import contract_of
from throughline.gateway.upstream.embedding import METHOD, Vector
from throughline.gateway.upstream.faults import ClientGoneError
from throughline.gateway.upstream.own import OwnContract, infer_request
from throughline.gateway.upstream.stream import TokenStream
from throughline.gateway.upstream.triton import TritonUpstream

__all__ = [
    "METHOD",
    "Ask",
    "ClientGoneError",
    "Contract",
    "OwnContract",
    "TokenStream",
    "TritonUpstream",
    "Vector",
    "contract_of",
    "infer_request",
]
