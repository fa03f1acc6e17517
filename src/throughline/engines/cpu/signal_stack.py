"""Signals after an engine was freed: OpenVINO leaves them a stack that is no more.

Its CPU plugin gives the thread that loads it an alternate signal stack (sigaltstack(2)) and frees it with the plugin.
When plugins end in another order than they began, the thread is left with one that was freed before, and the next
signal, Ctrl-C for one, is a segmentation fault (OpenVINO 2026.4).
"""

from __future__ import annotations

import ctypes
import sys

_SS_DISABLE = 2


class _Stack(ctypes.Structure):
    """`stack_t` of <signal.h> on Linux."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def drop_signal_stack() -> None:
    """Makes the calling thread take its signals on its own stack, which is large enough for all of them."""
    if sys.platform == "linux":
        # It fails only while a handler runs on that stack, and then it is there.
        ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(None, _SS_DISABLE, 0)), None)
