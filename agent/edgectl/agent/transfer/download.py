"""Blobs from the broker into the store, over one bulk connection.

The thin shell over :class:`edgectl.core.transfer.Receiver`: it subscribes, feeds what arrives, asks for what
is missing, and writes what is verified. It can be killed anywhere; part files are hashed again.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgectl.agent.state.store import PartialBlob, Store
from edgectl.core.bundle import CHUNK_SIZE, Descriptor
from edgectl.core.delta import apply_delta
from edgectl.core.errors import IntegrityError, LinkError, ProtocolError, StorageError
from edgectl.core.transfer import DeltaOffer, Need, Receiver, Round
from edgectl.core.wire import Topics
from edgectl.link.mqtt import Link

__all__ = ["Cancelled", "Download", "FetchProgress"]

log = logging.getLogger(__name__)

_QUEUE = 64  # messages, at most 4 MiB of chunks
# of what is missing: a difference that is larger is not worth the detour
_DELTA_SHARE = 0.75
# without a word about a difference, the whole is fetched
_DELTA_SILENCE_S = 15.0


class Cancelled(Exception):
    """The caller asked to stop; nothing is wrong."""


@dataclass(frozen=True)
class FetchProgress:
    """Bytes so far of the known total, and how many chunks were refused because their hash is wrong."""

    done: int
    total: int
    rejected: int


@dataclass
class _Transfer:
    """One blob on its way."""

    blob: Descriptor
    receiver: Receiver
    part: PartialBlob | None = None
    whole: _Transfer | None = None
    """This blob is a difference (a delta): the transfer that it completes."""
    offer: DeltaOffer | None = None
    """What the controller said of this difference."""
    give_up_s: float = 0.0
    """Of a difference: when to fetch the whole instead, if nothing has come."""
    waits_for_delta: bool = False
    """A difference to it is fetched: ask for no chunk meanwhile."""
    delta_tried: bool = False
    apart: bool = False
    """It no longer listens to the broadcast: only repairs are sent to it."""
    topics: list[str] = field(default_factory=list)


class Download:
    """Any number of blobs at a time over one connection. A context manager: its handlers give up when it ends."""

    def __init__(
        self,
        link: Link,
        store: Store,
        topics: Topics,
        device: str,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        *,
        epoch: int,
        bps: int | None = None,
        site: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``link`` is started and closed by the caller; ``bps``: bytes/s that this device wants to receive at
        most."""
        self._link = link
        self._store = store
        self._topics = topics
        self._device = device
        self._cancelled = cancelled
        self._progress = progress
        self._epoch = epoch
        self._bps = bps
        self._site = site
        self._clock = clock
        self._inbox: queue.Queue[tuple[_Transfer, str, bytes, str | None]] = queue.Queue(_QUEUE)
        self._pending: dict[str, _Transfer] = {}
        self._rejected = 0
        self._over = False

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        # a handler that waits for room in the queue gives up, so that the link can be closed
        self._over = True

    def get(self, blobs: Iterable[Descriptor]) -> None:
        """Fetch every blob that the store does not have, or has no longer as it was: what rotted there is
        not the release's fault."""
        wanted = {d.digest: d for d in blobs if not self._store.holds(d)}
        items = []
        try:
            for d in wanted.values():
                item = self._item(d)
                items.append(item)
                try:
                    complete = self._finish_if_complete(item)
                except IntegrityError:  # what an earlier run left; it is thrown away
                    self._rejected, complete = self._rejected + 1, False
                if not complete:
                    self._begin(item)
            total = sum(i.blob.size for i in items)
            reported = -1.0
            while self._pending:
                self._check_cancelled()
                self._receive()
                now = self._clock()
                for item in list(self._pending.values()):
                    self._check_progress(item, now)
                done = sum(min(i.receiver.have * CHUNK_SIZE, i.blob.size) for i in items)
                if now - reported > 0.2 or not self._pending:
                    reported = now
                    self._progress(FetchProgress(done, total, self._rejected))
        finally:
            for item in [*items, *self._pending.values()]:
                self._end(item)

    def _check_cancelled(self) -> None:
        """Between two chunks, whatever is done with them: gigabytes take their time."""
        if self._cancelled():
            raise Cancelled

    # ---- one blob

    def _item(self, blob: Descriptor) -> _Transfer:
        seed = hash((self._device, blob.digest))
        receiver = Receiver(blob, self._clock(), epoch=self._epoch, seed=seed, bps=self._bps, site=self._site)
        item = _Transfer(blob, receiver)
        if blob.size:
            item.part = self._store.part(blob)
            try:
                self._resume(item)
            except BaseException:
                item.part.close()
                raise
        return item

    def _begin(self, item: _Transfer) -> None:
        self._pending[item.blob.digest] = item
        topics, digest = self._topics, item.blob.digest
        for topic, kind in (
            (topics.broadcast(digest), "chunk"),
            (topics.repair(digest, self._device), "chunk"),
            (topics.rounds(digest), "round"),
            (topics.any_peer(digest), "round"),
            *((topics.manifest(digest, page), "page") for page in item.receiver.page_numbers()),
        ):
            self._subscribe(item, topic, kind)

    def _end(self, item: _Transfer) -> None:
        self._pending.pop(item.blob.digest, None)
        for topic in item.topics:
            self._link.unsubscribe(topic)
        item.topics.clear()
        if item.part is not None:
            item.part.close()

    def _check_progress(self, item: _Transfer, now: float) -> None:
        receiver = item.receiver
        hopeless, gone = receiver.hopeless, receiver.gone
        if item.whole is not None and (hopeless or gone or now > item.give_up_s):
            self._give_up_delta(item)
        elif hopeless:
            raise IntegrityError(f"too many chunks of blob {item.blob.digest[:19]}… are not what was signed")
        elif gone:
            raise IntegrityError(
                f"blob {item.blob.digest[:19]}… is not at the controller", hint="publish the release again"
            )
        elif not item.waits_for_delta and self._link.is_up and (need := receiver.poll(now)):
            self._send_need(item, need)

    def _send_need(self, item: _Transfer, need: Need) -> None:
        """What is missing, now: while the broker is away it is not kept for later, and no deployment fails
        for that."""
        if not self._link.is_up:
            return
        try:
            self._link.publish(
                self._topics.need(item.blob.digest, self._device), need.encode(), timeout_s=1.0
            )
        except LinkError as e:
            log.info("a need is said later: %s", e.message)

    def _subscribe(self, item: _Transfer, topic: str, kind: str) -> None:
        def handler(arrived: str, payload: bytes) -> None:
            levels = self._topics.parse(arrived) or ()
            peer = levels[3] if len(levels) == 4 and levels[2] in ("p", "st") else None
            while not (self._over or self._cancelled()):
                try:
                    self._inbox.put((item, kind, payload, peer), timeout=0.5)
                    return
                except queue.Full:
                    # the disk is slower than the network: TCP holds the broker back
                    continue

        item.topics.append(topic)
        self._link.subscribe(topic, handler)

    # ---- what is here already

    def _resume(self, item: _Transfer) -> None:
        """Count what an earlier run wrote, and copy what other stored blobs have. Without a chunk list yet
        this is done when it is here."""
        receiver, part = item.receiver, item.part
        if part is None or receiver.hashes is None:
            return
        for index, data in part.chunks():
            self._check_cancelled()
            receiver.accept(index, data)
        if receiver.complete or receiver.n <= 1:
            return
        where: dict[bytes, list[int]] = {}
        for index in receiver.missing:
            where.setdefault(receiver.hashes[index], []).append(index)
        for chunk_hash, data in self._store.chunks(where):
            self._check_cancelled()
            for index in where[chunk_hash]:
                if receiver.accept(index, data):
                    part.write(index, data)

    def _take_delta(self, item: _Transfer) -> None:
        """Fetch a difference instead, where one is offered whose base lies here and that is smaller than
        what is missing."""
        receiver = item.receiver
        left = (receiver.n - receiver.have) * CHUNK_SIZE
        usable = [d for d in receiver.deltas if d.size <= left * _DELTA_SHARE and self._store.has(d.base)]
        if item.delta_tried or not usable:
            return
        item.delta_tried = True
        offer = min(usable, key=lambda d: d.size)
        if offer.digest in self._pending:
            return
        try:
            self._store.check_space(left + offer.size)
        except StorageError:
            return  # for the whole alone there is room
        item.waits_for_delta = True
        delta = self._item(
            Descriptor(
                mediaType=f"application/vnd.edgectl.delta.{offer.codec}", digest=offer.digest, size=offer.size
            )
        )
        delta.whole, delta.offer, delta.give_up_s = item, offer, self._clock() + _DELTA_SILENCE_S
        if self._store.has(offer.digest):
            self._end(delta)
            self._apply_delta(delta)
        else:
            self._begin(delta)
            self._finish(delta)

    def _give_up_delta(self, delta: _Transfer) -> None:
        """The whole blob comes instead. A difference is an offer that nobody signed: that it fails is no
        error of the release."""
        if delta.whole is not None:
            delta.whole.waits_for_delta = False
        self._end(delta)

    def _apply_delta(self, delta: _Transfer) -> None:
        """Make the chunks of the whole from base and difference. Each is checked like one that arrived;
        the others are fetched."""
        item, offer = delta.whole, delta.offer
        if item is None or offer is None or item.part is None:
            return
        store, receiver = self._store, item.receiver
        try:
            for index, data in enumerate(
                apply_delta(store.path(offer.base), store.path(offer.digest), item.blob.size)
            ):
                self._check_cancelled()
                if receiver.lacks(index) and receiver.accept(index, data):
                    item.part.write(index, data)
        except (ProtocolError, IntegrityError) as e:
            log.warning("the delta of blob %s… cannot be used: %s", item.blob.digest[:19], e.message)
        else:
            log.info(
                "blob %s… of %d bytes came as a delta of %d",
                item.blob.digest[:19],
                item.blob.size,
                offer.size,
            )
        item.waits_for_delta = False

    # ---- what arrives

    def _receive(self) -> None:
        """Handle what has arrived, at most one queue's worth."""
        for n in range(_QUEUE):
            try:
                item, kind, payload, peer = (
                    self._inbox.get(timeout=0.05) if n == 0 else self._inbox.get_nowait()
                )
            except queue.Empty:
                return
            if item.blob.digest in self._pending:
                try:
                    self._handle(item, kind, payload, peer)
                    self._finish(item)
                except (IntegrityError, ProtocolError):
                    # Refused and asked for again; the receiver counts, and gives up when it is hopeless.
                    self._rejected += 1
                except StorageError:
                    if item.whole is None:
                        raise
                    self._give_up_delta(item)

    def _finish(self, item: _Transfer) -> None:
        if not self._finish_if_complete(item):
            return
        self._end(item)
        for delta in [d for d in self._pending.values() if d.whole is item]:
            self._end(delta)  # the whole was there first
        self._send_need(item, item.receiver.done())
        if item.whole is not None:
            self._finish(item.whole)

    def _handle(self, item: _Transfer, kind: str, payload: bytes, peer: str | None) -> None:
        receiver = item.receiver
        item.give_up_s = self._clock() + _DELTA_SILENCE_S
        if kind == "round" or (kind == "chunk" and payload[:1] == b"{" and peer is None):
            if receiver.on_round(Round.parse(payload), self._clock(), peer) and peer is not None:
                self._subscribe(item, self._topics.peer(item.blob.digest, peer), "chunk")
            if receiver.apart and not item.apart:
                item.apart = True
                self._link.unsubscribe(self._topics.broadcast(item.blob.digest))
        elif kind == "page" or payload[:1] == b"{":
            had_hashes = receiver.hashes is not None
            small = receiver.on_page(payload, peer)
            if small is not None and item.part is not None:
                item.part.write(0, small)
            elif receiver.hashes is not None and not had_hashes:
                self._resume(item)
                self._take_delta(item)
        elif item.part is not None and (chunk := receiver.on_frame(payload, item.part.read, peer)):
            index, data = chunk
            # Without the chunk list it is not verified: it may not replace what was, before a restart.
            if receiver.hashes is not None or item.part.is_hole(index):
                item.part.write(index, data)

    def _finish_if_complete(self, item: _Transfer) -> bool:
        if not item.receiver.complete:
            return False
        if item.part is None:
            self._store.put(item.blob.digest, b"")
            return True
        try:
            item.part.finish()
        except IntegrityError:
            item.part.reset()
            item.receiver.forget(self._clock())
            raise
        if item.whole is not None:
            self._apply_delta(item)
        return True
