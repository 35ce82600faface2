"""Streams that run side by side in this process: one that fails, hangs or waits does no harm to those beside it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from edgectl.core.errors import EdgectlError, EngineError
from edgectl.pipelines.kinds.base import Pipeline

__all__ = ["RunningStream", "start_all", "stop_all"]

_log = logging.getLogger(__name__)

_LOOK_S = 0.2
_GIVE_UP_S = 5.0
"""For a start that is interrupted to come back."""


def start_all(
    running: Sequence[RunningStream],
    given_up: Callable[[], bool] = lambda: False,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Side by side: one whose camera or disk lets it wait keeps no other waiting. Returns once each runs or has failed,
    or somebody has given it up. ``look`` is called now and then meanwhile."""
    for one in running:
        one.begin()
    while not given_up() and not all(one.has_begun(_LOOK_S / len(running)) for one in running):
        look()


def stop_all(running: Sequence[RunningStream]) -> None:
    """Side by side: one that waits for what hangs keeps no other waiting."""
    failed: list[BaseException] = []

    def stop(one: RunningStream) -> None:
        try:
            one.stop()
        except BaseException as e:
            failed.append(e)

    threads = [
        threading.Thread(target=stop, args=(one,), name=f"stop-{one.name}", daemon=True) for one in running
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


class RunningStream:
    """A stream that may fail without harm to those beside it."""

    def __init__(self, name: str, pipeline: Pipeline) -> None:
        self.name = name
        self.pipeline = pipeline
        self.started_s: float | None = None
        self.stuck: EdgectlError | None = None
        """Why it could not be stopped."""
        self._ended_s: float | None = None
        self._start_error: EdgectlError | None = None
        self._starting = threading.Thread(target=self._start, name=f"start-{name}", daemon=True)
        self._lock = threading.Lock()
        self._begun = self._given_up = False
        """Its start has come back; nobody waits for that any more."""

    @property
    def error(self) -> EdgectlError | None:
        """Why it failed."""
        return self._start_error or self.stuck or (None if self.started_s is None else self.pipeline.error)

    def begin(self) -> None:
        """Start it in a thread of its own. What goes wrong is this stream's error."""
        self._starting.start()

    def has_begun(self, timeout_s: float) -> bool:
        """Whether it runs or has failed."""
        self._starting.join(timeout_s)
        return not self._starting.is_alive()

    def _start(self) -> None:
        error: EdgectlError | None = None
        try:
            self.pipeline.start()
        except EdgectlError as e:
            error = e
        except Exception as e:
            _log.exception("stream %s", self.name)
            error = EngineError(f"stream {self.name} failed: {type(e).__name__}: {e}")
        with self._lock:
            self._begun = True
            self._start_error = error
            if error is None and not self._given_up:
                self.started_s = time.monotonic()
            late = error is None and self._given_up
        if late:
            self.pipeline.stop()

    def over(self, timeout_s: float) -> bool:
        if self.started_s is None or self._ended_s is not None:
            return True
        if self.pipeline.wait(timeout_s):
            self._ended_s = time.monotonic()
        return self._ended_s is not None

    def stop(self) -> None:
        if self._starting.is_alive():
            self.pipeline.interrupt()
            self._starting.join(_GIVE_UP_S)
        with self._lock:
            self._given_up = self._starting.ident is not None and not self._begun
        if self._given_up:
            what = f"stream {self.name} does not stop: its start waits for a camera or a disk"
            self.stuck = EngineError(what, hint="the process must be killed")
            return
        if self.started_s is not None and self._ended_s is None:
            self._ended_s = time.monotonic()
        try:
            self.pipeline.stop()
        except EdgectlError as e:
            self.stuck = self.stuck or e

    @property
    def ran_s(self) -> float | None:
        """For how long it ran, up to now; None: it did not start."""
        if self.started_s is None:
            return None
        return (self._ended_s or time.monotonic()) - self.started_s
