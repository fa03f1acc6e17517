"""What the gateway tells of a request to its trace. The classes here record nothing; those of `spans` do."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Metadata = tuple[tuple[str, str], ...]
STREAM = "ModelStreamInfer"
# Attribute of a request's span: how long chat template and tokenizer took.
TOKENIZE_SECONDS = "throughline.tokenize.seconds"


class CallEnd(Protocol):
    """How a call to Triton went; see `TokenStream`."""

    finish_reason: str
    error_type: str
    read_at: float
    times: dict[str, int]


class CallTrace:
    """One call to Triton.

    Attributes:
        metadata: gRPC metadata that hands the trace on.
    """

    metadata: Metadata = ()

    def end(self, tokens: CallEnd) -> None:
        """The call has ended, and `tokens` says how."""


class RequestTrace:
    """One request.

    Attributes:
        trace_id: For people who look for the trace; empty where there is none.
    """

    trace_id = ""

    def call(self, url: str, method: str = STREAM) -> CallTrace:
        """A call to `method` of Triton at `host:port` begins, or several of which one is told."""
        return NO_CALL

    def tokenizing(self) -> AbstractContextManager[None]:
        """Chat template and tokenizer work within the block."""
        return nullcontext()


NO_CALL = CallTrace()
NO_TRACE = RequestTrace()
