"""Bring a bundle's blobs to this device: signed index → manifests and configs → the chosen variant's layers.

The thin shell over :class:`edgectl.core.transfer.Receiver`: it opens the bulk connection (its own, so that
chunks never delay commands), feeds what arrives, and writes what is verified. It can be killed anywhere; part
files are hashed again.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from edgectl.agent.state.journal import Installed
from edgectl.agent.state.store import PartialBlob, Store
from edgectl.core.bundle import (
    ANNOTATION_RUNTIME,
    CHUNK_SIZE,
    MAX_INDEX_BYTES,
    MAX_JSON_BYTES,
    Descriptor,
    Index,
    Manifest,
    Preference,
    Variant,
    select,
)
from edgectl.core.delta import apply_delta
from edgectl.core.errors import BundleError, IntegrityError, LinkError, ProtocolError, StorageError
from edgectl.core.schema import parse_json
from edgectl.core.transfer import DeltaOffer, Need, Receiver, Round
from edgectl.core.wire import Topics
from edgectl.link.mqtt import Link

__all__ = ["Cancelled", "FetchProgress", "Fetched", "Fetcher", "Runnable", "variant_blobs"]

log = logging.getLogger(__name__)

_QUEUE = 64  # messages, at most 4 MiB of chunks
# of what is missing: a difference that is larger is not worth the detour
_DELTA_SHARE = 0.75
# without a word about a difference, the whole is fetched
_PATIENCE_S = 15.0


class Cancelled(Exception):
    """The caller asked to stop; nothing is wrong."""


class Runnable(Protocol):
    """What this machine can run (:func:`edgectl.device_profiles.machine.probe`)."""

    @property
    def facts(self) -> frozenset[str]: ...

    @property
    def runtimes(self) -> Collection[str]: ...


@dataclass(frozen=True)
class FetchProgress:
    """Bytes so far of the known total, and how many chunks were refused because their hash is wrong."""

    done: int
    total: int
    rejected: int


@dataclass(frozen=True)
class Fetched:
    """Everything lies in the store."""

    chosen: Installed
    fallback: Installed | None
    blobs: tuple[Descriptor, ...]


def variant_blobs(store: Path, installed: Iterable[Installed]) -> list[Descriptor]:
    """What lies on disk of installed variants: config, layers, decoded engines. Raises
    :class:`BundleError` / :class:`IntegrityError`."""
    return [d for i in installed for d in Variant.open(store, i.manifest).installed()]


@dataclass
class _Transfer:
    blob: Descriptor
    receiver: Receiver
    part: PartialBlob | None = None
    makes: _Transfer | None = None
    offer: DeltaOffer | None = None
    """This is a difference, and that is what it makes."""
    patience: float = 0.0
    """Of a difference: when to fetch the whole instead, if nothing has come."""
    held: bool = False
    """A difference is on its way: ask for nothing meanwhile."""
    offered: bool = False
    apart: bool = False
    topics: list[str] = field(default_factory=list)


@dataclass
class Fetcher:
    """``open_link`` makes an unstarted bulk connection. One fetch at a time (the caller's lock): slots may
    share blobs."""

    open_link: Callable[[], Link]
    topics: Topics
    device: str
    epoch: int
    store: Store
    machine: Runnable
    profile: str | None = None
    bps: int | None = None
    """Bytes/s that this device wants to receive at most; None: no limit."""
    site: str | None = None
    clock: Callable[[], float] = time.monotonic

    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        prefer: Preference | None = None,
    ) -> Fetched:
        """Fetch what this machine needs of a bundle; of several variants that fit, the one that has the
        ``prefer``.

        An engine that came packed lies there decoded, too. Raises :class:`IntegrityError` (what arrives is
        not what was signed),
        :class:`BundleError` (no variant fits, or the bundle is malformed), :class:`StorageError` (no space),
          :class:`Cancelled`.
        """
        if index.size > MAX_INDEX_BYTES:
            raise BundleError(
                f"the index of release {release} has {index.size} bytes, more than {MAX_INDEX_BYTES}"
            )
        with self.open_link() as link, contextlib.ExitStack() as stack:
            link.start()
            session = stack.enter_context(_Session(self, link, cancelled, progress))
            session.get([index])
            parsed = parse_json(
                Index,
                self.store.read(index.digest, MAX_INDEX_BYTES),
                max_bytes=MAX_INDEX_BYTES,
                what="index.json",
                error=BundleError,
            )
            runtimes = self.machine.runtimes
            candidates = [
                d for d in parsed.manifests if d.annotations.get(ANNOTATION_RUNTIME) in (None, *runtimes)
            ]
            session.get(candidates)
            manifests = [_manifest(self.store, d) for d in candidates]
            session.get([m.config for m in manifests])
            variants = [Variant.open(self.store.blobs, d.digest) for d in candidates]
            chosen = select(
                variants, self.machine.facts, profile=self.profile, runtimes=runtimes, prefer=prefer
            )
            fallback = self._fallback(variants)
            wanted = [chosen] if fallback is None or fallback.digest == chosen.digest else [chosen, fallback]
            blobs = [d for v in wanted for d in v.descriptors()]
            lacking = {
                d.digest: d for v in wanted for d in v.installed() if not self.store.has(d.digest)
            }.values()
            self.store.check_space(sum(d.size for d in lacking), begun=lacking)
            session.get(blobs)
        for v in wanted:
            self._unpack(v)
        return Fetched(
            chosen=Installed(release=release, bundle=index.digest, manifest=chosen.digest, preference=prefer),
            fallback=None
            if fallback is None
            else Installed(release=release, bundle=index.digest, manifest=fallback.digest),
            blobs=(index, *(d for d in candidates if d.digest in {v.digest for v in wanted}), *blobs),
        )

    def fetch_blob(
        self, blob: Descriptor, cancelled: Callable[[], bool], progress: Callable[[FetchProgress], None]
    ) -> None:
        """Fetch one blob that lies in the store afterwards until somebody tidies up. Raises like
        :meth:`fetch`."""
        self.store.check_space(0 if self.store.has(blob.digest) else blob.size, begun=[blob])
        with self.open_link() as link:
            link.start()
            with _Session(self, link, cancelled, progress) as session:
                session.get([blob])

    def _unpack(self, variant: Variant) -> None:
        """Decode a packed engine into the store: from here on it is a blob like any other, under the
        digest that was signed."""
        unpacked = variant.config.unpacked
        if unpacked is not None and not self.store.holds(unpacked):
            self.store.put(unpacked.digest, variant.unpack())

    def _fallback(self, variants: Sequence[Variant]) -> Variant | None:
        """The CPU variant to fall back to, where the bundle has one for this machine."""
        fallbacks = [v for v in variants if v.config.fallback]
        try:
            return select(fallbacks, self.machine.facts, profile=self.profile, runtimes=self.machine.runtimes)
        except BundleError:
            return None  # the previous engine remains the way back


def _manifest(store: Store, d: Descriptor) -> Manifest:
    data = store.read(d.digest, MAX_JSON_BYTES)
    return parse_json(Manifest, data, max_bytes=MAX_JSON_BYTES, what="variant manifest", error=BundleError)


class _Session:
    """One bulk connection; any number of blobs at a time."""

    def __init__(
        self,
        fetcher: Fetcher,
        link: Link,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
    ) -> None:
        self._f = fetcher
        self._link = link
        self._cancelled = cancelled
        self._progress = progress
        self._inbox: queue.Queue[tuple[_Transfer, str, bytes, str | None]] = queue.Queue(_QUEUE)
        self._pending: dict[str, _Transfer] = {}
        self._rejected = 0
        self._over = False

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        # a handler that waits for room in the queue gives up, so that the link can be closed
        self._over = True

    def get(self, blobs: Iterable[Descriptor]) -> None:
        """Fetch every blob that the store does not have, or has no longer as it was: what rotted there is
        not the release's fault."""
        wanted = {d.digest: d for d in blobs if not self._f.store.holds(d)}
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
                self._go_on()
                self._receive()
                now = self._f.clock()
                for item in list(self._pending.values()):
                    self._look_after(item, now)
                done = sum(min(i.receiver.have * CHUNK_SIZE, i.blob.size) for i in items)
                if now - reported > 0.2 or not self._pending:
                    reported = now
                    self._progress(FetchProgress(done, total, self._rejected))
        finally:
            for item in [*items, *self._pending.values()]:
                self._end(item)

    def _go_on(self) -> None:
        """Between two chunks, whatever is done with them: gigabytes take their time."""
        if self._cancelled():
            raise Cancelled

    # ---- one blob

    def _item(self, blob: Descriptor) -> _Transfer:
        f = self._f
        seed = hash((f.device, blob.digest))
        item = _Transfer(blob, Receiver(blob, f.clock(), epoch=f.epoch, seed=seed, bps=f.bps, site=f.site))
        if blob.size:
            item.part = f.store.part(blob)
            try:
                self._resume(item)
            except BaseException:
                item.part.close()
                raise
        return item

    def _begin(self, item: _Transfer) -> None:
        self._pending[item.blob.digest] = item
        topics, digest = self._f.topics, item.blob.digest
        for topic, kind in (
            (topics.broadcast(digest), "chunk"),
            (topics.repair(digest, self._f.device), "chunk"),
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

    def _look_after(self, item: _Transfer, now: float) -> None:
        receiver = item.receiver
        hopeless, gone = receiver.hopeless, receiver.gone
        if item.makes is not None and (hopeless or gone or now > item.patience):
            self._give_up_delta(item)
        elif hopeless:
            raise IntegrityError(f"too many chunks of blob {item.blob.digest[:19]}… are not what was signed")
        elif gone:
            raise IntegrityError(
                f"blob {item.blob.digest[:19]}… is not at the controller", hint="publish the release again"
            )
        elif not item.held and self._link.is_up and (need := receiver.poll(now)):
            self._say(item, need)

    def _say(self, item: _Transfer, need: Need) -> None:
        """What is missing, now: while the broker is away it is not kept for later, and no deployment fails
        for that."""
        if not self._link.is_up:
            return
        try:
            self._link.publish(
                self._f.topics.need(item.blob.digest, self._f.device), need.encode(), timeout_s=1.0
            )
        except LinkError as e:
            log.info("a need is said later: %s", e.message)

    def _subscribe(self, item: _Transfer, topic: str, kind: str) -> None:
        def handler(arrived: str, payload: bytes) -> None:
            levels = self._f.topics.parse(arrived) or ()
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
            self._go_on()
            receiver.accept(index, data)
        if receiver.complete or receiver.n <= 1:
            return
        where: dict[bytes, list[int]] = {}
        for index in receiver.missing:
            where.setdefault(receiver.hashes[index], []).append(index)
        for chunk_hash, data in self._f.store.chunks(where):
            self._go_on()
            for index in where[chunk_hash]:
                if receiver.accept(index, data):
                    part.write(index, data)

    def _offer(self, item: _Transfer) -> None:
        """Fetch a difference instead, where one is offered whose base lies here and that is smaller than
        what is missing."""
        receiver = item.receiver
        left = (receiver.n - receiver.have) * CHUNK_SIZE
        usable = [d for d in receiver.deltas if d.size <= left * _DELTA_SHARE and self._f.store.has(d.base)]
        if item.offered or not usable:
            return
        item.offered = True
        offer = min(usable, key=lambda d: d.size)
        if offer.digest in self._pending:
            return
        try:
            self._f.store.check_space(left + offer.size)
        except StorageError:
            return  # for the whole alone there is room
        item.held = True
        delta = self._item(
            Descriptor(
                mediaType=f"application/vnd.edgectl.delta.{offer.codec}", digest=offer.digest, size=offer.size
            )
        )
        delta.makes, delta.offer, delta.patience = item, offer, self._f.clock() + _PATIENCE_S
        if self._f.store.has(offer.digest):
            self._end(delta)
            self._apply(delta)
        else:
            self._begin(delta)
            self._finish(delta)

    def _give_up_delta(self, delta: _Transfer) -> None:
        """The whole blob comes instead. A difference is an offer that nobody signed: that it fails is no
        error of the release."""
        if delta.makes is not None:
            delta.makes.held = False
        self._end(delta)

    def _apply(self, delta: _Transfer) -> None:
        """Make the chunks of the whole from base and difference. Each is checked like one that arrived;
        the others are fetched."""
        item, offer = delta.makes, delta.offer
        if item is None or offer is None or item.part is None:
            return
        store, receiver = self._f.store, item.receiver
        try:
            for index, data in enumerate(
                apply_delta(store.path(offer.base), store.path(offer.digest), item.blob.size)
            ):
                self._go_on()
                if receiver.lacks(index) and receiver.accept(index, data):
                    item.part.write(index, data)
        except (ProtocolError, IntegrityError) as e:
            log.warning("the difference to blob %s… is of no use: %s", item.blob.digest[:19], e.message)
        else:
            log.info(
                "blob %s… of %d bytes came as a difference of %d",
                item.blob.digest[:19],
                item.blob.size,
                offer.size,
            )
        item.held = False

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
                    if item.makes is None:
                        raise
                    self._give_up_delta(item)

    def _finish(self, item: _Transfer) -> None:
        if not self._finish_if_complete(item):
            return
        self._end(item)
        for delta in [d for d in self._pending.values() if d.makes is item]:
            self._end(delta)  # the whole was there first
        self._say(item, item.receiver.done())
        if item.makes is not None:
            self._finish(item.makes)

    def _handle(self, item: _Transfer, kind: str, payload: bytes, peer: str | None) -> None:
        receiver = item.receiver
        item.patience = self._f.clock() + _PATIENCE_S
        if kind == "round" or (kind == "chunk" and payload[:1] == b"{" and peer is None):
            if receiver.on_round(Round.parse(payload), self._f.clock(), peer) and peer is not None:
                self._subscribe(item, self._f.topics.peer(item.blob.digest, peer), "chunk")
            if receiver.apart and not item.apart:
                item.apart = True
                self._link.unsubscribe(self._f.topics.broadcast(item.blob.digest))
        elif kind == "page" or payload[:1] == b"{":
            had_hashes = receiver.hashes is not None
            whole = receiver.on_page(payload, peer)
            if whole is not None and item.part is not None:
                item.part.write(0, whole)
            elif receiver.hashes is not None and not had_hashes:
                self._resume(item)
                self._offer(item)
        elif item.part is not None and (chunk := receiver.on_frame(payload, item.part.read, peer)):
            index, data = chunk
            # Without the chunk list it is not verified: it may not replace what was, before a restart.
            if receiver.hashes is not None or item.part.is_hole(index):
                item.part.write(index, data)

    def _finish_if_complete(self, item: _Transfer) -> bool:
        if not item.receiver.complete:
            return False
        if item.part is None:
            self._f.store.put(item.blob.digest, b"")
            return True
        try:
            item.part.finish()
        except IntegrityError:
            item.part.reset()
            item.receiver.forget(self._f.clock())
            raise
        if item.makes is not None:
            self._apply(item)
        return True
