"""Named ranges for Nsight Systems (NVTX), in the domain `throughline`; without the `nvtx` package they are nothing.

`nvtx` is asked for once, when this module is imported: `NVTX_DISABLE=1` switches it off like its absence does.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

DOMAIN = "throughline"

try:
    import nvtx
except ImportError:
    nvtx = None

# One object for all ranges: entering it is two calls that do nothing.
_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def range_of(name: str) -> AbstractContextManager[object]:
    """Returns a context that marks what runs in it, e.g. `engine.step`."""
    if nvtx is None:
        return _NOTHING
    found: AbstractContextManager[object] = nvtx.annotate(name, domain=DOMAIN)
    return found
