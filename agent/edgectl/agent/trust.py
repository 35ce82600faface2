"""What the device may install: python-tuf's client over the retained trust message, with version floors of our own.

The set is verified again at every question (a few milliseconds), so that metadata which expires in the meantime stops installs.
python-tuf keeps its files without fsync; after a power cut its floors may be gone, so ours lie in the journal.
Nothing here ever stops inference.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgectl.agent.journal import Journal
from edgectl.core.bundle import MEDIA_INDEX, Descriptor
from edgectl.core.errors import StorageError, TrustError
from edgectl.core.files import atomic_write, fsync_dir
from edgectl.core.trust import decode_trust, target_path

__all__ = ["StaleTrust", "TrustStore"]

_FLOORS = {"timestamp.json": Timestamp, "snapshot.json": Snapshot, "targets.json": Targets}


class StaleTrust(TrustError):
    """There is no valid metadata now, but a newer set may come: wait."""


class _Set(FetcherInterface):
    """Serves metadata files from memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: an error must come up inside fetch(), which wraps it. 404 is how root discovery ends.
        name = url.rsplit("/", 1)[-1]
        if name not in self._files:
            raise DownloadHTTPError(f"no {name} in the trust message", 404)
        return iter([self._files[name]])


class TrustStore:
    """``folder`` keeps python-tuf's files and the last good message; ``root`` is the root metadata the device was enrolled with."""

    def __init__(self, folder: Path, root: bytes, journal: Journal, *, wall: Callable[[], float] = time.time) -> None:
        """Raises :class:`TrustError` if ``root`` is not root metadata, :class:`StorageError` for the disk."""
        self._folder = folder
        self._root = root
        self._journal = journal
        self._wall = wall
        self._lock = threading.Lock()
        self._kept = folder / "trust.json"
        self.version: int | None = None
        """Version of the targets metadata that was last verified."""
        try:
            (folder / "tuf").mkdir(parents=True, exist_ok=True)
            self._message = self._kept.read_bytes() if self._kept.is_file() else None
            Metadata[Root].from_bytes(root)
        except OSError as e:
            raise StorageError(f"the trust folder {folder} cannot be used: {e.strerror}") from e
        except RepositoryError as e:
            raise TrustError(
                f"the root metadata of this device is not valid: {e}", hint="enroll the device again and copy its root.json"
            ) from e

    def update(self, message: bytes) -> None:
        """Take a newer metadata set. Raises :class:`TrustError`; the set from before then stays in force."""
        with self._lock:
            self._verify(message)
            if message != self._message:
                atomic_write(self._kept, message)
                self._message = message

    def check(self, release: str, digest: str) -> Descriptor:
        """The descriptor (length, digest) of the index.json that signed targets name for ``release``.

        Raises :class:`StaleTrust` if there is no valid set now, :class:`TrustError` if it does not name this digest.
        """
        with self._lock:
            if self._message is None:
                raise StaleTrust("no signed metadata has reached this device yet", hint="is the controller running?")
            target = self._target(self._verify(self._message), release)
        if target is None:
            raise TrustError(f"signed metadata does not name release {release}", hint="publish the release with its keys")
        if target.hashes.get("sha256") != digest.removeprefix("sha256:"):
            raise TrustError(f"signed metadata names another digest for release {release} than {digest[:19]}…")
        return Descriptor(mediaType=MEDIA_INDEX, digest=digest, size=target.length)

    def _verify(self, message: bytes) -> Updater:
        files = decode_trust(message)
        self._check_clock()
        self._check_floors(files)
        try:
            updater = Updater(
                str(self._folder / "tuf"), "mqtt://trust/", fetcher=_Set(files), bootstrap=self._root
            )  # metadata only: targets come by our own transfer
            updater.refresh()
            fsync_dir(self._folder / "tuf")
        except ExpiredMetadataError as e:
            raise StaleTrust(f"signed metadata is expired: {e}", hint="renew it: the controller does while it runs") from e
        except (RepositoryError, DownloadError) as e:
            raise TrustError(f"signed metadata is not accepted: {e}") from e
        except OSError as e:
            raise StorageError(f"signed metadata cannot be kept: {e.strerror}") from e
        for name, role in _FLOORS.items():
            version = Metadata[role].from_bytes(files[name]).signed.version  # type: ignore[valid-type]
            self._journal.raise_floor(f"floor:{name}", version)
            if name == "targets.json":
                self.version = version
        self._journal.raise_floor("floor:clock", int(self._wall()))
        return updater

    def _check_floors(self, files: dict[str, bytes]) -> None:
        for name, role in _FLOORS.items():
            if name not in files:
                raise TrustError(f"the trust message has no {name}")
            try:
                version = Metadata[role].from_bytes(files[name]).signed.version  # type: ignore[valid-type]
            except (RepositoryError, ValueError) as e:
                raise TrustError(f"{name} is not signed metadata: {e}") from e
            floor = self._journal.value(f"floor:{name}")
            if version < floor:
                raise TrustError(f"{name} has version {version}, this device has already seen {floor}")

    def _check_clock(self) -> None:
        floor = self._journal.value("floor:clock")
        if self._wall() < floor - 86400:
            raise StaleTrust("the clock of this device went back by more than a day", hint="let it synchronise (NTP)")

    @staticmethod
    def _target(updater: Updater, release: str) -> TargetFile | None:
        return updater.get_targetinfo(target_path(release))
