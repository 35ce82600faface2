"""Blobs on the device: ``blobs/<64 hex>`` are whole and verified, ``parts/<64 hex>`` are on their way.

A blob appears by rename after its hash was checked and its bytes are on disk, so a name in ``blobs`` is a
promise. Part files survive a power cut; what is in them is believed only after it was hashed again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, TypeVar

from edgectl.core.bundle import CHUNK_SIZE, MAX_JSON_BYTES, Descriptor, Manifest, Unpacked
from edgectl.core.bundle.config_release import open_artifact
from edgectl.core.errors import BundleError, IntegrityError, StorageError
from edgectl.core.files import atomic_write, digest_of, file_digest, fsync_dir, hex_of, storage
from edgectl.core.schema import parse_json

__all__ = ["PartialBlob", "Store"]

T = TypeVar("T")

_RESERVE = 64 << 20  # bytes that a download must leave free


class Store:
    def __init__(self, root: Path, *, reserve: int = _RESERVE, quota: int | None = None) -> None:
        """``reserve``: bytes of disk that no download may use up; ``quota``: bytes that all blobs together
        may take."""
        self.blobs = root / "blobs"
        self._parts = root / "parts"
        self.reserve = reserve
        self._quota = quota
        self._chunks: dict[str, list[bytes]] = {}
        with storage(str(root)):
            self.blobs.mkdir(parents=True, exist_ok=True)
            self._parts.mkdir(exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def holds(self, d: Descriptor | Unpacked) -> bool:
        """Whether a blob is there and, hashed again, right. A corrupt one is removed."""
        if not self.has(d.digest):
            return False
        if self._is_right(d):
            return True
        self._corrupt(d.digest)
        return False

    def read(self, digest: str, max_bytes: int) -> bytes:
        """A whole blob, hashed again. Raises :class:`IntegrityError`; the corrupt file is removed, so that
        it is fetched anew."""
        path = self.path(digest)
        data = _readable(digest, lambda: path.read_bytes() if path.stat().st_size <= max_bytes else None)
        if data is None or digest_of(data) != digest:
            raise self._corrupt(digest)
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Store a small blob that came inline. Raises :class:`IntegrityError` / :class:`StorageError`."""
        if digest_of(data) != digest:
            raise IntegrityError(f"blob {digest[:19]}… is corrupt")
        atomic_write(self.path(digest), data)

    def verify(self, blobs: Iterable[Descriptor]) -> None:
        """Hash every blob once more, from disk. A wrong one is removed and named in
        :class:`IntegrityError`."""
        for d in blobs:
            if not self.has(d.digest):
                raise IntegrityError(f"blob {d.digest[:19]}… is missing in the store")
            if not self._is_right(d):
                raise self._corrupt(d.digest)

    def _is_right(self, d: Descriptor | Unpacked) -> bool:
        path = self.path(d.digest)
        return bool(
            _readable(d.digest, lambda: path.stat().st_size == d.size and file_digest(path) == d.digest)
        )

    def _corrupt(self, digest: str) -> IntegrityError:
        """Removed where the disk allows it, so that it is fetched anew."""
        with contextlib.suppress(OSError):
            self.path(digest).unlink()
        return IntegrityError(f"stored blob {digest[:19]}… is corrupt")

    def verify_variant(self, manifest: str) -> None:
        """Hash everything of an installed variant, the manifest first. What is wrong is removed, so that it
        is fetched anew.

        Raises :class:`IntegrityError` or :class:`BundleError` naming it.
        """
        if not self.has(manifest):
            raise IntegrityError(f"manifest {manifest[:19]}… is missing in the store")
        data = self.read(manifest, MAX_JSON_BYTES)
        self.verify(
            [
                parse_json(
                    Manifest, data, max_bytes=MAX_JSON_BYTES, what="variant manifest", error=BundleError
                ).config
            ]
        )
        self.verify(open_artifact(self.blobs, manifest).installed())

    def check_space(self, needed: int, *, begun: Iterable[Descriptor] = ()) -> None:
        """Raise :class:`StorageError` if ``needed`` bytes do not fit beside the reserve, or into the quota;
        sooner here than at 80 %.

        ``begun``: blobs among them whose part files may be here already: what of them lies on the disk needs
        no room again.
        """
        with storage("the blob store"):
            used = sum(p.stat().st_size for p in self.blobs.iterdir()) if self._quota is not None else 0
            free = shutil.disk_usage(self.blobs).free + sum(
                map(self._begun, {d.digest: d for d in begun}.values())
            )
        if self._quota is not None and used + needed > self._quota:
            raise StorageError(
                f"{_mib(needed)} are needed, and of the quota of {_mib(self._quota)} {_mib(used)} are in use",
                hint="raise store_quota_mb in agent.toml, or release smaller bundles",
            )
        if needed + self.reserve > free:
            raise StorageError(
                f"{_mib(needed)} are needed and {_mib(free)} are free, of which {_mib(self.reserve)} stay reserved",
                hint="free some space on the device; the rollout tries again with a raised attempt",
            )

    def _begun(self, d: Descriptor) -> int:
        """Bytes that the part file of a blob takes on the disk; it has holes where nothing came yet."""
        try:
            return min(d.size, (self._parts / hex_of(d.digest)).stat().st_blocks * 512)
        except FileNotFoundError:
            return 0

    def chunks(self, wanted: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """``(hash, data)`` of every wanted chunk (32-byte sha256) that some stored blob has, read from disk;
        the caller hashes it again.

        Each blob is hashed once in the life of this object.
        """
        left = set(wanted)
        for path in sorted(self.blobs.iterdir()):
            if not left:
                return
            try:
                with path.open("rb") as f:
                    if path.name not in self._chunks:
                        self._chunks[path.name] = [
                            sha256(p).digest() for p in iter(partial(f.read, CHUNK_SIZE), b"")
                        ]
                    hashes = self._chunks[path.name]
                    for i, h in enumerate(hashes):
                        if h in left:
                            left.discard(h)
                            yield h, os.pread(f.fileno(), CHUNK_SIZE, i * CHUNK_SIZE)
            except OSError:
                # gone meanwhile, or unreadable: then it is fetched
                continue

    def part(self, d: Descriptor) -> PartialBlob:
        return PartialBlob(self, self._parts / hex_of(d.digest), d)

    def collect_garbage(self, keep: Iterable[str]) -> int:
        """Remove every blob and part that ``keep`` (digests) does not name. Returns the bytes freed."""
        names = {hex_of(d) for d in keep}
        freed = 0
        with storage("the blob store"):
            for folder in (self.blobs, self._parts):
                for path in folder.iterdir():
                    if path.name not in names:
                        self._chunks.pop(path.name, None)
                        freed += path.stat().st_size
                        path.unlink()
                fsync_dir(folder)
        return freed


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _readable(digest: str, read: Callable[[], T]) -> T | None:
    """What ``read`` returns; None where a sector is lost (EIO), which is how a worn-out flash corrupts a
    file."""
    with storage(digest):
        try:
            return read()
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            return None


class PartialBlob:
    """A blob on its way. Chunks are written in any order; :meth:`finish` proves the whole and renames it."""

    _SYNC_BYTES = 8 << 20

    def __init__(self, store: Store, path: Path, blob: Descriptor) -> None:
        self._store = store
        self._path = path
        self._blob = blob
        self._unsynced = 0
        with storage(str(path)):
            self._file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """What a previous run left, chunk by chunk, unverified."""
        fd, at = self._file.fileno(), 0
        while at < self._blob.size:
            try:
                found = os.lseek(fd, at, os.SEEK_DATA)  # skips what was never written
            except OSError:
                return
            index = max(at, found) // CHUNK_SIZE
            if data := self.read(index):
                yield index, data
            at = (index + 1) * CHUNK_SIZE

    def read(self, index: int) -> bytes:
        """A chunk as it lies there; short or empty where nothing was written yet."""
        at = index * CHUNK_SIZE
        with storage(str(self._path)):
            return os.pread(self._file.fileno(), min(CHUNK_SIZE, self._blob.size - at), at)

    def is_hole(self, index: int) -> bool:
        """Whether nothing was written there yet, as far as bytes tell."""
        return not self.read(index).strip(b"\0")

    def write(self, index: int, data: bytes) -> None:
        with storage(str(self._path)):
            os.pwrite(self._file.fileno(), data, index * CHUNK_SIZE)
            self._unsynced += len(data)
            if self._unsynced >= self._SYNC_BYTES:
                os.fdatasync(self._file.fileno())
                self._unsynced = 0

    def finish(self) -> None:
        """Hash the whole file, fsync, rename, fsync the folder. Raises :class:`IntegrityError`; the part
        then stays."""
        with storage(str(self._path)):
            os.ftruncate(self._file.fileno(), self._blob.size)
            os.fsync(self._file.fileno())
            if file_digest(self._path) != self._blob.digest:
                raise IntegrityError(
                    f"blob {self._blob.digest[:19]}… does not match its digest although it is complete"
                )
            os.replace(self._path, self._store.path(self._blob.digest))
            fsync_dir(self._store.blobs)
        self.close()

    def reset(self) -> None:
        """Throw the content away."""
        with storage(str(self._path)):
            os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        self._file.close()
