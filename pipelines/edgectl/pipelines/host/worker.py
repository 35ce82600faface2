"""``python -m edgectl.pipelines.host.worker``: one pipeline in a process of its own, driven over stdin and stdout.

See :mod:`edgectl.pipelines.host.protocol`. Threads: a reader of stdin, this one for commands, one for
statistics, and the pipeline's. End of stdin means that the agent is gone: the worker stops. Exit status 0:
stopped or the source ended; 1: a Fault was sent.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import cv2
import psutil

from edgectl.core.bundle import Variant
from edgectl.core.errors import EdgectlError, ProtocolError
from edgectl.core.schema import Message
from edgectl.core.uri import RedactingFormatter, redact_tracebacks
from edgectl.core.wire import Failure
from edgectl.pipelines.host.config import parse_config
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
    ToWorker,
    parse_to_worker,
)
from edgectl.pipelines.kinds.base import EngineFactory, Pipeline, PipelineArgs, make_pipeline, open_variant
from edgectl.pipelines.kinds.config import UpdateLock
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.video.shadow import Shadowing

__all__ = ["Worker", "main"]

_log = logging.getLogger(__name__)


class Worker:
    """Speaks the protocol on two byte streams."""

    def __init__(self, commands: BinaryIO, answers_fd: int, open_engine: EngineFactory | None = None) -> None:
        """``open_engine`` None: the variant's own runtime, with the cache of finalised engines that Start
        names."""
        self._commands = commands
        self._fd = answers_fd
        self._open_engine = open_engine
        self._write_lock = threading.Lock()
        # SimpleQueue: its put may be called from a signal handler. Bounded by the reader, which waits for
        # each command.
        self._inbox: queue.SimpleQueue[ToWorker | EdgectlError | None] = queue.SimpleQueue()
        self._taken = threading.Semaphore(8)
        self._finished = threading.Event()
        self._pipeline: Pipeline | None = None
        self._lock: UpdateLock | None = None
        self._window_since_s = 0.0
        """On the monotonic clock: when the last window ended."""

    def run(self) -> int:
        """Until Stop, end of input or end of the stream. Returns the exit status."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        stats: threading.Thread | None = None
        try:
            start = self._next()
            if start is None or isinstance(start, Stop):
                return 0
            if not isinstance(start, Start):
                raise ProtocolError(f"the first command must be start, not {start.op}")
            began = time.monotonic()
            pipeline = self._pipeline = self._start(start)
            self._say(Ready(seconds=round(time.monotonic() - began, 3)))
            gc.collect()
            gc.freeze()
            self._window_since_s = time.monotonic()
            stats = threading.Thread(
                target=self._stats, args=(pipeline, start.stats_every_s), name="stats", daemon=True
            )
            stats.start()
            while (command := self._next()) is not None and not isinstance(command, Stop):
                self._obey(pipeline, command)
            return self._end(pipeline, stats)
        except EdgectlError as e:
            return self._fault(e, stats)

    def interrupt(self) -> None:
        """Stop as if the agent had said so. Safe in a signal handler."""
        self._inbox.put(None)

    def _start(self, start: Start) -> Pipeline:
        config = parse_config(start.kind, start.config, what=f"the configuration of stream {start.stream}")
        self._lock = config.update_lock
        engines = {part: _slot(ref) for part, ref in start.engines.items()}
        opener = self._open_engine or functools.partial(open_variant, cache=start.cache)
        pipeline = make_pipeline(
            start.kind,
            PipelineArgs(
                start.stream, start.source, engines, config, self._emit, opener, start.out, patient=True
            ),
        )
        pipeline.start()
        return pipeline

    def _obey(self, pipeline: Pipeline, command: ToWorker) -> None:
        if isinstance(command, Swap):
            try:
                gap_ms = pipeline.swap(command.part, _slot(command.engine))
            except EdgectlError as e:
                self._say(SwapFailed(part=command.part, manifest=command.engine.manifest, error=_failure(e)))
            else:
                self._say(
                    Swapped(part=command.part, manifest=command.engine.manifest, gap_ms=round(gap_ms, 3))
                )
        elif isinstance(command, ShadowMessage):
            self._shadow(pipeline, command)
        elif isinstance(command, Commit):
            pipeline.commit(command.part)
        elif isinstance(command, Revert):
            pipeline.revert(command.part)
        else:
            raise ProtocolError("the stream is already started")

    def _shadow(self, pipeline: Pipeline, command: ShadowMessage) -> None:
        part, manifest = command.part, command.engine.manifest

        def done(result: Shadowing | EdgectlError) -> None:
            if isinstance(result, EdgectlError):
                self._say(ShadowFailed(part=part, manifest=manifest, error=_failure(result)))
            else:
                self._say(Shadowed(part=part, manifest=manifest, **dataclasses.asdict(result)))

        try:
            pipeline.shadow(part, _slot(command.engine), command.percent, command.frames, done)
        except EdgectlError as e:
            done(e)

    def _end(self, pipeline: Pipeline, stats: threading.Thread) -> int:
        self._finished.set()
        pipeline.stop()
        stats.join()
        if pipeline.error is not None:
            raise pipeline.error
        self._say_window(pipeline)
        return 0

    def _fault(self, e: EdgectlError, stats: threading.Thread | None) -> int:
        _log.error("%s", e)
        self._finished.set()
        if self._pipeline is not None:
            try:
                self._pipeline.stop()
            except EdgectlError as stuck:
                _log.error("%s", stuck)
        if stats is not None:
            stats.join()
        if self._pipeline is not None and stats is not None:
            self._say_window(self._pipeline)
        self._say(Fault(error=_failure(e)))
        return 1

    def _read(self) -> None:
        """Reader thread: lines to commands, bounded in length and number; None at the end of input."""
        while True:
            line = self._commands.readline(MAX_LINE_BYTES + 1)
            if not line:
                self._inbox.put(None)
                return
            self._taken.acquire()
            try:
                self._inbox.put(parse_to_worker(line))
            except ProtocolError as e:
                self._inbox.put(e)
                return

    def _next(self) -> ToWorker | None:
        item = self._inbox.get()
        self._taken.release()
        if isinstance(item, EdgectlError):
            raise item
        return item

    def _stats(self, pipeline: Pipeline, every_s: float) -> None:
        """Windows while the stream lasts. Its end wakes the command loop, which says the last window once every
        event is written."""
        while not self._wait(pipeline, every_s):
            self._say_window(pipeline)
        if not self._finished.is_set():
            self._inbox.put(None)

    def _say_window(self, pipeline: Pipeline) -> None:
        """The window since the last one."""
        now = time.monotonic()
        window_s, self._window_since_s = max(now - self._window_since_s, 1e-6), now
        self._say(
            Stats(
                window_s=window_s,
                stats=pipeline.stats(),
                rss_mb=round(psutil.Process().memory_info().rss / 1e6, 3),
                cpu_s=round(time.process_time(), 3),
            )
        )

    def _wait(self, pipeline: Pipeline, seconds: float) -> bool:
        """True once the stream or the worker is finished; False after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self._finished.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if pipeline.wait(min(left, 0.25)):
                return True
        return True

    def _emit(self, record: Mapping[str, Any]) -> None:
        self._say(EventMessage(event=dict(record)))
        if self._lock is not None and record.get("rule") in self._lock.on:
            self._say(LeaseMessage(ttl_s=self._lock.seconds, reason=f"{record['rule']} was seen"))

    def _say(self, message: Message) -> None:
        data = message.encode() + b"\n"
        try:
            with self._write_lock:
                while data:
                    data = data[os.write(self._fd, data) :]
        except BrokenPipeError:  # the agent is gone: its end of our stdin ends us
            _log.warning("nobody reads: %s dropped", getattr(message, "op", "message"))
            self._inbox.put(None)


def _slot(ref: EngineRef) -> PartVariant:
    return PartVariant(Variant.open(ref.blobs, ref.manifest), ref.release, ref.bundle)


def _failure(e: EdgectlError) -> Failure:
    detail = e.message if e.hint is None else f"{e.message} ({e.hint})"
    return Failure(code=e.code, detail=detail[:1024], retryable=bool(getattr(e, "retryable", False)))


def main() -> int:
    """Move file descriptor 1 aside, so that a library that prints cannot break the protocol, and serve."""
    answers = os.dup(1)
    os.dup2(2, 1)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    redact_tracebacks()
    # a thread that computes in Python must not hold up a frame for 5 ms
    sys.setswitchinterval(0.0005)
    cv2.setNumThreads(1)
    worker = Worker(sys.stdin.buffer, answers)
    signal.signal(signal.SIGTERM, lambda *_: worker.interrupt())
    # Ctrl-C in a terminal reaches the agent, which stops us in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return worker.run()


if __name__ == "__main__":
    # Daemon threads may still be inside native code: leave without tearing the interpreter down around them.
    status = main()
    sys.stderr.flush()
    os._exit(status)
