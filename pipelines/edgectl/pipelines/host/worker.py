"""``python -m edgectl.pipelines.host.worker``: the streams that share a process, driven over stdin and stdout.

See :mod:`edgectl.pipelines.host.protocol`. Threads: a reader of stdin, this one, which hands each command to its
stream, and those of the streams (:mod:`edgectl.pipelines.host.hosted_stream`). End of stdin means that the agent
wants the end, or is gone: every stream stops. ``--pictures PATH``: a Unix socket for the pictures of the agent's page. Exit status 0: it was told to end; 1: a Fault without a stream was
sent.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

import cv2

from edgectl.core.errors import EdgectlError, ProtocolError
from edgectl.core.schema import Message
from edgectl.core.uri import RedactingFormatter, redact_tracebacks
from edgectl.pipelines.host.hosted_stream import HostedStream, failure_of
from edgectl.pipelines.host.protocol import (
    MAX_LINE_BYTES,
    Fault,
    Start,
    Stop,
    ToWorker,
    parse_to_worker,
)
from edgectl.pipelines.kinds.base import EngineFactory
from edgectl.pipelines.video.engine_pool import EnginePool
from edgectl.pipelines.view.picture_feed import PictureFeed

__all__ = ["Worker", "main"]

_log = logging.getLogger(__name__)

_STOP_S = 20.0
"""For every stream to stop, once nobody drives the worker any more."""


class Worker:
    """Speaks the protocol on two byte streams."""

    def __init__(
        self,
        commands: BinaryIO,
        answers_fd: int,
        open_engine: EngineFactory | None = None,
        feed: PictureFeed | None = None,
    ) -> None:
        """``open_engine`` None: the variant's own runtime, with the cache of finalised engines that Start
        names. ``feed`` None: nobody can watch. It is closed at the end."""
        self._commands = commands
        self._fd = answers_fd
        self._open_engine = open_engine
        self._feed = feed
        self._taps = None if feed is None else feed.sinks
        self._write_lock = threading.Lock()
        # SimpleQueue: its put may be called from a signal handler. Bounded by the reader, which waits for
        # each command to be handed on.
        self._inbox: queue.SimpleQueue[ToWorker | ProtocolError | None] = queue.SimpleQueue()
        self._taken = threading.Semaphore(8)
        self._pool = EnginePool()
        self._streams: dict[str, HostedStream] = {}
        self._streams_lock = threading.Lock()

    def run(self) -> int:
        """Until the end of input. Returns the exit status."""
        threading.Thread(target=self._read, name="commands", daemon=True).start()
        fault: ProtocolError | None = None
        try:
            while (command := self._next()) is not None:
                self._hand_on(command)
        except ProtocolError as e:
            fault = e
        self._stop_all()
        if self._feed is not None:
            self._feed.close()
        if fault is None:
            return 0
        _log.error("%s", fault)
        self._say(Fault(error=failure_of(fault)))
        return 1

    def interrupt(self) -> None:
        """Stop as if the agent had said so. Safe in a signal handler."""
        self._inbox.put(None)

    def _hand_on(self, command: ToWorker) -> None:
        with self._streams_lock:
            stream = self._streams.get(command.stream)
            if isinstance(command, Start):
                if stream is not None:
                    raise ProtocolError(f"the stream {command.stream} is already started")
                stream = HostedStream(
                    command, self._say, self._forget, self._pool, self._open_engine, self._taps
                )
                self._streams[command.stream] = stream
        if stream is None:
            # it has ended by itself, and the agent does not know yet
            _log.info("%s has ended: %s comes too late", command.stream, command.op)
        elif isinstance(command, Start):
            stream.begin()
        elif isinstance(command, Stop):
            stream.stop(command.within_s)
        else:
            stream.order(command)

    def _forget(self, stream: HostedStream) -> None:
        with self._streams_lock:
            if self._streams.get(stream.name) is stream:
                del self._streams[stream.name]

    def _stop_all(self) -> None:
        with self._streams_lock:
            streams = list(self._streams.values())
        for stream in streams:
            stream.stop(_STOP_S)
        deadline = time.monotonic() + _STOP_S + 1
        for stream in streams:
            stream.gone.wait(max(0.0, deadline - time.monotonic()))

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

    def _say(self, message: Message) -> None:
        data = message.encode() + b"\n"
        try:
            with self._write_lock:
                while data:
                    data = data[os.write(self._fd, data) :]
        except BrokenPipeError:  # the agent is gone: its end of our stdin ends us
            _log.warning("nobody reads: %s dropped", getattr(message, "op", "message"))
            self._inbox.put(None)


def _feed(arguments: list[str]) -> PictureFeed | None:
    """``--pictures PATH``: serve pictures at this socket. That it cannot is no reason to stop."""
    if arguments[:1] != ["--pictures"]:
        return None
    try:
        return PictureFeed(Path(arguments[1]))
    except OSError as e:
        _log.error("no pictures for the live page: %s", e)
        return None


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
    worker = Worker(sys.stdin.buffer, answers, feed=_feed(sys.argv[1:]))
    signal.signal(signal.SIGTERM, lambda *_: worker.interrupt())
    # Ctrl-C in a terminal reaches the agent, which stops us in order
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return worker.run()


if __name__ == "__main__":
    # Daemon threads may still be inside native code: leave without tearing the interpreter down around them.
    status = main()
    sys.stderr.flush()
    os._exit(status)
