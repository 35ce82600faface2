"""Root metadata, from those of the enrolment on: each is signed by the keys of the one before. What was verified is
kept, and the device never goes back to an older one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edgectl.agent.state.journal import Journal
from edgectl.core.errors import TrustError
from edgectl.core.files import atomic_write
from edgectl.core.trust import director_keys

__all__ = ["RootChain"]


class RootChain:
    """Not thread-safe: the trust store's lock guards it."""

    def __init__(self, folder: Path, enrolled: bytes, journal: Journal) -> None:
        """``folder`` keeps the roots that were verified. Raises :class:`TrustError` if ``enrolled`` is not root
        metadata."""
        self._folder = folder
        self._journal = journal
        self.enrolled = enrolled
        self.files: dict[str, bytes] = {}
        """``N.root.json`` → content, of each root after the first that was verified."""
        try:
            metadata = Metadata[Root].from_bytes(enrolled)
            metadata.verify_delegate(Root.type, metadata)
            self.current: Root = metadata.signed
        except (RepositoryError, ValueError, AttributeError) as e:
            raise TrustError(
                f"the root metadata of this device is not valid: {e}",
                hint="enroll the device again and copy its root.json",
            ) from e

    def follow(self, roots: Mapping[str, bytes]) -> None:
        """Go on from the current root as far as each next one is signed by the keys of the one before, and
        keep those. Raises :class:`StorageError`."""
        new = {}
        while (name := f"{self.current.version + 1}.root.json") in roots:
            try:
                after = Metadata[Root].from_bytes(roots[name])
                self.current.verify_delegate(Root.type, after.signed_bytes, after.signatures)
                after.signed.verify_delegate(Root.type, after.signed_bytes, after.signatures)
                if after.signed.version != self.current.version + 1:
                    break
                director_keys(after.signed)
            except (RepositoryError, ValueError, AttributeError, TrustError):
                break
            self.current = after.signed
            new[name] = roots[name]
        for name, content in new.items():
            path = self._folder / name
            if not path.is_file() or path.read_bytes() != content:
                atomic_write(path, content)
        self.files |= new
        if new:
            self._journal.raise_floor("floor:root", self.current.version)

    def check_floor(self) -> None:
        """Raises :class:`TrustError` if a later root was seen before than is here now."""
        if self.current.version < (seen := self._journal.value("floor:root")):
            raise TrustError(
                f"the root metadata have version {self.current.version}, this device has already seen {seen}"
            )
