"""Temporary folders of a build, which may hold hundreds of MiB."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from edgectl.core.files import storage

__all__ = ["scratch_folder"]

_PID = re.compile("[0-9]{1,7}")


@contextlib.contextmanager
def scratch_folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """A folder ``PREFIX<pid>-…`` that is gone afterwards, and the end of those that killed builds of the same user left.
    ``within``: where it lies; None: where temporary files do. Raises :class:`StorageError` if none can be made."""
    place = within or Path(tempfile.gettempdir())
    for left in place.glob(f"{glob.escape(prefix)}*-*"):
        pid = left.name.removeprefix(prefix).partition("-")[0]
        # anybody may call a folder so
        number = int(pid) if _PID.fullmatch(pid) else None
        with contextlib.suppress(OSError):
            if number and left.lstat().st_uid == os.geteuid() and not psutil.pid_exists(number):
                shutil.rmtree(left, ignore_errors=True)
    with storage(str(place)):
        made = tempfile.TemporaryDirectory(dir=place, prefix=f"{prefix}{os.getpid()}-")
    with made as folder:
        yield Path(folder).resolve()
