"""An agent that kills itself at a step of a deployment that it was told: the counting is done in its own process, so that
every step can be had, and the kill is a real one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.supervised_stream import SupervisedStream
from edgectl.core.states import State
from edgectl.pipelines.host.protocol import Commit, Configure

__all__ = ["die_where_told", "died_at", "spare", "tell_to_die"]

_NUMBER, _DIED = "die-at", "died-at"


def tell_to_die(folder: Path, number: int) -> None:
    """The agent of this folder dies at step ``number`` (from 1) of the next deployment."""
    (folder / _DIED).unlink(missing_ok=True)
    (folder / _NUMBER).write_text(str(number))


def spare(folder: Path) -> None:
    """It does not die any more."""
    (folder / _NUMBER).unlink(missing_ok=True)


def died_at(folder: Path) -> str | None:
    """The step at which it died; None: it did not."""
    path = folder / _DIED
    return path.read_text() if path.is_file() else None


def die_where_told(folder: Path, slot: str) -> None:
    """Steps are: before and behind each commit of the journal, behind each copy of it in the mirror, before and behind
    each word to a worker that changes what it runs. They count from the first record of a deployment in ``slot`` on."""
    number, lock = folder / _NUMBER, threading.Lock()
    seen = 0
    commit, reflect, send = Journal._commit, Journal._reflect, SupervisedStream.send

    def step(what: str) -> None:
        nonlocal seen
        with lock:
            if not seen or not number.is_file():
                return
            with contextlib.suppress(FileNotFoundError):  # spared this very moment
                if seen == int(number.read_text()):
                    (folder / _DIED).write_text(f"{seen}: {what}")
                    number.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    def begins(statements: Sequence[tuple[str, tuple[Any, ...]]]) -> str:
        nonlocal seen
        for sql, values in statements:
            if "INTO deployments" in sql and values[0] == slot:
                if values[2] == State.NOTIFIED.value and number.is_file():
                    seen = 1
                return f"{slot} {values[2]}"
        return "something else"

    def committed(self: Journal, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        what = begins(statements)
        step(f"before the commit of {what}")
        commit(self, statements)
        step(f"behind the commit of {what}")

    def reflected(self: Journal) -> None:
        reflect(self)
        step("behind the mirror")

    def sent(self: SupervisedStream, message: Any) -> None:
        if not isinstance(message, Configure | Commit):
            send(self, message)
            return
        step(f"before {message.op} to {self.stream}")
        send(self, message)
        step(f"behind {message.op} to {self.stream}")

    Journal._commit = committed  # type: ignore[method-assign]
    Journal._reflect = reflected  # type: ignore[method-assign]
    SupervisedStream.send = sent  # type: ignore[method-assign]
