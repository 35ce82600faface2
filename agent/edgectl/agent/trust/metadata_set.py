"""The parts of a signed metadata set, and python-tuf's way to its files. Nothing here keeps anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient.fetcher import FetcherInterface

from edgectl.core.signed import Keys
from edgectl.core.trust import delegated_path, target_path

__all__ = ["TOP_METADATA", "MemoryFetcher", "VerifiedSet", "role_keys", "signed_part", "target_paths"]

TOP_METADATA = {"timestamp.json": Timestamp, "snapshot.json": Snapshot, "targets.json": Targets}
T = TypeVar("T", Root, Snapshot, Targets, Timestamp)


class MemoryFetcher(FetcherInterface):
    """Serves metadata files from memory."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: an error must come up inside fetch(), which wraps it. 404 is how root discovery
        # ends.
        name = url.rsplit("/", 1)[-1]
        if name not in self._files:
            raise DownloadHTTPError(f"no {name} in the trust message", 404)
        return iter([self._files[name]])


@dataclass(frozen=True)
class VerifiedSet:
    """Metadata files that verify one another, parsed."""

    files: Mapping[str, bytes]
    root: Root
    snapshot: Snapshot
    targets: Targets
    found: TargetFile | None = None


def target_paths(release: str, profile: str | None) -> list[str]:
    """Where signed targets may name a release for a device of this profile."""
    return [target_path(release), *([delegated_path(profile, release)] if profile else [])]


def role_keys(root: Root, role: str) -> Keys:
    """The keys that count for a role of TUF, and how many of them."""
    found = root.get_delegated_role(role)
    return Keys({k: root.get_key(k) for k in found.keyids}, found.threshold)


def signed_part(data: bytes, role: type[T]) -> T:
    """Of bytes that were verified before."""
    metadata = Metadata[T].from_bytes(data)
    assert isinstance(metadata.signed, role)
    return metadata.signed
