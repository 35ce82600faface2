"""The engine of a part while a stream runs: switched between two frames, the old one kept warm until commit
or revert.

Who begins with a frame (or a crop) takes its engine by :meth:`HotSwap.begin`; what is under way with the one
before still comes back from it, in order. :meth:`HotSwap.frame_done` is called after each frame; everybody
else asks through :meth:`switch`, :meth:`commit` and :meth:`revert`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from edgectl.core.errors import EngineError, ModelError
from edgectl.pipelines.video.engine_pool import EngineSeat
from edgectl.pipelines.video.seated_engine import SeatedEngine

__all__ = ["HotSwap", "OtherLabels"]

E = TypeVar("E", bound=SeatedEngine)

_POLL_S = 0.2
# the answer does not wait longer for frames of a camera that is away
_SETTLE_S = 2.0
_SETTLE_FRAMES = 3


class OtherLabels(ModelError):
    """The engine speaks of other things than the running one: it needs a new start of the stream."""


@dataclass
class _Watch:
    """The frames around a switch."""

    engine: SeatedEngine
    settled: threading.Event = field(default_factory=threading.Event)
    gap_ns: int = 0
    frames: int = 0


class HotSwap(Generic[E]):
    def __init__(self, engine: E, over: Callable[[], bool]) -> None:
        """``over``: whether the stream has come to its end."""
        self.engine = engine
        """The slot's engine: what the next frame runs on, unless another variant stands in for it."""
        self._over = over
        self._asked = threading.Lock()
        self._lock = threading.Lock()
        self._previous: E | None = None
        self._on_trial = engine.slot.on_trial
        self._stand_in: E | None = None
        self._stood_in: E | None = None
        """Since it was asked last."""
        self._leaving: tuple[E, ...] = ()
        """Taken over by others, and not closed before their last frames are through."""
        self._watch: _Watch | None = None

    def begin(self) -> E:
        """The engine of the next frame, which is under way with it from now on."""
        with self._lock:
            engine = self._stand_in or self.engine
            self._stood_in = self._stand_in or self._stood_in
            engine.begin()
            return engine

    @property
    def on_trial(self) -> bool:
        """Nobody has said yet that the slot's engine stays."""
        return self._on_trial

    def stood_in(self) -> E | None:
        """What stood in for the slot's engine at a frame since this was asked last; None: nothing."""
        with self._lock:
            found, self._stood_in = self._stood_in, self._stand_in
            return found

    @property
    def running(self) -> E:
        """What the next frame runs on."""
        with self._lock:
            return self._stand_in or self.engine

    def stand_in(self, engine: E | None, instead_of: E) -> None:
        """Run the next frames on another variant of the slot's engine, which is warm; None: on that again. The one
        that stood in before is closed once its frames are through. A switch of the slot's engine ends it, too, and
        one that comes too late for ``instead_of``, the slot's engine then, is closed."""
        with self._asked:
            with self._lock:
                late = self._over() or instead_of is not self.engine
                if not late:
                    self._leave(self._stand_in)
                    self._stand_in = engine
            if late and engine is not None:
                engine.close()
            self._close_leaving()

    def frame_done(self, engine: SeatedEngine, period_ns: int | None) -> None:
        """A frame of ``engine`` is through, ``period_ns`` after the one before."""
        watch = self._watch
        if watch is None:
            return
        watch.gap_ns = max(watch.gap_ns, period_ns or 0)
        if engine is watch.engine:
            watch.frames += 1
            if watch.frames >= _SETTLE_FRAMES:
                watch.settled.set()

    def wake(self) -> None:
        """The stream may be ready for another result."""
        for seat in self._seats():
            seat.wake()

    def switch(self, engine: E) -> float:
        """Take over an engine that is warm. Returns the longest time between two frames around the switch, in
        ms.

        Raises :class:`EngineError` if the stream is at its end; the new engine is closed then.
        """
        with self._asked:
            if self._over():
                engine.close()
                raise EngineError("the stream is not running: the engine was not switched")
            watch = _Watch(engine)
            self._watch = watch
            self.take(engine)
            self._close_leaving()
            for _ in range(round(_SETTLE_S / _POLL_S)):
                if watch.settled.wait(_POLL_S) or self._over():
                    break
            self._watch = None
            return watch.gap_ns / 1e6

    def take(self, engine: E) -> None:
        """The same from the thread that begins with frames, between two of them: nothing is waited for. What goes is
        closed with the next switch, commit or revert."""
        with self._lock:
            # a second swap before a commit: the one in between goes
            self._leave(self._previous)
            self._leave(self._stand_in)
            self._stand_in = None
            self.engine, self._previous = engine, self.engine
            self._on_trial = True

    def commit(self) -> None:
        """The engine stays: close the one that the last switch replaced."""
        with self._asked:
            with self._lock:
                self._on_trial = False
                self._leave(self._previous)
                self._previous = None
            self._close_leaving()

    def revert(self) -> None:
        """Go back to the engine that the last switch replaced, and close the other; nothing to do without
        one."""
        with self._asked:
            with self._lock:
                if self._previous is None:
                    return
                self._leave(self._stand_in)
                self._stand_in = None
                self._leave(self.engine)
                self.engine, self._previous = self._previous, None
                self._on_trial = False
            self._close_leaving()

    def cancel(self) -> None:
        """The stream ends: no frame waits for an engine any more."""
        for seat in self._seats():
            seat.cancel()

    def close(self) -> bool:
        """Close every engine. After the stream's threads have ended. False: a call of one is stuck."""
        with self._asked:
            with self._lock:
                self._leave(self._previous)
                self._leave(self._stand_in)
                self._previous = self._stand_in = None
            closed = self._close_leaving()
            return self.engine.close() and closed

    def _seats(self) -> list[EngineSeat]:
        with self._lock:
            engines = (self.engine, self._previous, self._stand_in, *self._leaving)
        return [e.seat for e in engines if e is not None and e.seat is not None]

    def _leave(self, engine: E | None) -> None:
        if engine is not None:
            self._leaving = (*self._leaving, engine)

    def _close_leaving(self) -> bool:
        with self._lock:
            leaving = self._leaving
        closed = [engine.close() for engine in leaving]
        with self._lock:
            self._leaving = self._leaving[len(leaving) :]
        return all(closed)
