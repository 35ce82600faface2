"""A process and the two pipes to it. It decides nothing: it starts, sends, reads and ends."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import threading
import time
from collections.abc import Sequence

from edgectl.core.errors import ProtocolError
from edgectl.pipelines.host.protocol import (
    MAX_LINE_BYTES,
    Commit,
    Configure,
    Revert,
    ShadowMessage,
    Start,
    Stop,
    Swap,
)

__all__ = ["ToWorkerMessage", "WorkerPipe"]

log = logging.getLogger(__name__)

ToWorkerMessage = Start | Swap | ShadowMessage | Configure | Commit | Revert | Stop

_SEND_S = 2.0
"""A pipe holds many lines: a worker that lets it fill up and does not read for this long is stuck."""


class WorkerPipe:
    """Any thread may :meth:`send`; one thread reads and ends the process."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        """Start ``command``. Raises ``OSError`` where the machine has no process, memory or file left."""
        self._name = name
        self._send_lock = threading.Lock()
        self._rest = b""
        # A session of its own: Ctrl-C reaches the agent, which stops its workers in order.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def send(self, message: ToWorkerMessage) -> None:
        """One line. A worker that is gone is the reader's business. One that does not read is killed: who
        waits for it may hold what the reader needs to notice."""
        try:
            with self._send_lock:
                _write_all(self._stdin.fileno(), message.encode() + b"\n", _SEND_S)
        except TimeoutError:
            log.warning("%s: the worker does not read; it is killed", self._name)
            self.kill()
        except (OSError, ValueError):
            log.info("%s: the worker does not read any more", self._name)

    def read(self, timeout_s: float) -> list[bytes] | None:
        """The lines that arrive within the time, maybe none; None once the worker has closed its output.
        Raises :class:`ProtocolError`."""
        if not select.select([self._stdout], [], [], timeout_s)[0]:
            return []
        data = os.read(self._stdout.fileno(), 65536)
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ProtocolError(f"the worker sent a line of more than {MAX_LINE_BYTES} bytes")
        return lines

    def close_input(self) -> None:
        """The worker is to end."""
        with self._send_lock:
            try:
                self._stdin.close()
            except OSError:
                log.debug("%s: the worker closed its input first", self._name)

    def end(self, timeout_s: float) -> int:
        """Close its input, wait, kill; nothing is left behind. Returns the exit code."""
        self.close_input()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._stdout.close()
        return code


def _write_all(fd: int, data: bytes, timeout_s: float) -> None:
    """To a pipe that does not block. Raises ``TimeoutError``, ``OSError``."""
    left, deadline = memoryview(data), time.monotonic() + timeout_s
    while left:
        if not select.select([], [fd], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError
        left = left[os.write(fd, left) :]
