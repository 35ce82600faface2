"""What a sink is, and the thread that feeds all sinks of a stream."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from edgectl.core.errors import EdgectlError, EngineError
from edgectl.core.schema import Config
from edgectl.pipelines.stream.frame import Frame
from edgectl.pipelines.video.tracker import Tracks

__all__ = ["Record", "Sink", "SinkContext", "SinkOptions", "SinkPool", "SinkType", "StreamOutput"]

_log = logging.getLogger(__name__)

Record = dict[str, Any]
_MAX_RECORDS = 4096  # outputs that hold no picture
_MAX_PICTURES = 6  # outputs that hold one


@dataclass(frozen=True, slots=True)
class StreamOutput:
    """What one processed frame (or stretch of audio) gave."""

    records: tuple[Record, ...]
    frame: Frame | None = None
    tracks: Tracks | None = None
    t_s: float | None = None
    """Capture time of ``tracks``."""
    draw: Callable[[NDArray[Any]], None] | None = None
    """Draws what was found into a BGR copy of the frame."""


class Sink(Protocol):
    """Written to by the pool's thread alone."""

    name: str
    pictures: bool
    """Whether it needs frames; such sinks are fed last and lose outputs first."""

    @property
    def path(self) -> Path | None:
        """The file that it writes, if it is one."""
        ...

    def write(self, output: StreamOutput) -> None:
        """Raises :class:`StorageError` or :class:`LinkError`."""
        ...

    def close(self) -> None:
        """Finish files. Called once, by the pool's thread, after the last ``write``."""
        ...


class SinkOptions(Config):
    """What the configuration says about a sink."""

    def event_names(self) -> tuple[str, ...]:
        """Ids of rules and zones that it names: they must exist."""
        return ()


@dataclass(frozen=True)
class SinkContext:
    """What a sink may know of its stream when it is made."""

    stream: str
    out: Path | None = None
    """Folder for files."""
    fps: float | None = None
    """Of the frames; None for sound."""


@dataclass(frozen=True)
class SinkType:
    make: Callable[[Any, SinkContext], Sink | None]
    """From its options and the stream's context. None: these options want nothing written."""
    doc: str
    """One line: what it writes, and where."""
    options: type[SinkOptions] = SinkOptions
    default: bool = False
    """Whether it is used where the configuration does not name it."""
    files: bool = False
    """Whether it writes into the folder for files, and is left out where there is none."""
    pictures: bool = False
    """Whether it needs frames or tracks. It is refused in a kind of pipeline that has none."""


class SinkPool:
    """One thread. Records go before pictures; both queues are bounded.

    ``wait=True`` (files): :meth:`offer` waits for room and nothing is lost. ``wait=False`` (cameras): it
    never blocks, and what does not fit is counted in :attr:`counters` as ``sink_full:pictures`` or
    ``sink_full:records``. A sink that fails is closed, kept in :attr:`errors`, counted as
    ``sink_failed:<name>`` and not written to again; the others go on.
    """

    def __init__(
        self, name: str, sinks: Sequence[Sink], *, wait: bool, written: Callable[[int], None] | None = None
    ) -> None:
        self.counters: dict[str, int] = {}
        self.errors: dict[str, EdgectlError] = {}
        self._sinks = list(sinks)
        self._pictures = any(s.pictures for s in sinks)
        self._wait = wait
        self._written = written
        self._change = threading.Condition()
        self._light: deque[tuple[StreamOutput, int]] = deque()
        self._heavy: deque[StreamOutput] = deque()
        self._closing = False
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"sinks-{name}", daemon=True)
        self._thread.start()

    def offer(self, output: StreamOutput) -> None:
        """Queue one output for every sink."""
        with self._change:
            if self._closing:
                return
            # Record sinks and picture sinks each get what concerns them, so that a slow video never delays an
            # event.
            if output.records or output.tracks is not None:
                self._put(
                    self._light,
                    (StreamOutput(output.records, None, output.tracks, output.t_s), time.monotonic_ns()),
                    _MAX_RECORDS,
                    "records",
                )
            if self._pictures and output.frame is not None:
                self._put(self._heavy, output, _MAX_PICTURES, "pictures")

    def close(self, timeout_s: float = 30.0) -> bool:
        """Write what is queued, at most for ``timeout_s``, finish the sinks and join. False if something
        was left unwritten: it is logged."""
        with self._change:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            self._change.notify_all()
        self._thread.join(timeout_s + 10)
        left = len(self._light) + len(self._heavy)
        if left or self._thread.is_alive():
            _log.error("%s: %d outputs were not written in %g s", self._thread.name, left, timeout_s)
            return False
        return True

    def _put(self, queue: deque[Any], item: Any, limit: int, what: str) -> None:
        if self._wait:
            self._change.wait_for(lambda: len(queue) < limit or self._closing)
        if len(queue) >= limit:
            self._count(f"sink_full:{what}")
            return
        queue.append(item)
        self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._light or self._heavy or self._closing)
                late = self._deadline is not None and time.monotonic() > self._deadline
                if late or not (self._light or self._heavy):
                    break
                light = self._light.popleft() if self._light else None
                heavy = None if light else self._heavy.popleft()
                self._change.notify_all()
            if light is not None:
                output, offered_ns = light
                self._write(output, pictures=False)
                if self._written is not None and output.records:
                    self._written(time.monotonic_ns() - offered_ns)
            elif heavy is not None:
                self._write(heavy, pictures=True)
        for sink in self._sinks:
            self._guard(sink, sink.close)

    def _write(self, output: StreamOutput, *, pictures: bool) -> None:
        for sink in list(self._sinks):
            if sink.pictures == pictures and not self._guard(sink, lambda s=sink: s.write(output)):  # type: ignore[misc]
                self._sinks.remove(sink)
                self._guard(sink, sink.close)

    def _guard(self, sink: Sink, call: Callable[[], None]) -> bool:
        try:
            call()
        except EdgectlError as e:
            self._lost(sink, e)
        except Exception as e:
            # one thread feeds all sinks: it must not die of one
            _log.exception("sink %s", sink.name)
            self._lost(sink, EngineError(f"sink {sink.name} failed: {type(e).__name__}: {e}"))
        else:
            return True
        return False

    def _lost(self, sink: Sink, e: EdgectlError) -> None:
        if sink.name not in self.errors:
            _log.error("sink %s failed and is closed: %s", sink.name, e)
            self.errors[sink.name] = e
            self._count(f"sink_failed:{sink.name}")

    def _count(self, key: str, n: int = 1) -> None:
        self.counters[key] = self.counters.get(key, 0) + n
