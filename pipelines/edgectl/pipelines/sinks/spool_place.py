"""Where what waits for a broker or a server lies, so that the next run of the same stream sends it.

In the folder for files where a stream has one. Else in this user's folder for states (``$STATE_DIRECTORY`` of systemd, or
``~/.local/state`` by the XDG base directory specification), one file for each stream and receiver, which goes when nothing
waits in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

from edgectl.core.errors import StorageError
from edgectl.core.files import storage
from edgectl.link.spool import Spool

__all__ = ["SpoolPlace", "state_folder"]

_MOST = 64
"""Runs of one stream with one receiver at the same time."""


def state_folder() -> Path:
    """Raises :class:`StorageError` for a user who has none."""
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given) / "sinks"
    own = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(own) if own.startswith("/") else Path.home() / ".local/state") / "edgectl/sinks"
    except RuntimeError as e:
        raise StorageError(
            "this user has no home folder in which events could wait",
            hint="give --out, or set XDG_STATE_HOME to a folder",
        ) from e


class SpoolPlace:
    """A spool's file, ours alone as long as it is open. Methods raise :class:`StorageError`."""

    def __init__(
        self, name: str, stream: str, receiver: str, out: Path | None, *, max_bytes: int, max_age_s: float
    ) -> None:
        """``name``: of the sink; ``receiver``: its address, of which nothing is to be read in a file's name; ``out``: the
        stream's folder for files."""
        self._lock: int | None = None
        self.who = "the next run with the same --out sends them"
        """Of what waits at the end."""
        path = (out or Path()) / f"{name}-spool.db"
        if out is None:
            self.who = "the next run of this stream sends them"
            digest = hashlib.sha256(f"{stream}\n{receiver}".encode()).hexdigest()[:16]
            path = self._own(state_folder(), f"{name}-{digest}")
        self._path = path
        try:
            self.spool = Spool(path, max_bytes=max_bytes, max_age_s=max_age_s)
        except BaseException:
            self._unlock()
            raise

    def close(self) -> None:
        """A file in which nothing waits goes."""
        left = self.spool.size
        self.spool.close()
        if self._lock is not None and not left:
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        self._unlock()

    def _own(self, folder: Path, name: str) -> Path:
        """The first that no other run has: it may hold what an earlier one has left."""
        with storage(str(folder)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for i in range(_MOST):
                path = folder / f"{name}-{i}.db"
                fd = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    continue
                self._lock = fd
                return path
        raise StorageError(
            f"{_MOST} runs send the events of a stream of this name to the same receiver",
            hint="name the streams (--source NAME=URI), or give each --out",
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
