"""End what a child started and left behind: also in sessions of their own, and after the child itself ended well."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

__all__ = ["without_orphans"]

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_ROUNDS = 1000
_WAIT_S = 10.0

_libc = ctypes.CDLL(None, use_errno=True)
_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def without_orphans(folder: Path) -> Iterator[None]:
    """Whatever of a child that works in ``folder`` loses its parent in here becomes this process's own (``prctl(2)``,
    ``PR_SET_CHILD_SUBREAPER``), and is killed at the end. One at a time: others wait.

    Processes that other threads start meanwhile are let alone: theirs are those in another network than ours, or with
    ``folder`` in their environment. Of a child that was granted no network of its own, one that clears its environment stays.
    """
    with _one_at_a_time:
        was = ctypes.c_int()
        _libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(was), 0, 0, 0)
        before = set(psutil.Process().children())
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            yield
        finally:
            _end(before, folder)
            _libc.prctl(_PR_SET_CHILD_SUBREAPER, was.value, 0, 0, 0)


def _end(before: set[psutil.Process], folder: Path) -> None:
    """Generation by generation: the children of what was killed come to us."""
    for _ in range(_ROUNDS):
        found = [p for p in psutil.Process().children() if p not in before and _is_of(p, folder)]
        if not found:
            return
        # those that cannot be killed are not tried again
        before.update(found)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_WAIT_S)


def _is_of(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        network = os.readlink(f"/proc/{process.pid}/ns/net")
        return network != os.readlink("/proc/self/ns/net") or any(
            str(folder) in value for value in process.environ().values()
        )
    except (psutil.AccessDenied, PermissionError):
        # it hides
        return True
    except (psutil.Error, OSError):
        return False
