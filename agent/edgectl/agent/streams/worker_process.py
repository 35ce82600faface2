"""The worker process that streams share. It starts with the first stream that enters and ends with the last one
that leaves; a crash in a native library ends it, never the agent.

Each stream has a thread of its own in the agent, which enters and leaves; one thread (``worker-<name>``) reads what
the worker says and puts it before the stream that it is about. What it all means is decided elsewhere:
:mod:`edgectl.agent.streams.worker_life` for a stream, :mod:`edgectl.agent.streams.worker_sharing` for the process.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.agent.streams.worker_pipe import ToWorkerMessage, WorkerPipe
from edgectl.agent.streams.worker_sharing import culprits, must_replace
from edgectl.core.errors import ProtocolError
from edgectl.core.wire import Failure
from edgectl.pipelines.host.protocol import (
    Configure,
    Configured,
    ConfigureFailed,
    Ended,
    Fault,
    FromWorker,
    Ready,
    Shadowed,
    ShadowFailed,
    ShadowMessage,
    Start,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
    parse_from_worker,
)

__all__ = ["Left", "ProcessSeat", "WorkerProcess"]

log = logging.getLogger(__name__)

_CONFIGURATION = "(configuration)"
"""What a stream tries that prepares or takes another one; no part is called that."""
_LOOK_S = 0.5
_TURN_S = 3.0
"""A stream that starts keeps the next one waiting for so long at most: a crash then has one suspect."""
_ANSWER_S = 2.0
"""Beyond its time to stop, for the worker to say that a stream has ended."""
_EXIT_S = 2.0
"""For a process that has closed its output to be gone."""
_MAX_WAITING = 1024
"""Messages that a stream has not taken yet; the worker waits then."""


@dataclass(frozen=True)
class Left:
    """How a stream came out of its worker."""

    stuck: tuple[str, ...] = ()
    """What the worker could not stop."""
    fault: Failure | None = None
    """Of the process, if that ended with the stream in it."""
    guilty: bool = False
    """The process ended, and this stream is why."""


class ProcessSeat:
    """A stream in a worker. Its thread reads; :class:`WorkerProcess` writes."""

    def __init__(self, stream: str, restart: Callable[[str], None]) -> None:
        self.stream = stream
        self.restart = restart
        self.left: Left | None = None
        self.starting_s: float | None = time.monotonic()
        """Since when it is being started; None once that is over."""
        self.trying: set[str] = set()
        """Parts for which another engine is being opened, and :data:`_CONFIGURATION`."""
        self._messages: queue.Queue[FromWorker | None] = queue.Queue(_MAX_WAITING)

    @property
    def suspect(self) -> bool:
        return self.starting_s is not None or bool(self.trying)

    def read(self, timeout_s: float) -> list[FromWorker] | None:
        """What was said within the time, maybe nothing; None once the stream is out of the worker."""
        found: list[FromWorker] = []
        try:
            message = self._messages.get(timeout=max(0.0, timeout_s))
            while message is not None:
                found.append(message)
                message = self._messages.get_nowait()
        except queue.Empty:
            return found
        self._messages.put(None)  # for whoever asks again
        return found or None

    def put(self, message: FromWorker) -> None:
        while self.left is None:
            try:
                self._messages.put(message, timeout=_LOOK_S)
                return
            except queue.Full:
                log.warning("%s: its messages are not taken", self.stream)

    def over(self, left: Left) -> None:
        self.left = left
        # room for the last word, whatever waits before it
        self._messages.maxsize = 0
        self._messages.put(None)


class WorkerProcess:
    """Any thread may :meth:`send`; a stream enters and leaves by its own thread."""

    def __init__(
        self, name: str, command: Sequence[str], stop_s: float, pictures: Path | None = None
    ) -> None:
        """``pictures``: where it serves those of its streams, a Unix socket; None: it does not."""
        self.name = name
        self.pictures = pictures
        self._command = command if pictures is None else (*command, "--pictures", str(pictures))
        self._stop_s = stop_s
        self._changed = threading.Condition()
        self._pipe: WorkerPipe | None = None
        self._places: dict[str, ProcessSeat] = {}
        self._ending = False
        """The process is to go: nobody enters."""
        self._kill_at_s = float("inf")
        self._blamed: tuple[str, Failure] | None = None
        """The stream for which the process was killed, and why."""
        self._left_behind = 0

    def enter(
        self, start: Start, restart: Callable[[str], None], wanted: Callable[[], bool]
    ) -> ProcessSeat | None:
        """Start a stream in the process, which is started if there is none.

        Waits for a process that is about to go, and for its turn; None once it is not ``wanted`` any more.
        ``restart`` is called, with the reason, when the stream shall leave and enter again. Raises ``OSError`` where
        the machine has no process, memory or file left.
        """
        with self._changed:
            while self._pipe is not None and (self._ending or self._is_somebody_starting()):
                if not wanted():
                    return None
                self._changed.wait(_LOOK_S)
            if self._pipe is None:
                self._launch()
            pipe = self._pipe
            assert pipe is not None
            place = self._places[start.stream] = ProcessSeat(start.stream, restart)
        pipe.send(start)
        return place

    def send(self, place: ProcessSeat, message: ToWorkerMessage) -> None:
        """To a stream that has a place, if it still has."""
        with self._changed:
            pipe = self._pipe if place.left is None else None
            if isinstance(message, Swap | ShadowMessage):
                place.trying.add(message.part)
            elif isinstance(message, Configure):
                place.trying.add(_CONFIGURATION)
        if pipe is not None:
            pipe.send(message)

    def leave(self, place: ProcessSeat, within_s: float, take: Callable[[FromWorker], None]) -> Left:
        """Stop a stream and give up its place; ``take`` gets what it says meanwhile.

        The process is killed if it does not answer; it ends in good order with the last stream, and is replaced when
        it cannot serve its other streams any more.
        """
        self.send(place, Stop(stream=place.stream, within_s=within_s))
        deadline, killed = time.monotonic() + within_s + _ANSWER_S, False
        while (messages := place.read(_LOOK_S)) is not None:
            for message in messages:
                take(message)
            if time.monotonic() > deadline and not killed:
                killed = True
                detail = f"the worker did not stop {place.stream} in {within_s:.0f} s"
                self._kill(place.stream, Failure(code="stalled", detail=detail, retryable=True))
        left = place.left
        assert left is not None
        why = None
        with self._changed:
            del self._places[place.stream]
            if left.stuck and self._pipe is not None:
                self._left_behind += 1
                why = must_replace(left.stuck, self._left_behind)
            if not self._places:
                self._end()
            self._changed.notify_all()
        if why is not None:
            self.replace(f"{place.stream}: {why}")
        return left

    def replace(self, why: str) -> None:
        """Have every stream that is in the process leave it, and enter a new one."""
        with self._changed:
            there = list(self._places.values())
            if not there:
                return
            self._ending = True
        log.warning("the worker %s is replaced: %s", self.name, why)
        # without the lock: each takes that of its stream
        for place in there:
            place.restart(f"the worker is replaced: {why}")

    def kill(self) -> None:
        """Without a word, as a crash would."""
        if (pipe := self._pipe) is not None:
            pipe.kill()

    @property
    def pid(self) -> int | None:
        return None if (pipe := self._pipe) is None else pipe.pid

    # ---- inside, with the lock held

    def _is_somebody_starting(self) -> bool:
        now_s = time.monotonic()
        return any(p.starting_s is not None and now_s - p.starting_s < _TURN_S for p in self._places.values())

    def _launch(self) -> None:
        pipe = self._pipe = WorkerPipe(self.name, self._command)
        self._ending, self._blamed, self._left_behind = False, None, 0
        self._kill_at_s = float("inf")
        threading.Thread(target=self._read, args=(pipe,), name=f"worker-{self.name}", daemon=True).start()

    def _end(self) -> None:
        """Nobody is left: close its input, wait, kill."""
        if (pipe := self._pipe) is None:
            return
        self._ending = True
        self._kill_at_s = time.monotonic() + self._stop_s
        pipe.close_input()
        while self._pipe is pipe:
            self._changed.wait(_LOOK_S)

    # ---- inside

    def _kill(self, stream: str, why: Failure) -> None:
        log.warning("the worker %s is killed: %s", self.name, why.detail)
        with self._changed:
            self._blamed = self._blamed or (stream, why)
        self.kill()

    def _read(self, pipe: WorkerPipe) -> None:
        """Thread: until the process is gone."""
        fault: Failure | None = None
        try:
            while (lines := pipe.read(0.1 if self._ending else _LOOK_S)) is not None:
                for line in lines:
                    message = parse_from_worker(line)
                    if message.stream is None:
                        fault = message.error
                    else:
                        self._take(message.stream, message)
                if time.monotonic() > self._kill_at_s:
                    pipe.kill()
                if not lines and pipe.returncode is not None:
                    break  # a child of it may hold its output open
        except ProtocolError as e:
            fault = Failure(code="protocol", detail=e.message)
            pipe.kill()
        finally:
            code = pipe.end(_EXIT_S)
            if code and fault is None:
                detail = f"the worker ended with code {code}"
                fault = Failure(code="crash", detail=detail, retryable=True)
            self._gone(fault)

    def _take(self, stream: str, message: FromWorker) -> None:
        with self._changed:
            place = self._places.get(stream)
            if place is None or place.left is not None:
                log.warning("%s is over and still says %s", stream, message.op)
                return
            if isinstance(message, Ready | Fault | Ended):
                place.starting_s = None
            elif isinstance(message, Swapped | SwapFailed | Shadowed | ShadowFailed):
                place.trying.discard(message.part)
            elif isinstance(message, Configured | ConfigureFailed):
                place.trying.discard(_CONFIGURATION)
            self._changed.notify_all()
        if isinstance(message, Ended):
            place.over(Left(stuck=message.stuck))
        else:
            place.put(message)

    def _gone(self, fault: Failure | None) -> None:
        """The process was waited for: tell every stream that was in it."""
        with self._changed:
            there = [p for p in self._places.values() if p.left is None]
            if self._blamed is not None:
                who: frozenset[str] | None = frozenset({self._blamed[0]})
                fault = self._blamed[1]
            else:
                who = culprits([p.stream for p in there if p.suspect])
            for place in there:
                guilty = who is not None and place.stream in who
                own = fault if who is None or guilty else _neighbours(who, fault)
                place.over(Left(fault=own, guilty=guilty and fault is not None))
            self._pipe, self._ending = None, False
            self._changed.notify_all()


def _neighbours(who: frozenset[str], fault: Failure | None) -> Failure:
    why = fault.detail if fault is not None else "the worker ended"
    return Failure(
        code="neighbour", detail=f"{', '.join(sorted(who))} ended the worker: {why}", retryable=True
    )
