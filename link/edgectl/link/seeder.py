"""Sends blobs over MQTT: the thin shell around :class:`edgectl.core.transfer.Seeder`, with a connection of
its own.

The controller runs one for everybody. A device that may seed its site runs one as a *peer*: it answers only
devices of its site, only while neither the controller nor another peer does, on topics that carry its name.
At most 20 publishes are outstanding, so the broker's acknowledgements pace it. The controller's manifest
pages are retained; chunks are not.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgectl.core.errors import EdgectlError
from edgectl.core.files import check_name
from edgectl.core.schema import Message
from edgectl.core.transfer import (
    INLINE_BYTES,
    Broadcast,
    DeltaOffer,
    ManifestPage,
    Marker,
    Need,
    Rates,
    Repair,
    Round,
    Seeder,
    Sum,
    Suppression,
    TransferLimits,
    chunk_count,
    encode_frame,
    pages_of,
    sum_chunks,
)
from edgectl.core.transfer.messages import PAGE_HASHES
from edgectl.core.wire import Topics
from edgectl.link.mqtt import BrokerOptions, Link

__all__ = ["BlobSeeder", "Blobs", "Peer", "SeederCounters", "manifest_topics"]

log = logging.getLogger(__name__)

# sends of one blob before the next blob has its turn
_BURST = 16
_WINDOW = 20
_IDLE_S = 0.5
_LISTEN_S = 0.5
_MAX_GONE = 64
_MAX_SEEDERS = 4096


def manifest_topics(topics: Topics, digest: str, size: int) -> list[str]:
    """Where the retained manifest pages of a blob of ``size`` bytes are."""
    return [topics.manifest(digest, page) for page in range(max(1, -(-chunk_count(size) // PAGE_HASHES)))]


class Blobs(Protocol):
    """What is there to send. Every method but ``find`` raises :class:`EdgectlError` for a blob that is
    gone."""

    def find(self, prefix: str) -> str | None:
        """The digest of the blob whose name starts with these 32 hex digits."""

    def size(self, digest: str) -> int: ...

    def chunk(self, digest: str, index: int) -> bytes: ...

    def hashes(self, digest: str) -> tuple[int, Sequence[bytes]]:
        """Size in bytes, and the sha256 of every chunk."""

    def deltas(self, digest: str) -> tuple[DeltaOffer, ...]: ...


@dataclass(frozen=True)
class Peer:
    """A device that seeds. ``allowed``: whether the controller's policy lets devices do so now."""

    name: str
    site: str | None
    allowed: Callable[[], bool]


@dataclass
class SeederCounters:
    """Since the start; bytes are payload bytes of chunks."""

    broadcast_chunks: int = 0
    sums: int = 0
    repair_chunks: int = 0
    bytes: int = 0


class BlobSeeder:
    """Thread ``seeder``."""

    def __init__(
        self,
        broker: BrokerOptions,
        topics: Topics,
        blobs: Blobs,
        *,
        rates: Rates | None = None,
        peer: Peer | None = None,
    ) -> None:
        """``peer`` None: the controller's, which serves every site."""
        self.counters = SeederCounters()
        self._topics = topics
        self._blobs = blobs
        self._peer = peer
        self._silence = Suppression(peer.name, hash(peer.name)) if peer else None
        self._limits = TransferLimits(rates or Rates())
        self._lock = threading.Lock()
        self._seeders: dict[str, Seeder] = {}
        self._gone: set[str] = set()
        self._found: dict[str, str] = {}
        self._listening: dict[str, float] = {}
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._link = Link(broker, f"{peer.name}-seeder" if peer else "seeder", window=_WINDOW)
        self._link.subscribe(topics.any_need, self._on_need)
        if peer:
            self._link.subscribe(topics.any_rounds, self._on_rounds)
            self._link.subscribe(topics.any_peer_rounds, self._on_rounds)
        self._thread = threading.Thread(target=self._run, name="seeder", daemon=True)

    def start(self) -> None:
        self._link.start()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs, or is still to be started."""
        return self._thread.ident is None or self._thread.is_alive()

    def close(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._link.close()

    def publish_pages(self, digest: str) -> None:
        """Put a blob's retained manifest pages on the broker. Raises :class:`LinkError` if it does not
        take them."""
        for page in self._pages(digest):
            self._link.publish(
                self._topics.manifest(digest, page.page), page.encode(), retain=True, timeout_s=30.0
            )

    def _pages(self, digest: str) -> list[ManifestPage]:
        size, hashes = self._blobs.hashes(digest)
        inline = self._blobs.chunk(digest, 0) if size <= INLINE_BYTES else None
        return pages_of(digest, size, hashes, inline=inline, deltas=self._blobs.deltas(digest))

    # ---- from the broker (dispatcher thread)

    def _on_need(self, topic: str, payload: bytes) -> None:
        levels = self._topics.parse(topic)
        if levels is None or len(levels) != 4:
            return
        _, prefix, _, device = levels
        try:
            # who is called otherwise could not be answered: names become topics
            check_name(device)
            need = Need.parse(payload)
            if self._peer and (
                need.site != self._peer.site or device == self._peer.name or not self._peer.allowed()
            ):
                return
            digest = self._find(prefix)
            if digest is not None:
                self._take(digest, device, need, time.monotonic())
            elif not self._peer:  # only the controller knows what there is
                with self._lock:
                    if len(self._gone) < _MAX_GONE:
                        self._gone.add(prefix)
        except (EdgectlError, ValueError) as e:
            log.warning("need of %s is ignored: %s", device[:80], e)
        self._wake.set()

    def _take(self, digest: str, device: str, need: Need, now: float) -> None:
        with self._lock:
            seeder = self._seeders.get(digest)
            if seeder is None:
                if len(self._seeders) >= _MAX_SEEDERS:
                    return
                seeder = Seeder(
                    size=self._blobs.size(digest), limits=self._limits, sets_apart=self._peer is None
                )
                self._seeders[digest] = seeder
            seeder.on_need(device, need, now)
            if self._silence and seeder.active:
                self._silence.wanted(digest, device, int.from_bytes(need.bits(), "little").bit_count(), now)

    def _on_rounds(self, topic: str, _payload: bytes) -> None:
        """Somebody else seeds this blob."""
        levels = self._topics.parse(topic)
        if levels is None or not 3 <= len(levels) <= 4 or self._peer is None or self._silence is None:
            return
        other = levels[3] if len(levels) == 4 else None
        digest = self._find(levels[1])
        if digest is None or other == self._peer.name:
            return
        with self._lock:
            now = time.monotonic()
            self._silence.heard(digest, other, now)
            if not self._silence.may_send(digest, now):
                self._seeders.pop(digest, None)  # what it needs it will say again

    def _find(self, prefix: str) -> str | None:
        found = self._found.get(prefix) or self._blobs.find(prefix)
        if found is not None and len(self._found) < _MAX_SEEDERS:
            self._found[prefix] = found
        return found

    # ---- thread ``seeder``

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                wait_s = self._step()
            except EdgectlError as e:
                log.warning("seeding waits: %s", e.message)
                wait_s = 1.0
                self._wake.clear()
            if wait_s > 0:
                self._wake.wait(wait_s)
                self._wake.clear()

    def _step(self) -> float:
        """Every blob gets a burst. Returns the seconds until there may be something to do again."""
        with self._lock:
            if self._peer and not self._peer.allowed():
                self._seeders.clear()
            gone, self._gone = self._gone, set()
            active = list(self._seeders.items())
        for prefix in gone:
            self._link.publish(
                f"{self._topics.root}/a/{prefix}/st", Round(round=0, gone=True).encode(), timeout_s=10.0
            )
        wake_s = _IDLE_S
        for digest, seeder in active:
            if self._peer and not self._announced(digest, self._peer):
                wake_s = min(wake_s, 0.1)
                continue
            try:
                for _ in range(_BURST):
                    with self._lock:
                        action = seeder.next(time.monotonic())
                        if action is None and not seeder.active and self._seeders.get(digest) is seeder:
                            del self._seeders[digest]
                            if self._silence:
                                self._silence.over(digest)
                    if action is None:
                        break
                    self._send(digest, action)
                with self._lock:
                    now = time.monotonic()
                    at = seeder.wake_at(now)
                if at is not None:
                    wake_s = min(wake_s, at - now)
            except EdgectlError:
                with self._lock:
                    self._found.clear()
                    # a blob that cannot be read must not hold up the others; needs come again
                    self._seeders.pop(digest, None)
                raise
        return wake_s

    def _announced(self, digest: str, peer: Peer) -> bool:
        """Whether it is our turn, and devices have had the time to listen to our topic since we said so."""
        now = time.monotonic()
        with self._lock:
            if self._silence is None or not self._silence.may_send(digest, now):
                self._listening.pop(digest, None)
                return False
            first = digest not in self._listening
            since = self._listening.setdefault(digest, now)
        if first:
            marker = Round(round=0, sending=True, site=peer.site)
            self._link.publish(self._topics.peer_rounds(digest, peer.name), marker.encode(), timeout_s=10.0)
        return now - since >= _LISTEN_S

    def _send(self, digest: str, action: Broadcast | Sum | Repair | Marker) -> None:
        if isinstance(action, Marker):
            self._mark(digest, action)
            return
        if isinstance(action, Sum):
            data = sum_chunks([self._blobs.chunk(digest, i) for i in action.indices])
            frame = encode_frame(digest, action.indices, data)
            self.counters.sums += 1
        else:
            data = self._blobs.chunk(digest, action.index)
            frame = encode_frame(digest, action.index, data)
        if isinstance(action, Repair):
            self.counters.repair_chunks += 1
        elif isinstance(action, Broadcast):
            self.counters.broadcast_chunks += 1
        self.counters.bytes += len(data)
        if self._peer:
            topic = self._topics.peer(digest, self._peer.name)
        elif isinstance(action, Repair):
            topic = self._topics.repair(digest, action.device)
        else:
            topic = self._topics.broadcast(digest)
        self._link.publish(topic, frame, timeout_s=30.0)

    def _mark(self, digest: str, marker: Marker) -> None:
        message: Message = marker.round
        if self._peer:
            message = marker.round.model_copy(update={"site": self._peer.site, "apart": False})
            topic = self._topics.peer_rounds(digest, self._peer.name)
            # not retained, and not under the controller's name
            if marker.pages:
                for page in self._pages(digest):
                    self._link.publish(
                        self._topics.peer(digest, self._peer.name), page.encode(), timeout_s=30.0
                    )
        else:
            topic = (
                self._topics.repair(digest, marker.device) if marker.device else self._topics.rounds(digest)
            )
            if marker.pages:
                self.publish_pages(digest)
        self._link.publish(topic, message.encode(), timeout_s=30.0)
