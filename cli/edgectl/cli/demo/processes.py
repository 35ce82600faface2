"""The services of the demo as real processes, each with its own log; stopped in reverse order, whatever
happens."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from edgectl.cli._signals import DIE_WITH_PARENT
from edgectl.core.errors import EdgectlError, LinkError

__all__ = ["Processes", "free_port", "wait_for_port"]


_STOP_S = 60.0
"""How long all of them together may take to stop: a video is whole only once its writer is closed."""


class Processes:
    """A context: what is started inside is stopped at the end, and by the kernel if this process dies
    without one. One thread."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``edgectl <arguments>`` in a session of its own; output goes to ``<logs>/<name>.log``."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgectl.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", DIE_WITH_PARENT: str(os.getpid())},
            )
        self._running.append((name, process))
        return process

    def check(self) -> None:
        """Raises :class:`EdgectlError` if one of them died."""
        for name, process in self._running:
            if (code := process.poll()) is not None:
                raise EdgectlError(
                    f"{name} ended with exit code {code}", hint=f"see {self._logs / (name + '.log')}"
                )

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process in reversed(self._running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for _, process in reversed(self._running):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, below the range from which outgoing connections take
    theirs."""
    while True:
        port = secrets.randbelow(12_000) + 20_000
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def wait_for_port(port: int, processes: Processes, *, timeout_s: float = 120.0) -> None:
    """Until something on loopback accepts connections. Raises :class:`EdgectlError` as soon as one of
    ``processes`` has ended, :class:`LinkError` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as e:
            processes.check()
            if time.monotonic() > deadline:
                raise LinkError(f"nothing listens on port {port} after {timeout_s:g} s") from e
            time.sleep(0.05)
