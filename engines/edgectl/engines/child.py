"""Run risky native work (compile, deserialise, first inference) in a child process that cannot hurt its parent.

The child is a module of ours with :func:`answer` at its end; it says one JSON line on its standard output. Whatever else a
native library prints is moved to standard error. Hang, crash and kill become one :class:`EngineError` in the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from edgectl.core.errors import BundleError, EdgectlError, EngineError, GoldenError, IntegrityError, StorageError

__all__ = ["answer", "run_child"]

_TAIL = 400  # characters of standard error that an error message quotes
_MAX_OUTPUT = 1 << 20
_LOOK_S = 0.25  # how often the memory of a child is looked at
_KINDS: dict[str, type[EdgectlError]] = {
    "golden": GoldenError, "bundle": BundleError, "integrity": IntegrityError, "storage": StorageError,
}  # fmt: skip
"""Errors that keep their type on the way out of the child; every other one is an EngineError."""


def run_child(
    module: str, arguments: Sequence[str], *, timeout_s: float, what: str, memory_mb: int | None = None
) -> dict[str, Any]:
    """``python -m module arguments`` in its own process group. Returns its JSON answer.

    Raises :class:`EngineError`: took longer than ``timeout_s`` or more resident memory than ``memory_mb`` MiB (the whole group is
    killed; memory of the GPU is not counted unless it is the machine's own, as on a Jetson), died by a signal, said nothing that is JSON, or answered ``{"ok": false, "error": …}`` (Golden-, Bundle-, Integrity- and StorageError keep their type).
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = _watched(process, timeout_s, memory_mb, what)
    except BaseException:
        _kill(process)
        raise
    said = " ".join(err.decode(errors="replace").split())[-_TAIL:]
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise EngineError(f"{what} died by {name}" + (f": {said}" if said else ""), hint="take the fallback variant")
    try:
        line = out[-_MAX_OUTPUT:].decode().strip().splitlines()[-1]
        reply = json.loads(line)
    except (ValueError, IndexError) as e:
        raise EngineError(f"{what} ended with {process.returncode} and no answer" + (f": {said}" if said else "")) from e
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        reply = reply if isinstance(reply, dict) else {}
        kind = _KINDS.get(str(reply.get("code")), EngineError)
        raise kind(f"{what} failed: {reply.get('error', said or 'no reason given')}", hint=reply.get("hint"))
    return reply


def answer(work: Callable[[], dict[str, Any]]) -> int:
    """Child side: do the work, print ``{"ok": true, …}`` or ``{"ok": false, "error": …}``, return the exit code."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # from here on a library that prints cannot break the answer
    try:
        reply = {"ok": True, **work()}
    except EdgectlError as e:
        reply = {"ok": False, "error": e.message, "hint": e.hint, "code": e.code}
    except Exception as e:
        reply = {"ok": False, "error": f"{type(e).__name__}: {e}"}
    with out:
        out.write(json.dumps(reply) + "\n")
    return 0 if reply["ok"] else 1


def _watched(process: subprocess.Popen[bytes], timeout_s: float, memory_mb: int | None, what: str) -> tuple[bytes, bytes]:
    """Wait for the child's output, no longer and for no more memory than it may take."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, left if memory_mb is None else min(left, _LOOK_S)))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                hint = "take the fallback variant, or allow more time"
                raise EngineError(f"{what} took more than {timeout_s:g} s and was stopped", hint=hint) from None
            if memory_mb is not None and (used := _resident_mb(process.pid)) > memory_mb:
                hint = "take the fallback variant, or stop other engines and allow more memory"
                raise EngineError(f"{what} took {used:.0f} MiB, more than {memory_mb} MiB, and was stopped", hint=hint) from None


def _resident_mb(pid: int) -> float:
    try:
        return psutil.Process(pid).memory_info().rss / (1 << 20)
    except psutil.Error:  # it has just ended
        return 0.0


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may end in this very moment
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
