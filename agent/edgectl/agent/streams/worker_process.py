"""One stream's worker process: started, watched, swapped, started again.

A crash in a native library ends the worker, never the agent. A worker is judged by progress (processed
frames), not by being alive. Starts are counted on disk *before* the process starts; a worker that made
progress for a while clears the count.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgectl.agent.config import StreamConfig
from edgectl.agent.state.journal import Journal
from edgectl.core.errors import EngineError, ProtocolError, StorageError
from edgectl.core.wire import Failure, ShadowGate
from edgectl.pipelines.host.protocol import (
    MAX_LINE_BYTES,
    Commit,
    EngineRef,
    EventMessage,
    Fault,
    LeaseMessage,
    Ready,
    Revert,
    Shadowed,
    ShadowFailed,
    ShadowMessage,
    Start,
    Stats,
    Stop,
    Swap,
    SwapFailed,
    Swapped,
    parse_from_worker,
)

__all__ = ["WORKER", "Hooks", "Interrupted", "Timing", "WorkerProcess"]

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "edgectl.pipelines.host.worker")

_OUTSIDE = frozenset({"source", "link", "storage"})
"""Fault codes that no engine is to blame for: started again, not counted."""
_SEND_S = 2.0
"""A pipe holds many lines: whoever lets it fill up and does not read for this long does nothing else,
either."""


class Interrupted(EngineError):
    """A stream could not go on with an engine for a reason that the engine is not to blame for: its camera
    is gone, the disk is full."""


@dataclass(frozen=True)
class Timing:
    """Seconds, and the number of starts without progress that make a crash loop."""

    start_s: float = 120.0
    stop_s: float = 5.0
    steady_s: float = 30.0
    """Progress for this long clears the crash count."""
    disagrees_s: float = 5.0
    """A worker whose statistics name another engine than it was told, for this long, is started again."""
    backoff_s: tuple[float, float] = (1.0, 60.0)
    crashes: int = 3


@dataclass(frozen=True)
class Hooks:
    """What the supervisor tells. All are called on pipeline threads and must not wait."""

    stats: Callable[[str, Stats], None]
    event: Callable[[str, EventMessage], None]
    crash_loop: Callable[[str], None]
    """The engines of this stream do not survive."""
    lease: Callable[[str, LeaseMessage], None] = lambda stream, lease: None
    """The stream is in the middle of something."""


@dataclass
class WorkerProcess:
    """One stream. The thread ``pipe-<stream>`` owns the process; other threads send lines and wait on
    ``_changed``."""

    stream: str
    config: StreamConfig
    engine_of: Callable[[str], EngineRef | None]
    journal: Journal
    hooks: Hooks
    command: Sequence[str]
    stats_every_s: float
    timing: Timing
    cache: Path | None
    state: tuple[str, str | None] = ("waiting", None)
    _serving: dict[str, EngineRef] = field(default_factory=dict)
    """Part → engine, as the worker has confirmed; empty while none is ready."""
    _standby: dict[str, EngineRef] = field(default_factory=dict)
    """Part → engine that the worker still keeps warm."""
    _asked: dict[str, EngineRef] = field(default_factory=dict)
    """Part → engine of the swap that is not answered yet."""
    _launched: dict[str, EngineRef] = field(default_factory=dict)
    """Part → engine that the last process was started with: whose fault ``_fault`` may be."""
    _refused: dict[str, Failure] = field(default_factory=dict)
    """Part → why the last swap failed."""
    _shadowed: dict[str, Shadowed | ShadowFailed] = field(default_factory=dict)
    """Part → what came of running another engine beside it."""
    _uncounted: int = 0
    """Starts since the journal could last be written."""
    _fault: Failure | None = None
    _why: str | None = None
    """How the process before ended, for people."""
    _process: subprocess.Popen[bytes] | None = None
    _progress_at: float = 0.0
    _processed: int = -1
    _disagrees_at: float | None = None
    """Since when the worker names another engine than it was told."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._send_lock = threading.Lock()
        self._stopping = False
        self._restart = False
        self.thread = threading.Thread(target=self._run, name=f"pipe-{self.stream}", daemon=True)

    def parts(self, slot: str) -> list[str]:
        return [part for part, s in self.config.slots.items() if s == slot]

    @property
    def stalled(self) -> bool:
        return time.monotonic() - self._progress_at > self.config.stall_s

    def engines(self) -> dict[str, EngineRef] | None:
        """Part → engine; None while a slot is empty."""
        found = {
            part: ref for part, slot in self.config.slots.items() if (ref := self.engine_of(slot)) is not None
        }
        return found if len(found) == len(self.config.slots) else None

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def restart(self) -> None:
        with self._changed:
            self._restart = True
            self._changed.notify_all()

    def ensure(
        self, slot: str, ref: EngineRef | None, deadline: float, cancelled: Callable[[], bool]
    ) -> None:
        if ref is None or self.engines() is None:
            self.restart()  # the thread finds a slot empty and waits
            return
        for part in self.parts(slot):
            self._ensure_part(part, ref, deadline, cancelled)

    def refresh(self, slot: str, ref: EngineRef, deadline: float) -> None:
        for part in self.parts(slot):
            with self._changed:
                if self._serving.get(part) != ref or part in self._asked:
                    continue  # it starts, or is about to run something else
                self._refused.pop(part, None)
                self._asked[part] = ref
                self.send(Swap(part=part, engine=ref))
                while part in self._asked and time.monotonic() < deadline:
                    self._changed.wait(0.2)
                failure = self._refused.pop(part, None)
                if failure is not None or part in self._asked:
                    why = failure.detail or failure.code if failure is not None else "no answer in time"
                    raise EngineError(f"{self.stream} did not open the better engine: {why}")
            self.commit(part)

    def commit(self, part: str) -> None:
        """The old engine may be unloaded; to go back to it is a switch like any other from then on."""
        # forgotten first: a worker that has unloaded it has nothing to revert to
        with self._changed:
            self._standby.pop(part, None)
        self.send(Commit(part=part))

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, deadline: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        return [self._shadow_part(part, ref, gate, deadline, cancelled) for part in self.parts(slot)]

    def _shadow_part(
        self, part: str, ref: EngineRef, gate: ShadowGate, deadline: float, cancelled: Callable[[], bool]
    ) -> Shadowed:
        with self._changed:
            while part not in self._serving:
                self._wait_on(deadline, cancelled, "has no engine to compare with")
            self._shadowed.pop(part, None)
            process = self._process
            self.send(ShadowMessage(part=part, engine=ref, percent=gate.percent, frames=gate.frames))
            while (answer := self._shadowed.pop(part, None)) is None or answer.manifest != ref.manifest:
                if self._process is not process:
                    raise self._blamed("ended while it ran the new engine beside the old one")
                self._wait_on(deadline, cancelled, f"has not seen {gate.frames} frames with both engines")
        if isinstance(answer, ShadowFailed):
            raise EngineError(
                f"{self.stream} could not compare the engines: {answer.error.detail or answer.error.code}"
            )
        return answer

    def _wait_on(self, deadline: float, cancelled: Callable[[], bool], what: str) -> None:
        if cancelled() or time.monotonic() > deadline:
            raise self._blamed(what)
        self._changed.wait(0.2)

    def _blamed(self, what: str) -> EngineError:
        outside = self._fault is not None and self._fault.code in _OUTSIDE
        return (Interrupted if outside else EngineError)(f"{self.stream} {what}")

    def _ensure_part(self, part: str, ref: EngineRef, deadline: float, cancelled: Callable[[], bool]) -> None:
        asked: subprocess.Popen[bytes] | None = None
        with self._changed:
            self._fault = None
            self._refused.pop(part, None)
            # a thread that backs off after crashes of the old engine starts now
            self._changed.notify_all()
            while self._serving.get(part) != ref:
                if self._serving and asked is not self._process and part not in self._asked:
                    asked = self._process
                    if self._standby.get(part) == ref:
                        self.send(Revert(part=part))
                        self._serving[part] = self._standby.pop(part)
                        continue
                    self._asked[part] = ref
                    self.send(Swap(part=part, engine=ref))
                failure = self._refused.pop(part, None)
                if (
                    self._fault is not None
                    and self._fault.code not in _OUTSIDE
                    and self._launched.get(part) == ref
                ):
                    failure = failure or self._fault
                if failure is not None:
                    raise EngineError(
                        f"{self.stream} did not take the engine: {failure.detail or failure.code}"
                    )
                if cancelled() or time.monotonic() > deadline:
                    why = self._fault.detail if self._fault else self._why or self.state[0]
                    raise EngineError(f"{self.stream} did not take the engine in time: {why}")
                self._changed.wait(0.2)

    def send(self, message: Start | Swap | ShadowMessage | Commit | Revert | Stop) -> None:
        """One line to the worker; a worker that is gone is the thread's business. One that hangs and does
        not read is killed: who waits for it holds what the thread needs to notice."""
        process = self._process
        if process is None or process.stdin is None:
            return
        try:
            with self._send_lock:
                _write_all(process.stdin.fileno(), message.encode() + b"\n", _SEND_S)
        except TimeoutError:
            log.warning("%s: the worker does not read; it is killed", self.stream)
            process.kill()
        except (OSError, ValueError):
            log.info("%s: the worker does not read any more", self.stream)

    # ---- the pipeline's own thread

    def _run(self) -> None:
        attempt = 0
        while not self._stopping:
            try:
                engines = self.engines()
            except StorageError as e:
                # of the journal: nobody knows which engine, until it can be read
                self._set("waiting", e.message)
                self._wait(1.0)
                continue
            if engines is None:
                self._set("waiting", "a slot has no engine yet")
                self._wait(1.0)
                attempt = 0
                continue
            counter = self._counter(engines)
            starts = self._count(counter)
            if starts > self.timing.crashes:
                self.hooks.crash_loop(self.stream)
            self._restart = False
            steady = self._work(engines, counter)
            if self._stopping or self._restart or (self._fault and self._fault.code in _OUTSIDE):
                self._clear(counter)
            attempt = 0 if steady or self._restart else attempt + 1
            if not self._stopping and not self._restart:
                low, high = self.timing.backoff_s
                self._why = self._fault.detail if self._fault else "the worker ended"
                self._set("restarting", self._why)
                self._wait(random.uniform(low / 2, min(high, low * 2**attempt)))

    def _count(self, counter: str) -> int:
        """Starts in a row, this one counted, on disk before it happens; in memory while the disk takes
        nothing: inference goes on."""
        try:
            starts = self.journal.count(counter)
        except StorageError as e:
            log.error("%s: %s", self.stream, e.message)
            self._uncounted += 1
            with contextlib.suppress(StorageError):
                return self.journal.value(counter) + self._uncounted
            return self._uncounted
        self._uncounted = 0
        return starts

    def _clear(self, counter: str) -> None:
        self._uncounted = 0
        try:
            self.journal.clear(counter)
        except StorageError as e:
            log.error("%s: %s", self.stream, e.message)

    def _counter(self, engines: Mapping[str, EngineRef]) -> str:
        """Crash counts belong to a stream with these very engines."""
        names = ",".join(f"{r}={e.manifest}" for r, e in sorted(engines.items()))
        return f"crash:{self.stream}:{hashlib.sha256(names.encode()).hexdigest()[:16]}"

    def _work(self, engines: Mapping[str, EngineRef], counter: str) -> bool:
        """Run one process to its end. Returns whether it made progress for a while."""
        self._set("starting", None)
        self._fault = None
        self._launched = dict(engines)
        # A session of its own: Ctrl-C reaches the agent, which stops its workers in order.
        try:
            process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        except OSError as e:
            # no memory, no process, no file left: the engine is not to blame
            self._fault = Failure(
                code="storage", detail=f"a worker cannot be started: {e.strerror}", retryable=True
            )
            log.error("%s: %s", self.stream, self._fault.detail)
            return False
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._process = process
        started = self._progress_at = time.monotonic()
        self._processed = -1
        self._disagrees_at = None
        c = self.config
        self.send(
            Start(
                stream=self.stream,
                kind=c.kind,
                source=c.source,
                config=c.config,
                engines=dict(engines),
                out=c.out,
                cache=self.cache,
                stats_every_s=self.stats_every_s,
            )
        )
        steady = False
        try:
            for line in self._lines(process, started):
                self._handle(line, engines)
                if not steady and self._serving and self._progress_at - started > self.timing.steady_s:
                    self._clear(counter)
                    steady = True
        except ProtocolError as e:
            self._fault = Failure(code="protocol", detail=e.message)
        finally:
            self._end(process)
        return steady

    def _lines(self, process: subprocess.Popen[bytes], started: float) -> Iterator[bytes]:
        """Lines of the worker until it ends, stalls, is late to be ready, or is to stop."""
        assert process.stdout is not None
        fd, buffer = process.stdout.fileno(), b""
        while not self._stopping and not self._restart:
            limit = self.config.stall_s if self._serving else self.timing.start_s
            if time.monotonic() - max(self._progress_at, started) > limit:
                what = (
                    f"no frame was processed for {limit:.0f} s"
                    if self._serving
                    else f"not ready after {limit:.0f} s"
                )
                self._fault = Failure(code="stalled", detail=what, retryable=True)
                return
            if not select.select([fd], [], [], 0.1)[0]:
                continue
            data = os.read(fd, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            if len(buffer) > MAX_LINE_BYTES:
                raise ProtocolError(f"the worker sent a line of more than {MAX_LINE_BYTES} bytes")
            yield from lines

    def _handle(self, line: bytes, engines: Mapping[str, EngineRef]) -> None:
        message = parse_from_worker(line)
        with self._changed:
            if isinstance(message, Ready):
                self._serving = dict(engines)
                self._standby.clear()
                self._progress_at = time.monotonic()
                self.state = ("running", None)
            elif isinstance(message, Swapped | SwapFailed):
                self._answered(message)
            elif isinstance(message, Shadowed | ShadowFailed):
                self._shadowed[message.part] = message
            elif isinstance(message, Fault):
                self._fault = message.error
            self._changed.notify_all()
        if isinstance(message, Stats):
            self._compare(message)
            if message.stats.frames.processed > self._processed:
                self._processed = message.stats.frames.processed
                self._progress_at = time.monotonic()
            self.hooks.stats(self.stream, message)
        elif isinstance(message, EventMessage):
            self.hooks.event(self.stream, message)
        elif isinstance(message, LeaseMessage):
            self.hooks.lease(self.stream, message)

    def _compare(self, message: Stats) -> None:
        """What a worker says it runs is what counts on screens and in gates; it has to be what is on
        record."""
        named = message.stats.slots
        with self._changed:
            wrong = [part for part, ref in self._serving.items() if named.get(part, ref.bundle) != ref.bundle]
        if not wrong:
            self._disagrees_at = None
            return
        now = time.monotonic()
        self._disagrees_at = now if self._disagrees_at is None else self._disagrees_at
        if now - self._disagrees_at > self.timing.disagrees_s:
            raise ProtocolError(f"the worker runs another engine of {', '.join(wrong)} than it was told")

    def _answered(self, message: Swapped | SwapFailed) -> None:
        part = message.part
        asked = self._asked.pop(part, None)
        if asked is None or asked.manifest != message.manifest:
            raise ProtocolError(f"the worker answers for an engine of {part} that it was not asked to swap")
        if isinstance(message, SwapFailed):
            self._refused[part] = message.error
            return
        if part in self._serving:
            self._standby[part] = self._serving[part]
        self._serving[part] = asked

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Ask, wait, kill; nothing is left behind."""
        assert process.stdin is not None
        assert process.stdout is not None
        if process.poll() is None and (self._stopping or self._restart):
            self.send(Stop())
        with self._changed:
            self._process = None
            self._serving = {}
            self._standby.clear()
            self._asked.clear()
            self._changed.notify_all()
        with self._send_lock:
            try:
                process.stdin.close()
            except OSError:
                log.debug("%s: the worker closed its input first", self.stream)
        try:
            process.wait(self.timing.stop_s if self._stopping or self._restart else 1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        if process.returncode and self._fault is None:
            self._fault = Failure(
                code="crash", detail=f"the worker ended with code {process.returncode}", retryable=True
            )

    def _set(self, state: str, reason: str | None) -> None:
        with self._changed:
            self.state = (state, reason)
            self._changed.notify_all()

    def _wait(self, seconds: float) -> None:
        """Back off; a wish for another engine or the end cuts it short."""
        with self._changed:
            if not self._stopping:
                self._changed.wait(seconds)


def _write_all(fd: int, data: bytes, timeout_s: float) -> None:
    """To a pipe that does not block. Raises ``TimeoutError``, ``OSError``."""
    left, deadline = memoryview(data), time.monotonic() + timeout_s
    while left:
        if not select.select([], [fd], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError
        left = left[os.write(fd, left) :]
