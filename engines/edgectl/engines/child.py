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
_PARENT = "EDGECTL_PARENT_PID"
"""Variable that tells a child who started it."""
_ADVICE = "take the fallback variant"
_LOOK_S = 0.25  # how often the memory of a child is looked at
_KINDS: dict[str, type[EdgectlError]] = {
    "golden": GoldenError,
    "bundle": BundleError,
    "integrity": IntegrityError,
    "storage": StorageError,
}
"""Errors that keep their type on the way out of the child; every other one is an EngineError."""


def run_child(
    module: str,
    arguments: Sequence[str],
    *,
    timeout_s: float,
    what: str,
    memory_mb: int | None = None,
    stop: Callable[[], EdgectlError | None] | None = None,
    advice: str | None = None,
) -> dict[str, Any]:
    """``python -m module arguments`` in its own process group. Returns its JSON answer.

    Raises :class:`EngineError`: took longer than ``timeout_s`` or more resident memory than ``memory_mb`` MiB
    (the whole group is killed; memory of the GPU is not counted unless it is the machine's own, as on a
    Jetson), died by a signal, said nothing that is JSON, or answered ``{"ok": false, "error": …}`` (Golden-,
    Bundle-, Integrity- and StorageError keep their type). Raises :class:`StorageError` if the machine has no
    room for a process.

    ``advice``: the hint of an error for which the child gave none of its own; None: for whoever runs a variant.

    Memory is that of the child and of all its own children. ``stop`` is asked several times a second; what it
    returns is raised, and the child has ended by then. The thread that calls this must live as long as the child: with it
    the child ends.
    """
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=_named_parent(),
        )
    except OSError as e:
        raise StorageError(
            f"{what}: no process can be started: {e.strerror}", hint="free memory or processes"
        ) from e
    try:
        out, err = _watched(process, timeout_s, memory_mb, what, stop, advice)
    except BaseException:
        _kill(process)
        raise
    return _reply(out, err, process.returncode, what, advice)


class Conversation:
    """A child that answers one question after the other and keeps its state between them.

    It ends when it is closed, and by itself when this process dies.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, what: str) -> None:
        self._what = what
        self.died_by: signal.Signals | None = None
        """The signal that it died by, once :meth:`ask` has raised for that."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            bufsize=0,
            env=_named_parent(),
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
                hint=f"{_ADVICE}, or allow more time",
            )
        code = 0
        if not line.endswith(b"\n"):
            try:
                code = self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                _signal(self._process)
        if code < 0:
            self.died_by = signal.Signals(-code)
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
    sessions of their own (``prctl(2)``). A parent that died before that, while this child imported what it needs,
    sends no signal any more."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.pop(_PARENT, None)
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _named_parent() -> dict[str, str]:
    return {**os.environ, _PARENT: str(os.getpid())}


def _tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"ok": True, **work()}
    except EdgectlError as e:
        return {"ok": False, "error": e.message, "hint": e.hint, "code": e.code}
    except Exception as e:
        return {"ok": False, "error": f"{type(e).__name__}: {e}"}


def _reply(out: bytes, err: bytes, code: int, what: str, advice: str | None = None) -> dict[str, Any]:
    """The last line as an answer, or one error for whatever else came."""
    said = " ".join(err.decode(errors="replace").split())[-_TAIL:]
    if code < 0:
        name = signal.Signals(-code).name
        raise EngineError(f"{what} died by {name}" + (f": {said}" if said else ""), hint=advice or _ADVICE)
    try:
        reply = json.loads(out[-_MAX_OUTPUT:].decode().strip().splitlines()[-1])
    except (ValueError, IndexError) as e:
        raise EngineError(
            f"{what} ended with {code} and no answer" + (f": {said}" if said else ""), hint=advice
        ) from e
    if not isinstance(reply, dict) or reply.get("ok") is not True:
        reply = reply if isinstance(reply, dict) else {}
        kind = _KINDS.get(str(reply.get("code")), EngineError)
        why = reply.get("error", said or "no reason given")
        raise kind(f"{what} failed: {why}", hint=reply.get("hint") or advice)
    return reply


def _signal(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may end in this very moment
        os.killpg(process.pid, signal.SIGKILL)


def _watched(
    process: subprocess.Popen[bytes],
    timeout_s: float,
    memory_mb: int | None,
    what: str,
    stop: Callable[[], EdgectlError | None] | None,
    advice: str | None,
) -> tuple[bytes, bytes]:
    """Wait for the child's output, no longer and for no more memory than it may take, and until it is to stop."""
    deadline = time.monotonic() + timeout_s
    looks = memory_mb is not None or stop is not None
    while True:
        left = deadline - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, min(left, _LOOK_S) if looks else left))
        except subprocess.TimeoutExpired:
            if stop is not None and (why := stop()) is not None:
                raise why from None
            if time.monotonic() >= deadline:
                hint = advice or f"{_ADVICE}, or allow more time"
                raise EngineError(
                    f"{what} took more than {timeout_s:g} s and was stopped", hint=hint
                ) from None
            if memory_mb is not None and (used := _resident_mb(process.pid)) > memory_mb:
                hint = advice or f"{_ADVICE}, or stop other engines and allow more memory"
                raise EngineError(
                    f"{what} took {used:.0f} MiB, more than {memory_mb} MiB, and was stopped", hint=hint
                ) from None


def _resident_mb(pid: int) -> float:
    """Of a process and all that it has started. What its children have of files, they share."""
    try:
        process = psutil.Process(pid)
        used, children = process.memory_info().rss, process.children(recursive=True)
    except psutil.Error:  # it has just ended
        return 0.0
    for child in children:
        with contextlib.suppress(psutil.Error):
            memory = child.memory_info()
            used += memory.rss - getattr(memory, "shared", 0)
    return float(used) / (1 << 20)


def _kill(process: subprocess.Popen[bytes]) -> None:
    _signal(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()
