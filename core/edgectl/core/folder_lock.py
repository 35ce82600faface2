"""A lock on a folder, which the kernel lets go of however its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgectl.core.errors import EdgectlError
from edgectl.core.files import storage

__all__ = ["hold"]


@contextlib.contextmanager
def hold(folder: Path, name: str, *, busy: EdgectlError) -> Iterator[None]:
    """Hold ``folder``, made where it is not there, by the file ``name`` in it. Raises ``busy`` if another process
    does."""
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    fd = _open(folder, name)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise busy from e
        yield
    finally:
        os.close(fd)


def _open(folder: Path, name: str) -> int:
    """A file to lock, also where it can only be read; the folder itself where the disk takes no new file."""
    # the same file: whoever came before the disk went read-only holds it
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(folder / name, flags | os.O_CLOEXEC, 0o644)
        except OSError:
            continue
    with storage(str(folder)):
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
