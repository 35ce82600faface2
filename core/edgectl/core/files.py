"""Digests and crash-safe files.

A file appears whole or not at all: temporary file in the same directory, fsync, ``os.replace``, fsync of the
directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgectl.core.errors import IntegrityError, StorageError

__all__ = [
    "atomic_write",
    "check_digest",
    "check_name",
    "digest_of",
    "exchange",
    "file_digest",
    "forget_unfinished",
    "fsync_dir",
    "hex_of",
    "keep_private",
    "open_atomic",
    "storage",
]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}\Z")
"""How :func:`open_atomic` calls its temporary files."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def digest_of(data: bytes | memoryview) -> str:
    """``sha256:<64 hex>`` of some bytes, the form used in OCI descriptors and on the wire."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """``sha256:<hex>`` of a file, read in 1 MiB pieces."""
    sha = hashlib.sha256()
    with path.open("rb") as f:
        while piece := f.read(1 << 20):
            sha.update(piece)
    return "sha256:" + sha.hexdigest()


def check_digest(text: str) -> str:
    """Return ``text`` if it is a ``sha256:<64 lower-case hex>`` digest; raise :class:`IntegrityError`
    otherwise.

    Digests name files: this check is what keeps a hostile descriptor from leaving the blob folder.
    """
    if not _DIGEST.match(text):
        raise IntegrityError(f"{text[:80]!r} is not a sha256 digest")
    return text


def hex_of(digest: str) -> str:
    """The 64 hex characters of a checked digest: the blob's file name."""
    return check_digest(digest).removeprefix("sha256:")


def check_name(text: str) -> str:
    """Return ``text`` if it may name a device, slot, stream or release: ``[a-z0-9]``, then ``[a-z0-9._-]``,
    at most 64.

    Names become MQTT topic levels and file names, so neither ``/``, ``+``, ``#`` nor a leading dot is
    allowed. Raises ValueError, so that pydantic reports the field.
    """
    if not _NAME.match(text):
        raise ValueError(
            f"{text[:80]!r} is not a name: use a-z, 0-9, '.', '_' and '-', at most 64, starting and ending with a letter or digit"
        )
    return text


def fsync_dir(path: Path) -> None:
    """Make renames and deletions inside ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def exchange(a: Path, b: Path) -> bool:
    """Swap the names of two files or folders of one file system in one step: at each of them there is always
    one or the other.

    False, and nothing is done, where the system or its file system cannot do that (it needs Linux, and NFS
    has none). Raises ``OSError``.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(b))


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Turn ``OSError`` inside the block into :class:`StorageError` (disk full, read-only, no permission)."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"the disk is full while writing {what}",
                hint="free some space and run the same command again",
            ) from e
        raise StorageError(
            f"cannot write {what}: {e.strerror or e}", hint="check the path and its permissions"
        ) from e


@contextlib.contextmanager
def open_atomic(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on success it replaces ``path`` durably, on any error nothing is
    left.

    Raises :class:`StorageError` for a full or unwritable disk.
    """
    with storage(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temp = Path(name)
    done = False
    try:
        with storage(str(path)), os.fdopen(fd, "wb") as f:
            yield f
            f.flush()
            os.fchmod(f.fileno(), mode)
            os.fsync(f.fileno())
        with storage(str(path)):
            os.replace(temp, path)
            fsync_dir(path.parent)
        done = True
    finally:
        if not done:
            temp.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` with ``data``, durably and whole."""
    with open_atomic(path, mode=mode) as f:
        f.write(data)


def keep_private(database: Path) -> None:
    """Make a SQLite database, if there is none, that only its owner can read; SQLite gives what it writes
    beside it the same mode. One that is there, and what lies beside it, becomes private. Raises
    ``OSError``."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    for path in (
        database,
        *(database.with_name(database.name + end) for end in ("-journal", "-wal", "-shm")),
    ):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)


def forget_unfinished(*folders: Path) -> None:
    """Remove the temporary files that a power cut or SIGKILL left in ``folders``, which nobody else may be
    writing to. What a disk does not let go stays: it is in nobody's way."""
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in [p for p in folder.iterdir() if _UNFINISHED.match(p.name) and p.is_file()]:
                path.unlink()
