"""A file of lines without a buffer of ours: what was written is with the kernel, and an error belongs to the
line that caused it.

A disk that fills up leaves whole lines only; a file that goes on after a kill begins behind its last whole line.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import BinaryIO

from edgectl.core.files import storage

__all__ = ["LineFile"]

_PIECE = 64 << 10


class LineFile:
    """Starts ``path`` anew, unless it ``goes_on``. Methods raise :class:`StorageError`."""

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        self.path = path
        self._end = 0  # bytes of whole lines
        with storage(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            if goes_on and path.is_file():
                self._file = path.open("r+b", buffering=0)
                self._end = _whole_lines(self._file)
                self._file.truncate(self._end)
                self._file.seek(self._end)
            else:
                self._file = path.open("wb", buffering=0)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._end

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        end = self._end + len(data)
        with storage(str(self.path)):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):  # a device cannot be cut
                    self._file.truncate(self._end)
                raise
        self._end = end

    def close(self) -> None:
        with storage(str(self.path)):
            self._file.close()


def _whole_lines(file: BinaryIO) -> int:
    """Bytes up to the end of its last whole line."""
    at = file.seek(0, os.SEEK_END)
    while at:
        start = max(0, at - _PIECE)
        file.seek(start)
        if (found := file.read(at - start).rfind(b"\n")) >= 0:
            return start + found + 1
        at = start
    return 0
