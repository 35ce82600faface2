"""Sends blobs over MQTT: the thin shell around :class:`edgectl.core.transfer.Seeder`, with a connection of its own.

At most 20 publishes are outstanding, so the broker's acknowledgements pace it. Manifest pages are retained; chunks are not.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from edgectl.core.errors import EdgectlError
from edgectl.core.transfer import (
    INLINE_BYTES,
    Broadcast,
    ManifestPage,
    Marker,
    Need,
    Repair,
    Round,
    Seeder,
    encode_frame,
    pages_of,
)
from edgectl.core.wire import Topics
from edgectl.fleet.blobs import BlobStore
from edgectl.link.mqtt import BrokerOptions, Link

__all__ = ["BlobSeeder", "SeederCounters"]

log = logging.getLogger(__name__)

_BURST = 16  # sends of one blob before the next blob has its turn


@dataclass
class SeederCounters:
    """Since the start; bytes are payload bytes of chunks."""

    broadcast_chunks: int = 0
    repair_chunks: int = 0
    bytes: int = 0


class BlobSeeder:
    """Thread ``seeder``."""

    def __init__(self, broker: BrokerOptions, topics: Topics, blobs: BlobStore) -> None:
        self.counters = SeederCounters()
        self._topics = topics
        self._blobs = blobs
        self._lock = threading.Lock()
        self._seeders: dict[str, Seeder] = {}
        self._gone: set[str] = set()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._link = Link(broker, "seeder", window=20)
        self._link.subscribe(topics.any_need, self._on_need)
        self._thread = threading.Thread(target=self._run, name="seeder", daemon=True)

    def start(self) -> None:
        self._link.start()
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._link.close()

    def publish_pages(self, digest: str) -> None:
        """Put a blob's retained manifest pages on the broker. Raises :class:`LinkError` if it does not take them."""
        for page in self._pages(digest):
            self._link.publish(self._topics.manifest(digest, page.page), page.encode(), retain=True, timeout_s=30.0)

    def _pages(self, digest: str) -> list[ManifestPage]:
        size, hashes = self._blobs.hashes(digest)
        inline = self._blobs.path(digest).read_bytes() if size <= INLINE_BYTES else None
        return pages_of(digest, size, hashes, inline=inline)

    def _on_need(self, topic: str, payload: bytes) -> None:
        levels = self._topics.parse(topic)
        if levels is None or len(levels) != 4:
            return
        _, prefix, _, device = levels
        digest = self._blobs.find(prefix)
        if digest is None:
            with self._lock:
                if len(self._gone) < 64:
                    self._gone.add(prefix)
            self._wake.set()
            return
        try:
            need = Need.parse(payload)
            with self._lock:
                seeder = self._seeders.get(digest)
                if seeder is None:
                    seeder = self._seeders[digest] = Seeder(size=self._blobs.path(digest).stat().st_size)
                seeder.on_need(device, need, time.monotonic())
        except EdgectlError as e:
            log.warning("need of %s is ignored: %s", device, e.message)
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._step():
                    self._wake.wait(0.05)
                    self._wake.clear()
            except EdgectlError as e:
                log.warning("seeding waits: %s", e.message)
                self._stop.wait(1.0)

    def _step(self) -> bool:
        """Every blob gets a burst. Returns whether anything was sent."""
        with self._lock:
            gone, self._gone = self._gone, set()
            active = list(self._seeders.items())
        for prefix in gone:
            self._link.publish(f"{self._topics.root}/a/{prefix}/st", Round(round=0, gone=True).encode(), timeout_s=10.0)
        sent = False
        for digest, seeder in active:
            for _ in range(_BURST):
                with self._lock:
                    action = seeder.next(time.monotonic())
                    if action is None and not seeder.active:
                        self._seeders.pop(digest, None)
                if action is None:
                    break
                sent = True
                self._send(digest, action)
        return sent

    def _send(self, digest: str, action: Broadcast | Repair | Marker) -> None:
        if isinstance(action, Marker):
            if action.pages:
                self.publish_pages(digest)
            self._link.publish(self._topics.rounds(digest), action.round.encode(), timeout_s=30.0)
            return
        data = self._blobs.chunk(digest, action.index)
        if isinstance(action, Broadcast):
            topic = self._topics.broadcast(digest)
            self.counters.broadcast_chunks += 1
        else:
            topic = self._topics.repair(digest, action.device)
            self.counters.repair_chunks += 1
        self.counters.bytes += len(data)
        self._link.publish(topic, encode_frame(digest, action.index, data), timeout_s=30.0)
