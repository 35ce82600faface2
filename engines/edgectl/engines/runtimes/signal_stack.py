"""Keep a thread's alternate signal stack as it is while a native library does something to it.

OpenVINO's CPU plugin sets an alternate signal stack on the thread that compiles a model, and frees the memory
with the model: the next signal that Python handles (SIGINT, SIGTERM) then lands on memory that is gone, and
the process dies of SIGSEGV.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

__all__ = ["SS_DISABLE", "current_signal_stack", "keep_signal_stack"]

# <signal.h>, Linux: this thread has no alternate stack
SS_DISABLE = 2


class _Stack(ctypes.Structure):
    """``stack_t`` of sigaltstack(2)."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def current_signal_stack() -> _Stack:
    """The alternate signal stack of this thread."""
    now = _Stack()
    if ctypes.CDLL(None, use_errno=True).sigaltstack(None, ctypes.byref(now)):
        raise OSError(ctypes.get_errno(), "sigaltstack")
    return now


@contextlib.contextmanager
def keep_signal_stack() -> Iterator[None]:
    """Put this thread's alternate signal stack back to what it was; elsewhere than on Linux, do nothing."""
    if sys.platform != "linux":
        yield
        return
    before = current_signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
