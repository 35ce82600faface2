"""Run risky native work (compile, deserialise, first inference) in a child process that cannot hurt its
parent.

The child is a module of ours with :func:`answer` at its end; it says one JSON line on its standard output.
One with :func:`converse` says a line for every line that it is asked (:class:`Conversation`). Whatever else a
native library prints is moved to standard error. Hang, crash and kill become one :class:`EngineError` in the
parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import psutil

from edgectl.core.errors import (
    BundleError,
    EdgectlError,
    EngineError,
    GoldenError,
    IntegrityError,
    StorageError,
)

__all__ = ["Conversation", "answer", "converse", "run_child"]

# characters of standard error that an error message quotes
_TAIL = 400
_MAX_OUTPUT = 1 << 20
_PR_SET_PDEATHSIG = 1
_LOOK_S = 0.25  # how often the memory of a child is looked at
_KINDS: dict[str, type[EdgectlError]] = {
    "golden": GoldenError,
    "bundle": BundleError,
    "integrity": IntegrityError,
    "storage": StorageError,
}
"""Errors that keep their type on the way out of the child; every other one is an EngineError."""


def run_child(
    module: str, arguments: Sequence[str], *, timeout_s: float, what: str, memory_mb: int | None = None
) -> dict[str, Any]:
    """``python -m module arguments`` in its own process group. Returns its JSON answer.

    Raises :class:`EngineError`: took longer than ``timeout_s`` or more resident memory than ``memory_mb`` MiB
    (the whole group is killed; memory of the GPU is not counted unless it is the machine's own, as on a
    Jetson), died by a signal, said nothing that is JSON, or answered ``{"ok": false, "error": …}`` (Golden-,
    Bundle-, Integrity- and StorageError keep their type). Raises :class:`StorageError` if the machine has no
    room for a process.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as e:
        raise StorageError(
            f"{what}: no process can be started: {e.strerror}", hint="free memory or processes"
        ) from e
    try:
        out, err = _watched(process, timeout_s, memory_mb, what)
    except BaseException:
        _kill(process)
        raise
    return _reply(out, err, process.returncode, what)


class Conversation:
    """A child that answers one question after the other and keeps its state between them.

    It ends when it is closed, and by itself when this process dies.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, what: str) -> None:
        self._what = what
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            bufsize=0,
        )

    def ask(self, question: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send one question and wait for its answer. Raises :class:`EngineError` like :func:`run_child`;
        then it is over."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the empty answer says how
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        line = self._line(time.monotonic() + timeout_s)
        if line is None:
            _signal(self._process)
            raise EngineError(
                f"{self._what} took more than {timeout_s:g} s and was stopped",
                hint="take the fallback variant, or allow more time",
            )
        code = 0
        if not line.endswith(b"\n"):
            try:
                code = self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                _signal(self._process)
        self._said.seek(0)
        return _reply(line, self._said.read(_MAX_OUTPUT), code, self._what)

    def close(self) -> None:
        """End the child, whatever it does."""
        _kill(self._process)
        self._said.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _line(self, deadline: float) -> bytes | None:
        """What comes up to the end of the line, or of the child; None if that takes too long."""
        assert self._process.stdout is not None
        fd, line = self._process.stdout.fileno(), b""
        while not line.endswith(b"\n") and len(line) < _MAX_OUTPUT:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            piece = os.read(fd, 1 << 16)
            if not piece:
                break
            line += piece
        return line


def answer(work: Callable[[], dict[str, Any]]) -> int:
    """Child side: do the work, print ``{"ok": true, …}`` or ``{"ok": false, "error": …}``, return the exit
    code."""
    with _answers() as out:
        reply = _tried(work)
        out.write(json.dumps(reply) + "\n")
    return 0 if reply["ok"] else 1


def converse(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Child side: answer each line of the standard input like :func:`answer`, until it ends."""
    with _answers() as out:
        for line in sys.stdin:
            question = json.loads(line)
            out.write(json.dumps(_tried(lambda q=question: handle(q))) + "\n")  # type: ignore[misc]
            out.flush()
    return 0


def _answers() -> TextIO:
    """The standard output, for answers alone: what a library prints from here on goes to standard error.
    And the parent's death is ours: a child that is killed takes its own children with it, though they have
    sessions of their own (``prctl(2)``)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, **work()}
    except EdgectlError as e:
        return {"ok": False, "error": e.message, "hint": e.hint, "code": e.code}
    except Exception as e:
        return {"ok": False, "error": f"{type(e).__name__}: {e}"}


def _reply(out: bytes, err: bytes, code: int, what: str) -> dict[str, Any]:
    """The last line as an answer, or one error for whatever else came."""
    said = " ".join(err.decode(errors="replace").split())[-_TAIL:]
    if code < 0:
        name = signal.Signals(-code).name
        raise EngineError(
            f"{what} died by {name}" + (f": {said}" if said else ""), hint="take the fallback variant"
        )
    try:
        reply = json.loads(out[-_MAX_OUTPUT:].decode().strip().splitlines()[-1])
    except (ValueError, IndexError) as e:
        raise EngineError(f"{what} ended with {code} and no answer" + (f": {said}" if said else "")) from e
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        reply = reply if isinstance(reply, dict) else {}
        kind = _KINDS.get(str(reply.get("code")), EngineError)
        raise kind(f"{what} failed: {reply.get('error', said or 'no reason given')}", hint=reply.get("hint"))
    return reply


def _signal(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may end in this very moment
        os.killpg(process.pid, signal.SIGKILL)


def _watched(
    process: subprocess.Popen[bytes], timeout_s: float, memory_mb: int | None, what: str
) -> tuple[bytes, bytes]:
    """Wait for the child's output, no longer and for no more memory than it may take."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, left if memory_mb is None else min(left, _LOOK_S)))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= deadline:
                hint = "take the fallback variant, or allow more time"
                raise EngineError(
                    f"{what} took more than {timeout_s:g} s and was stopped", hint=hint
                ) from None
            if memory_mb is not None and (used := _resident_mb(process.pid)) > memory_mb:
                hint = "take the fallback variant, or stop other engines and allow more memory"
                raise EngineError(
                    f"{what} took {used:.0f} MiB, more than {memory_mb} MiB, and was stopped", hint=hint
                ) from None


def _resident_mb(pid: int) -> float:
    try:
        return psutil.Process(pid).memory_info().rss / (1 << 20)
    except psutil.Error:  # it has just ended
        return 0.0


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()
