"""Removes the controller's blobs that nothing names any more. Which these are is decided here; removing them
is in :mod:`edgectl.fleet.control.blobs`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from edgectl.core.errors import EdgectlError
from edgectl.core.wire import Topics
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.control.blobs import BlobStore
from edgectl.fleet.keys.trust import OnlineTrust
from edgectl.fleet.store.inventory import Inventory
from edgectl.link.seeder import manifest_topics

__all__ = ["GarbageCollector"]

log = logging.getLogger(__name__)

_EVERY_S = 86400.0


class GarbageCollector:
    """Thread-safe. Nobody waits for it, and it waits for nobody."""

    def __init__(
        self, blobs: BlobStore, inventory: Inventory, trust: OnlineTrust, publisher: Publisher, topics: Topics
    ) -> None:
        self._blobs = blobs
        self._inventory = inventory
        self._trust = trust
        self._publisher = publisher
        self._topics = topics
        self.naming = threading.Lock()
        """Held while a release takes its blobs, or blobs that none has are removed."""
        self._gone: frozenset[str] = frozenset()
        """Of releases that were withdrawn: removed at once. A kill forgets them here, and they go with the
        daily round."""
        self._last_s = 0.0

    def expect(self, releases: Iterable[str]) -> None:
        """These are about to be withdrawn: remember what they brought, as far as it can still be read."""
        known = self._inventory.releases()
        for release in known.keys() & set(releases):
            try:
                digest = known[release].digest
                self._gone |= {*self._blobs.offered(digest), *self._of_parts([digest])}
            except EdgectlError as e:
                log.warning("blobs of %s: %s", release, e.message)

    def drop(self, blobs: Iterable[str]) -> None:
        """Remove these, as far as nothing names them: their upload came for nothing else than what is over."""
        gone = frozenset(blobs)
        self._blobs.arrived(gone)
        self._gone |= gone
        self.collect()

    def is_due(self, now_s: float) -> bool:
        """Once a day, and where somebody was in the way the last time."""
        due = now_s >= self._last_s + _EVERY_S
        self._last_s = now_s if due else self._last_s
        return due or bool(self._gone)

    def collect(self) -> None:
        """Remove what nothing names. Failing to tidy up is not failing: it is logged, and tried again
        another day."""
        if not self.naming.acquire(blocking=False):
            return  # a release takes its blobs
        try:
            gone, self._gone = self._gone, frozenset()
            releases = [r.digest for r in self._inventory.releases().values()]
            kept = {b for digest in releases for b in self._blobs.offered(digest)}
            kept |= self._of_parts(releases)
            removed = self._blobs.collect(kept | set(self._trust.plans()), gone)
        except EdgectlError as e:
            log.warning("no blob is removed: %s", e.message)
            return
        finally:
            self.naming.release()
        if removed:
            self._inventory.log(
                "release",
                "blobs",
                f"{len(removed)} that nothing refers to were removed, {sum(removed.values())} bytes",
            )
            self._publisher.forget(
                t for digest, size in removed.items() for t in manifest_topics(self._topics, digest, size)
            )

    def _of_parts(self, releases: Iterable[str]) -> set[str]:
        """Of the engines that sets name, also of those whose own release was withdrawn: it may be published again, and
        the set is whole then."""
        parts = {one.digest for digest in releases for one in self._blobs.type_of(digest).parts.values()}
        return {b for digest in parts if self._blobs.has(digest) for b in self._blobs.offered(digest)}
