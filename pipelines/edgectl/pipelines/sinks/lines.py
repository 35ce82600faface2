"""A file of lines without a buffer of ours: what was written is with the kernel, and an error belongs to the line that caused it."""

from __future__ import annotations

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

    def write(self, line: str) -> None:
        data = line.encode() + b"\n"
        with storage(str(self.path)):
            while data:
                data = data[self._file.write(data) :]

    def close(self) -> None:
        with storage(str(self.path)):
            self._file.close()
