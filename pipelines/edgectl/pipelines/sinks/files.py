"""What sinks have written below the folder for files, over all runs: so that old files can go, and no others.

A list beside the files (``.written``) names them. A file that is not in it is not ours.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgectl.core.files import atomic_write, storage

__all__ = ["OutFiles", "Written", "too_many"]

_LIST = ".written"


@dataclass(frozen=True, slots=True)
class Written:
    path: str
    """Below the folder."""
    mtime_s: float
    size: int


def too_many(
    files: Sequence[Written], now_s: float, *, days: float | None, max_bytes: int | None
) -> list[Written]:
    """Those that must go, oldest first: what is older than ``days``, and as many more as ``max_bytes`` asks for."""
    left = sorted(files, key=lambda f: (f.mtime_s, f.path))
    total = sum(f.size for f in left)
    gone = []
    for file in left:
        old = days is not None and now_s - file.mtime_s > days * 86400
        if not old and (max_bytes is None or total <= max_bytes):
            break
        gone.append(file)
        total -= file.size
    return gone


class OutFiles:
    """Usable from several threads. Methods raise :class:`StorageError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._open: set[str] = set()
        with storage(str(folder / _LIST)):
            listed = folder / _LIST
            lines = listed.read_text("utf-8", "replace").splitlines() if listed.is_file() else []
        self._paths = dict.fromkeys(line for line in lines if self._inside(line))

    def wrote(self, path: Path, *, still: bool = False) -> None:
        """A file of ours below the folder. ``still``: it is being written, and must not go."""
        name = path.relative_to(self._folder).as_posix()
        with self._lock:
            (self._open.add if still else self._open.discard)(name)
            known = name in self._paths
            # last in the list: those written last
            self._paths.pop(name, None)
            self._paths[name] = None
            if known:
                return
            with storage(str(self._folder / _LIST)):
                self._folder.mkdir(parents=True, exist_ok=True)
                with (self._folder / _LIST).open("a", encoding="utf-8") as f:
                    f.write(f"{name}\n")

    def keep(self, limit: int, within: str) -> None:
        """At most ``limit`` files in the folder ``within``; those written first go first."""
        with self._lock:
            mine = [p for p in self._paths if p.startswith(f"{within}/") and p not in self._open]
            self._remove(mine[: max(0, len(mine) - limit)])

    def sweep(self, now_s: float, *, days: float | None, max_bytes: int | None, within: str = "") -> int:
        """Delete what is too old or too much, in the folder ``within`` or everywhere. Returns how many files."""
        with self._lock:
            found, missing = [], []
            for path in self._paths:
                if within and not path.startswith(f"{within}/"):
                    continue
                try:
                    stat = (self._folder / path).lstat()
                except OSError:
                    missing.append(path)
                    continue
                found.append(Written(path, stat.st_mtime, stat.st_size))
            gone = too_many(found, now_s, days=days, max_bytes=max_bytes)
            return self._remove([f.path for f in gone if f.path not in self._open], missing)

    def free(self, missing_bytes: int, within: str) -> int:
        """Delete the oldest files in the folder ``within`` until so many bytes are free. Returns how many files."""
        with self._lock:
            gone = []
            for path in self._paths:
                if missing_bytes <= 0:
                    break
                if path.startswith(f"{within}/") and path not in self._open:
                    gone.append(path)
                    with contextlib.suppress(OSError):
                        missing_bytes -= (self._folder / path).lstat().st_size
            return self._remove(gone)

    def remove(self, path: Path) -> None:
        """One file of ours, if it is still there."""
        name = path.relative_to(self._folder).as_posix()
        with self._lock:
            self._remove([name] if name in self._paths else [])

    def _remove(self, paths: Sequence[str], missing: Sequence[str] = ()) -> int:
        n = 0
        for path in paths:
            with contextlib.suppress(OSError):
                (self._folder / path).unlink(missing_ok=True)
                n += 1
                del self._paths[path]
        for path in missing:
            del self._paths[path]
        if n or missing:
            atomic_write(self._folder / _LIST, "".join(f"{p}\n" for p in self._paths).encode())
        return n

    def _inside(self, line: str) -> bool:
        """Whether a line of the list, which somebody may have written, names a file below the folder."""
        path = Path(line)
        return bool(line) and not path.is_absolute() and ".." not in path.parts and line != _LIST
