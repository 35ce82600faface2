"""A lock on the state folder: two agents in one folder would deploy against each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgectl.core.errors import UsageError
from edgectl.core.files import storage

__all__ = ["hold_folder", "is_free"]

_NAME = "agent.lock"


@contextlib.contextmanager
def hold_folder(state_dir: Path) -> Iterator[None]:
    """Hold the state folder; the kernel lets go of it however the process ends. Raises :class:`UsageError`
    if somebody else does."""
    with storage(str(state_dir)):
        state_dir.mkdir(parents=True, exist_ok=True)
    fd = _open(state_dir)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise UsageError(
                f"an agent is running on {state_dir}", hint="stop it first: systemctl stop edgectl-agent"
            ) from e
        yield
    finally:
        os.close(fd)


def is_free(state_dir: Path) -> bool:
    """Whether nobody holds the state folder now."""
    try:
        with hold_folder(state_dir):
            return True
    except UsageError:
        return False


def _open(state_dir: Path) -> int:
    """A file to lock, also where it can only be read; the folder itself where the disk takes no new file."""
    # the same file: whoever came before the disk went read-only holds it
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        try:
            return os.open(state_dir / _NAME, flags | os.O_CLOEXEC, 0o644)
        except OSError:
            continue
    with storage(str(state_dir)):
        return os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
