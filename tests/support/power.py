"""A power cut at any operation on the disk, and every state that it may legally leave behind.

:class:`Disk` stands at the boundary to the operating system: it counts what the agent does to files below a
  folder (create, write,
truncate, fsync, rename, unlink, and the commits of SQLite), and at the operation it was told to it rebuilds
the folder as a disk may be found afterwards, then raises :class:`PowerCut`. The rules are POSIX's, not those
of one file system:

* bytes that no fsync followed may be there, be missing, or be torn at 512 bytes, each write for itself;
* names (create, rename, unlink) that no fsync of their folder followed may be missing, the later ones first;
* of a SQLite commit that was not finished, each 512-byte block of the database and its log may be the old or
  the new one, the database
  only once the log is whole, as SQLite orders them. ``-shm`` is lost.

Each operation may instead fail with ENOSPC: :attr:`Disk.full`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Disk", "PowerCut"]

SECTOR = 512
_SQLITE = re.compile(r"\.db(-[a-z]+)?(\.damaged[^/]*)?\Z")
"""Not: a temporary file whose random end begins with db."""
_REAL = {
    n: getattr(os, n)
    for n in (
        "open",
        "close",
        "write",
        "pwrite",
        "fsync",
        "fdatasync",
        "ftruncate",
        "replace",
        "unlink",
        "fdopen",
    )
}


class PowerCut(BaseException):
    """The machine is off. Nothing may catch this."""


@dataclass
class _File:
    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, data), or (size, None) for a truncation, since the last fsync."""
    data: bytearray = field(default_factory=bytearray)

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append((offset, data))
        _put(self.data, offset, data)

    def truncate(self, size: int) -> None:
        self.pending.append((size, None))
        _resize(self.data, size)

    def sync(self) -> None:
        self.durable, self.pending = bytes(self.data), []

    def after_a_cut(self, chance: random.Random) -> bytes:
        found = bytearray(self.durable)
        for offset, data in self.pending:
            luck = chance.random()
            if data is None:
                if luck < 0.5:
                    _resize(found, offset)
            elif luck < 0.4:
                _put(found, offset, data)
            elif luck < 0.7:
                _put(found, offset, data[: SECTOR * chance.randrange(len(data) // SECTOR + 1)])
        return bytes(found)


class _Raw(io.RawIOBase):
    """What ``os.fdopen`` gives, but through ``os.write``, where it can be seen."""

    def __init__(self, disk: Disk, fd: int) -> None:
        self._disk = disk
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """What the garbage collector flushes after a cut reaches no disk: its number may be another file's
        by then."""
        return len(bytes(data)) if self._disk.over else os.write(self._fd, bytes(data))

    def close(self) -> None:
        if not self.closed:
            super().close()
            if not self._disk.over:
                os.close(self._fd)


class Disk:
    """Use as a context manager around everything that works below ``root``. Single-threaded."""

    def __init__(
        self,
        root: Path,
        chance: random.Random | None = None,
        *,
        cut_at: int | None = None,
        into: Path | None = None,
        kill: bool = False,
    ) -> None:
        """Cut at operation number ``cut_at`` (from 1) and leave what a disk may then hold in ``into``.

        ``kill``: only the process dies, as by SIGKILL: the operating system still writes all that was handed
        to it.
        """
        self.kill = kill
        self.over = False
        """The cut has happened."""
        self.root = str(root)
        self.chance = chance or random.Random(0)
        self.cut_at = cut_at
        self.into = into
        self.done: list[str] = []
        """What was done, in order: one word an operation."""
        self.full: Callable[[str], bool] | None = None
        """Says of an operation that needs space whether there is none."""
        self._names: dict[str, _File] = {}
        self._durable: dict[str, _File] = {}
        self._metadata: list[tuple[str, str, str, _File]] = []  # (create|rename|unlink, from, to, what)
        self._open: dict[int, str] = {}
        self._folders: dict[int, str] = {}
        for path in root.rglob("*"):
            if path.is_file() and not self._is_sqlite(str(path)):
                data = path.read_bytes()
                self._names[str(path)] = self._durable[str(path)] = _File(data, [], bytearray(data))

    @staticmethod
    def _is_sqlite(path: str) -> bool:
        return _SQLITE.search(path) is not None

    # ---- the cut

    def operation(self, what: str, needs_space: bool = False) -> None:
        """One step. Raises OSError (no space) or PowerCut, both before it is done."""
        if needs_space and self.full is not None and self.full(what):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.done.append(what)
        if self.cut_at == len(self.done):
            self.cut()

    def cut(self, sqlite: dict[str, bytes] | None = None) -> None:
        assert self.into is not None
        self.over = True
        self._leave(self.into, sqlite)
        raise PowerCut

    def _leave(self, into: Path, sqlite: dict[str, bytes] | None) -> None:
        names = dict(self._durable)
        if self.kill:
            names = self._names
        for entry in [] if self.kill else self._metadata[: self.chance.randrange(len(self._metadata) + 1)]:
            self._apply(names, *entry)
        root = Path(self.root)
        for folder in root.rglob("*"):
            if folder.is_dir():
                (into / folder.relative_to(root)).mkdir(parents=True, exist_ok=True)
        into.mkdir(exist_ok=True)
        for name, file in names.items():
            (into / Path(name).relative_to(root)).write_bytes(
                bytes(file.data) if self.kill else file.after_a_cut(self.chance)
            )
        for path in root.rglob("*"):
            if self._is_sqlite(str(path)) and not path.name.endswith("-shm"):
                target = into / path.relative_to(root)
                if sqlite is not None and str(path) in sqlite:
                    target.write_bytes(sqlite[str(path)])
                else:
                    shutil.copyfile(path, target)

    @staticmethod
    def _apply(names: dict[str, _File], kind: str, a: str, b: str, file: _File) -> None:
        if kind == "rename":
            names.pop(a, None)
            names[b] = file
        elif kind == "create":
            names[a] = file
        else:
            names.pop(a, None)

    # ---- SQLite

    def commit(self, db: sqlite3.Connection, run: Callable[[], Any]) -> Any:
        """A COMMIT: cut before it, in it, or after it."""
        if self.full is not None and self.full("commit"):
            raise sqlite3.OperationalError("database or disk is full")
        self.done.append("commit")
        if self.cut_at != len(self.done):
            return run()
        moment = self.chance.choice((0.0, 1.0)) if self.kill else self.chance.random()
        if moment < 0.25:
            self.cut()
        before = self._sqlite()
        result = run()
        if moment > 0.75:
            self.cut()
        del result
        self.cut(self._torn(before, self._sqlite()))
        return None

    def _sqlite(self) -> dict[str, bytes]:
        return {
            str(p): p.read_bytes()
            for p in Path(self.root).rglob("*")
            if self._is_sqlite(str(p)) and not p.name.endswith("-shm")
        }

    def _torn(self, before: dict[str, bytes], after: dict[str, bytes]) -> dict[str, bytes]:
        log_is_whole = self.chance.random() < 0.3
        found = {}
        for name, new in after.items():
            old = before.get(name, b"")
            if name.endswith("-wal"):
                found[name] = new if log_is_whole else self._mixed(old, new)
            else:
                found[name] = self._mixed(old, new) if log_is_whole else old
        return found

    def _mixed(self, old: bytes, new: bytes) -> bytes:
        length = self.chance.choice([len(old), len(new), max(len(old), SECTOR * (len(new) // SECTOR // 2))])
        found = bytearray(length)
        keep_new = self.chance.random()
        for at in range(0, length, SECTOR):
            source = new if self.chance.random() < keep_new else old
            piece = source[at : at + SECTOR]
            found[at : at + len(piece)] = piece
        return bytes(found[:length])

    # ---- the operating system's calls

    def _mine(self, path: Any) -> bool:
        text = os.fspath(path)
        return isinstance(text, str) and text.startswith(self.root + os.sep) and not self._is_sqlite(text)

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, **kw: Any) -> int:
        name = os.fspath(path)
        if flags & os.O_DIRECTORY or not self._mine(name) or not flags & (os.O_WRONLY | os.O_RDWR):
            fd: int = _REAL["open"](path, flags, mode, **kw)
            self._open.pop(fd, None)  # files that Python closes by itself do not tell
            self._folders.pop(fd, None)
            if flags & os.O_DIRECTORY:
                self._folders[fd] = str(name)
            return fd
        new = name not in self._names and flags & os.O_CREAT
        if new:
            self.operation("create", needs_space=True)
        fd = _REAL["open"](path, flags, mode, **kw)
        if new:
            file = self._names[name] = _File()
            self._metadata.append(("create", name, "", file))
        self._folders.pop(fd, None)
        self._open[fd] = name
        return fd

    def _os_close(self, fd: int) -> None:
        self._open.pop(fd, None)
        self._folders.pop(fd, None)
        _REAL["close"](fd)

    def _os_write(self, fd: int, data: Any) -> int:
        if fd not in self._open:
            return int(_REAL["write"](fd, data))
        self.operation("write", needs_space=True)
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        self._names[self._open[fd]].write(offset, bytes(data))
        return int(_REAL["write"](fd, data))

    def _os_pwrite(self, fd: int, data: Any, offset: int) -> int:
        if fd not in self._open:
            return int(_REAL["pwrite"](fd, data, offset))
        self.operation("pwrite", needs_space=True)
        self._names[self._open[fd]].write(offset, bytes(data))
        return int(_REAL["pwrite"](fd, data, offset))

    def _os_ftruncate(self, fd: int, size: int) -> None:
        if fd in self._open:
            self.operation("truncate", needs_space=True)
            self._names[self._open[fd]].truncate(size)
        _REAL["ftruncate"](fd, size)

    def _os_fsync(self, fd: int) -> None:
        if fd in self._open:
            # delayed allocation: a full disk may show only here
            self.operation("fsync", needs_space=True)
            self._names[self._open[fd]].sync()
        elif fd in self._folders:
            self.operation("fsync folder")
            self._sync_folder(self._folders[fd])

    def _sync_folder(self, folder: str) -> None:
        left = []
        for entry in self._metadata:
            if folder in (os.path.dirname(entry[1]), os.path.dirname(entry[2])):
                self._apply(self._durable, *entry)
            else:
                left.append(entry)
        self._metadata = left

    def _os_replace(self, a: Any, b: Any) -> None:
        if self._mine(a):
            self.operation("rename", needs_space=True)
            file = self._names[str(b)] = self._names.pop(str(a))
            self._metadata.append(("rename", str(a), str(b), file))
        _REAL["replace"](a, b)

    def _os_unlink(self, path: Any, **kw: Any) -> None:
        name = os.fspath(path)
        if self._mine(name) and name in self._names:
            self.operation("unlink")
            self._metadata.append(("unlink", name, "", self._names.pop(name)))
        _REAL["unlink"](path, **kw)

    def _os_fdopen(self, fd: int, mode: str = "r", *a: Any, **kw: Any) -> Any:
        if fd in self._open and mode == "wb":
            return io.BufferedWriter(_Raw(self, fd))
        return _REAL["fdopen"](fd, mode, *a, **kw)

    def __enter__(self) -> Disk:
        disk = self

        class Connection(sqlite3.Connection):
            """Counts commits, and lets them be cut."""

            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:  # type: ignore[override]
                if sql == "COMMIT":
                    result: sqlite3.Cursor = disk.commit(self, lambda: sqlite3.Connection.execute(self, sql))
                    return result
                return super().execute(sql, *values)

            def __del__(self) -> None:
                """Who is cut closes nothing; Python 3.13 would call that a leak."""
                with contextlib.suppress(sqlite3.Error):
                    self.close()

        self._connect = sqlite3.connect

        def connect(path: Any, *a: Any, **kw: Any) -> sqlite3.Connection:
            if str(path).startswith(disk.root):
                kw["factory"] = Connection
            return disk._connect(path, *a, **kw)

        sqlite3.connect = connect  # type: ignore[assignment]
        for name in _REAL:
            target = {"fdatasync": "_os_fsync"}.get(name, f"_os_{name}")
            setattr(os, name, getattr(self, target))
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in _REAL.items():
            setattr(os, name, real)
        sqlite3.connect = self._connect  # type: ignore[assignment]
        for fd in list(self._open):
            with contextlib.suppress(OSError):
                _REAL["close"](fd)


def _put(into: bytearray, offset: int, data: bytes) -> None:
    if offset > len(into):
        into.extend(bytes(offset - len(into)))
    into[offset : offset + len(data)] = data


def _resize(into: bytearray, size: int) -> None:
    del into[size:]
    into.extend(bytes(size - len(into)))
