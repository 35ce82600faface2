"""A named pipe as a file for FFmpeg, whose every wait has an end: a pipe without a writer blocks who opens it."""

from __future__ import annotations

import io
import os
import select
import threading
import time
from pathlib import Path
from typing import Any

from edgectl.core.errors import SourceError

__all__ = ["NamedPipe"]

_WAIT_S = 10.0
_LOOK_S = 0.2


class NamedPipe(io.RawIOBase):
    """Read once, from the start to the moment when the writer closes it."""

    def __init__(self, path: Path, stop: threading.Event) -> None:
        """Waits for the first bytes. Raises :class:`SourceError` if nobody writes them. ``stop`` ends every wait."""
        super().__init__()
        self.name = path.name
        self._stop = stop
        self._has_failed = False
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as e:
            raise SourceError(f"cannot open {path.name}: {e.strerror}") from e
        if not self._wait():
            self.close()
            raise SourceError(
                f"nobody writes into the pipe {path.name}: nothing came for {_WAIT_S:g} s",
                hint="start what writes into it before, or beside, edgectl",
                retryable=True,
            )

    @classmethod
    def opener(cls, path: Path, stop: threading.Event) -> Any:
        """For :class:`~edgectl.pipelines.sources.media.reader.VideoReader`: opens the pipe, and nothing that it
        names."""

        def open_(url: str, flags: int = 0, options: Any = None) -> NamedPipe:
            if url != str(path):
                raise OSError("a pipe names other files, which are not opened")
            return cls(path, stop)

        return open_

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """What is there, at most ``size`` bytes; empty at the end. Raises TimeoutError after a long silence."""
        if self._has_failed:
            return b""  # FFmpeg asks again, and the first error is the one that counts
        if not self._wait():
            self._has_failed = True
            raise TimeoutError(f"nothing came for {_WAIT_S:g} s")
        return os.read(self._fd, size if size > 0 else 1 << 16)

    def close(self) -> None:
        # also called when an object that was never opened is collected
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().close()

    def _wait(self) -> bool:
        """Whether there is something, or the writer has closed it."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + _WAIT_S
        while not self._stop.is_set() and time.monotonic() < deadline:
            if poll.poll(_LOOK_S * 1000):
                return True
        return False
