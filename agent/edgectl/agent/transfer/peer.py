"""Seeds other devices of the site from this device's store. Two switches must be on: ``seed_peers`` here, and
``[transfer] peers`` at the controller.
"""

from __future__ import annotations

import hashlib
import os
import threading

from edgectl.agent.config import AgentConfig
from edgectl.agent.state.store import Store
from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.files import storage
from edgectl.core.transfer import DeltaOffer, Rates
from edgectl.core.wire import Topics
from edgectl.link.seeder import BlobSeeder, Peer

__all__ = ["PeerSeeder", "StoreBlobs"]


class StoreBlobs:
    """The store as something to send: only whole, verified blobs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, prefix: str) -> str | None:
        if len(prefix) != 32 or set(prefix) - set("0123456789abcdef"):
            return None
        return next(
            (f"sha256:{p.name}" for p in self._store.blobs.glob(f"{prefix}*") if len(p.name) == 64), None
        )

    def size(self, digest: str) -> int:
        with storage(digest):
            return self._store.path(digest).stat().st_size

    def chunk(self, digest: str, index: int) -> bytes:
        with storage(digest), self._store.path(digest).open("rb", buffering=0) as f:
            return os.pread(f.fileno(), CHUNK_SIZE, index * CHUNK_SIZE)

    def hashes(self, digest: str) -> tuple[int, list[bytes]]:
        found = []
        with storage(digest), self._store.path(digest).open("rb") as f:
            while piece := f.read(CHUNK_SIZE):
                found.append(hashlib.sha256(piece).digest())
            return f.tell(), found

    def deltas(self, digest: str) -> tuple[DeltaOffer, ...]:
        return ()


class PeerSeeder:
    """Its connection exists only while ``seed_peers`` is set here and the controller's last word allowed
    peers."""

    def __init__(self, config: AgentConfig, topics: Topics, store: Store) -> None:
        self._config = config
        self._topics = topics
        self._blobs = StoreBlobs(store)
        self._allowed = False
        self._closed = False
        self._lock = threading.Lock()
        self._seeder: BlobSeeder | None = None

    @property
    def seeding(self) -> bool:
        """Whether this device would answer."""
        return self._seeder is not None and self._allowed

    def allow(self, allowed: bool) -> None:
        """The controller's policy. Turning it off silences at once; the connection is kept for when it is
        on again."""
        self._allowed = allowed
        with self._lock:
            if allowed and self._config.seed_peers and self._seeder is None and not self._closed:
                peer = Peer(self._config.name, self._config.site, lambda: self._allowed)
                rates = Rates(total=self._config.seed_kb_s * 1000)
                self._seeder = BlobSeeder(
                    self._config.broker.options(), self._topics, self._blobs, rates=rates, peer=peer
                )
                self._seeder.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            seeder, self._seeder = self._seeder, None
        if seeder is not None:
            seeder.close()
