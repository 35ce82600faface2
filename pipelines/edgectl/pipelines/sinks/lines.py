"""A file of lines without a buffer of ours: what was written is with the kernel, and an error belongs to the
line that caused it.

A disk that fills up leaves whole lines only.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from edgectl.core.files import storage

__all__ = ["LineFile"]


class LineFile:
    """Starts ``path`` anew. Methods raise :class:`StorageError`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)
        self._end = 0  # bytes of whole lines

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
