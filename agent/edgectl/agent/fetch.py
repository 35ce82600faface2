"""Bring a bundle's blobs to this device: signed index → manifests and configs → the chosen variant's layers.

The thin shell over :class:`edgectl.core.transfer.Receiver`: it opens the bulk connection (its own, so that chunks never delay
commands), feeds what arrives, and writes what is verified. It can be killed anywhere; part files are hashed again.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgectl.agent.journal import Installed
from edgectl.agent.store import Part, Store
from edgectl.core.bundle import (
    ANNOTATION_RUNTIME,
    CHUNK_SIZE,
    MAX_INDEX_BYTES,
    MAX_JSON_BYTES,
    Descriptor,
    Index,
    Manifest,
    Role,
    Variant,
    select,
)
from edgectl.core.errors import BundleError, IntegrityError, ProtocolError
from edgectl.core.schema import parse_json
from edgectl.core.transfer import FRAME_BYTES, Receiver, Round
from edgectl.core.wire import Topics
from edgectl.link.mqtt import Link

__all__ = ["Cancelled", "Fetched", "Fetcher", "Machine", "Progress", "variant_blobs"]

_QUEUE = 64  # messages, at most 4 MiB of chunks


class Cancelled(Exception):
    """The caller asked to stop; nothing is wrong."""


class Machine(Protocol):
    """What this machine can run (:func:`edgectl.device_profiles.probe.probe`)."""

    @property
    def facts(self) -> frozenset[str]: ...

    @property
    def runtimes(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Progress:
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
    """What lies on disk of installed variants: config, layers, decoded engines. Raises :class:`BundleError` / :class:`IntegrityError`."""
    return [d for i in installed for d in Variant.open(store, i.manifest).installed()]


@dataclass
class _Item:
    blob: Descriptor
    receiver: Receiver
    part: Part | None = None


@dataclass
class Fetcher:
    """``open_link`` makes an unstarted bulk connection. One fetch at a time (the caller's lock): slots may share blobs."""

    open_link: Callable[[], Link]
    topics: Topics
    device: str
    epoch: int
    store: Store
    machine: Machine
    profile: str | None = None
    clock: Callable[[], float] = time.monotonic

    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[Progress], None],
        role: Role | None = None,
    ) -> Fetched:
        """Fetch what this machine needs of a bundle; of several variants that fit, the one that has the ``role``.

        An engine that came packed lies there decoded, too. Raises :class:`IntegrityError` (what arrives is not what was signed),
        :class:`BundleError` (no variant fits, or the bundle is malformed), :class:`StorageError` (no space), :class:`Cancelled`.
        """
        if index.size > MAX_INDEX_BYTES:
            raise BundleError(f"the index of release {release} has {index.size} bytes, more than {MAX_INDEX_BYTES}")
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
            candidates = [d for d in parsed.manifests if d.annotations.get(ANNOTATION_RUNTIME) in (None, *runtimes)]
            session.get(candidates)
            manifests = [_manifest(self.store, d) for d in candidates]
            session.get([m.config for m in manifests])
            variants = [Variant.open(self.store.blobs, d.digest) for d in candidates]
            chosen = select(variants, self.machine.facts, profile=self.profile, runtimes=runtimes, role=role)
            fallback = self._fallback(variants)
            wanted = [chosen] if fallback is None or fallback.digest == chosen.digest else [chosen, fallback]
            blobs = [d for v in wanted for d in v.descriptors()]
            self.store.check_space(sum(d.size for v in wanted for d in v.installed() if not self.store.has(d.digest)))
            session.get(blobs)
        for v in wanted:
            self._unpack(v)
        return Fetched(
            chosen=Installed(release=release, bundle=index.digest, manifest=chosen.digest, role=role),
            fallback=None if fallback is None else Installed(release=release, bundle=index.digest, manifest=fallback.digest),
            blobs=(index, *(d for d in candidates if d.digest in {v.digest for v in wanted}), *blobs),
        )

    def _unpack(self, variant: Variant) -> None:
        """Decode a packed engine into the store: from here on it is a blob like any other, under the digest that was signed."""
        unpacked = variant.config.unpacked
        if unpacked is not None and not self.store.has(unpacked.digest):
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

    def __init__(self, fetcher: Fetcher, link: Link, cancelled: Callable[[], bool], progress: Callable[[Progress], None]) -> None:
        self._f = fetcher
        self._link = link
        self._cancelled = cancelled
        self._progress = progress
        self._inbox: queue.Queue[tuple[_Item, str, bytes]] = queue.Queue(_QUEUE)
        self._rejected = 0
        self._over = False

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True  # a handler that waits for room in the queue gives up, so that the link can be closed

    def get(self, blobs: Iterable[Descriptor]) -> None:
        """Fetch every blob that the store does not have."""
        wanted = {d.digest: d for d in blobs if not self._f.store.has(d.digest)}
        items = [self._item(d) for d in wanted.values()]
        try:
            pending = {item.blob.digest: item for item in items if not self._finish_if_complete(item)}
            for item in pending.values():
                self._subscribe(item)
            total = sum(i.blob.size for i in items)
            reported = -1.0
            while pending:
                if self._cancelled():
                    raise Cancelled
                self._receive(pending)
                now = self._f.clock()
                for item in list(pending.values()):
                    if item.receiver.hopeless:
                        raise IntegrityError(f"too many chunks of blob {item.blob.digest[:19]}… are not what was signed")
                    if item.receiver.gone:
                        raise IntegrityError(
                            f"blob {item.blob.digest[:19]}… is not at the controller", hint="publish the release again"
                        )
                    if need := item.receiver.poll(now):
                        self._link.publish(self._f.topics.need(item.blob.digest, self._f.device), need.encode(), timeout_s=10.0)
                done = sum(min(i.receiver.have * CHUNK_SIZE, i.blob.size) for i in items)
                if now - reported > 0.2 or not pending:
                    reported = now
                    self._progress(Progress(done, total, self._rejected))
        finally:
            for item in items:
                self._unsubscribe(item)
                if item.part is not None:
                    item.part.close()

    def _item(self, blob: Descriptor) -> _Item:
        seed = hash((self._f.device, blob.digest))
        item = _Item(blob, Receiver(blob, self._f.clock(), epoch=self._f.epoch, seed=seed))
        if blob.size:
            item.part = self._f.store.part(blob)
            self._resume(item)
        return item

    def _resume(self, item: _Item) -> None:
        """Count what an earlier run wrote. Without a chunk list yet this is done again when the list is here."""
        if item.part is not None and item.receiver.hashes is not None:
            for index, data in item.part.chunks():
                item.receiver.accept(index, data)

    def _subscribe(self, item: _Item) -> None:
        topics, digest = self._f.topics, item.blob.digest

        def put(kind: str) -> Callable[[str, bytes], None]:
            def handler(_topic: str, payload: bytes) -> None:
                while not (self._over or self._cancelled()):
                    try:
                        self._inbox.put((item, kind, payload), timeout=0.5)
                        return
                    except queue.Full:
                        continue  # the disk is slower than the network: TCP holds the broker back

            return handler

        self._link.subscribe(topics.broadcast(digest), put("chunk"))
        self._link.subscribe(topics.repair(digest, self._f.device), put("chunk"))
        self._link.subscribe(topics.rounds(digest), put("round"))
        for page in item.receiver.page_numbers():
            self._link.subscribe(topics.manifest(digest, page), put("page"))

    def _unsubscribe(self, item: _Item) -> None:
        topics, digest = self._f.topics, item.blob.digest
        for topic in (topics.broadcast(digest), topics.repair(digest, self._f.device), topics.rounds(digest)):
            self._link.unsubscribe(topic)
        for page in item.receiver.page_numbers():
            self._link.unsubscribe(topics.manifest(digest, page))

    def _receive(self, pending: dict[str, _Item]) -> None:
        """Handle what has arrived, at most one queue's worth."""
        for n in range(_QUEUE):
            try:
                item, kind, payload = self._inbox.get(timeout=0.05) if n == 0 else self._inbox.get_nowait()
            except queue.Empty:
                return
            if item.blob.digest in pending:
                try:
                    self._handle(item, kind, payload)
                    if self._finish_if_complete(item):
                        del pending[item.blob.digest]
                        topic = self._f.topics.need(item.blob.digest, self._f.device)
                        self._link.publish(topic, item.receiver.done().encode(), timeout_s=10.0)
                except (IntegrityError, ProtocolError):
                    # Refused and asked for again; the receiver counts, and gives up when it is hopeless.
                    self._rejected += 1

    def _handle(self, item: _Item, kind: str, payload: bytes) -> None:
        receiver = item.receiver
        if kind == "round":
            receiver.on_round(parse_json(Round, payload, max_bytes=4096, what="round marker"), self._f.clock())
        elif kind == "page":
            had_hashes = receiver.hashes is not None
            whole = receiver.on_page(payload)
            if whole is not None and item.part is not None:
                item.part.write(0, whole)
            elif receiver.hashes is not None and not had_hashes:
                self._resume(item)
        elif len(payload) <= FRAME_BYTES and (chunk := receiver.on_frame(payload)) and item.part is not None:
            item.part.write(*chunk)

    def _finish_if_complete(self, item: _Item) -> bool:
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
        return True
