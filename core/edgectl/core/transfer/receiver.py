"""The device's side of the transfer of one blob."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Callable

from edgectl.core.bundle import ANNOTATION_CHUNKS, CHUNK_SIZE, Descriptor
from edgectl.core.errors import IntegrityError, ProtocolError
from edgectl.core.files import digest_of
from edgectl.core.schema import parse_json
from edgectl.core.transfer.messages import (
    INLINE_BYTES,
    MAX_PAGE_BYTES,
    PAGE_HASHES,
    DeltaOffer,
    ManifestPage,
    Need,
    Round,
    chunk_count,
    decode_frame,
    indices_of,
    sum_chunks,
    unbase64,
)

__all__ = ["Receiver"]

_PEER_REJECTS = 8
_MAX_PEERS = 64


class Receiver:
    """What a device has of one blob and when it speaks up. The caller stores the chunks; all time is
    ``now`` in seconds."""

    _EVERY_CHUNKS = 64
    _EVERY_S = 2.0
    _SILENCE_S = 5.0
    _BLIND_S = 1.0
    _MAX_REJECTS = 64

    def __init__(
        self,
        blob: Descriptor,
        now: float,
        *,
        epoch: int,
        seed: int = 0,
        bps: int | None = None,
        site: str | None = None,
    ) -> None:
        """``bps``: bytes/s that this device wants at most; ``site``: where it is."""
        self.blob = blob
        self.n = chunk_count(blob.size)
        self.hashes: tuple[bytes, ...] | None = None
        """Chunk list; None until every page is here and their digest is right."""
        self.rejected = 0
        """Chunks and pages refused because they are not what their hash says."""
        self.gone = False
        self.apart = False
        """The seeder asked to leave the broadcast: what comes now comes to this device alone."""
        self.deltas: tuple[DeltaOffer, ...] = ()
        """Smaller blobs from which this one can be made; from page 0, and no more than an offer."""
        self._epoch = epoch
        self._bps, self._site = bps, site
        self._every = self._EVERY_CHUNKS
        self._round = 0
        self._random = random.Random(seed)
        self._missing = bytearray(
            b"\xff" * (self.n // 8) + (bytes([(1 << self.n % 8) - 1]) if self.n % 8 else b"")
        )
        self._left = self.n
        self._pages: dict[int, bytes] = {}
        self._fresh = 0  # chunks since the last need
        # peers that were heard → what they sent that is wrong
        self._peers: dict[str, int] = {}
        self._expected = blob.annotations.get(ANNOTATION_CHUNKS)
        if self.n <= 1:
            self.hashes = (bytes.fromhex(blob.digest.removeprefix("sha256:")),)[: self.n]
        # Retained pages come by themselves; ask for them only if they do not.
        wait_s = 1.0 if self.hashes is None or blob.size <= INLINE_BYTES else 0.0
        self._speak_at = now + wait_s + self._random.uniform(0.05, 0.3)

    @property
    def complete(self) -> bool:
        return not self._left

    @property
    def have(self) -> int:
        return self.n - self._left

    @property
    def missing(self) -> frozenset[int]:
        return frozenset(indices_of(self._missing))

    def lacks(self, index: int) -> bool:
        return index < self.n and bool(self._missing[index // 8] >> index % 8 & 1)

    def page_numbers(self) -> list[int]:
        """The pages to subscribe to, by exact topic: wildcards lose retained pages."""
        return list(range(max(1, (self.n + PAGE_HASHES - 1) // PAGE_HASHES)))

    def on_page(self, data: bytes, peer: str | None = None) -> bytes | None:
        """Take one manifest page; returns the whole blob if it came inline and verified. ``peer``: the device
        that sent it.

        Raises :class:`ProtocolError` / :class:`IntegrityError` for a page that does not fit; it is counted
        and forgotten.
        """
        if peer is None:
            return self._take_page(data, None)
        if not self.trusts(peer) or (self._expected is None and self.n > 1):
            # a list that nothing proves comes from the controller only
            return None
        try:
            return self._take_page(data, peer)
        except (ProtocolError, IntegrityError):
            self._peers[peer] += 1
            raise

    def _take_page(self, data: bytes, peer: str | None) -> bytes | None:
        page = parse_json(ManifestPage, data, max_bytes=MAX_PAGE_BYTES, what="manifest page")
        pages = len(self.page_numbers())
        if (page.digest, page.size, page.pages) != (
            self.blob.digest,
            self.blob.size,
            pages,
        ) or page.page >= pages:
            raise self._reject(
                ProtocolError, "manifest page does not describe the blob that was asked for", peer
            )
        if page.inline is not None:
            whole = unbase64(page.inline, self.blob.size, "inline blob")
            if digest_of(whole) != self.blob.digest:
                raise self._reject(IntegrityError, f"inline blob {self.blob.digest[:19]}… is corrupt", peer)
            self._missing, self._left = bytearray(len(self._missing)), 0
            return whole
        if page.page == 0 and peer is None:
            self.deltas = tuple(d for d in page.deltas if d.size < self.blob.size)
        if self.hashes is None:
            count = min(PAGE_HASHES, self.n - page.page * PAGE_HASHES)
            self._pages[page.page] = unbase64(page.hashes, 32 * count, "manifest page")
            if len(self._pages) == pages:
                self._assemble(peer)
        return None

    def on_frame(
        self, frame: bytes, read: Callable[[int], bytes] | None = None, peer: str | None = None
    ) -> tuple[int, bytes] | None:
        """``(index, data)`` of a chunk that is new; None for one that is not needed. It is verified, unless
        the chunk list is not here yet: such a chunk is worth keeping, but nothing counts it before it goes
        through :meth:`accept`.

        ``read`` gives a chunk that is already here, to take it out of a sum; without it sums are not used.
        ``peer``: the device that sent it. Raises :class:`IntegrityError` for a chunk that is not what its
        hash says, :class:`ProtocolError` for a foreign frame.
        """
        if peer is not None and not self.trusts(peer):
            return None
        if peer is None:
            return self._take_frame(frame, read, None)
        try:
            return self._take_frame(frame, read, peer)
        except (ProtocolError, IntegrityError):
            self._peers[peer] += 1
            raise

    def _take_frame(
        self, frame: bytes, read: Callable[[int], bytes] | None, peer: str | None
    ) -> tuple[int, bytes] | None:
        found = decode_frame(frame, self.blob.digest)
        if any(i >= self.n for i in found.indices):
            raise self._reject(
                ProtocolError, f"chunk {max(found.indices)} lies beyond the end of the blob", peer
            )
        wanted = [i for i in found.indices if self.lacks(i)]
        if (
            self.hashes is None
            and found.indices == (*wanted,)
            and len(wanted) == 1
            and len(found.data) == self._size_of(wanted[0])
        ):
            return wanted[0], found.data
        if self.hashes is None or len(wanted) != 1:
            return None
        (index,) = wanted
        data = found.data
        if len(found.indices) > 1:
            if read is None:
                return None
            data = sum_chunks([data, *(read(i) for i in found.indices if i != index)])[: self._size_of(index)]
        if not self.accept(index, data):
            raise self._reject(
                IntegrityError, f"chunk {index} of blob {self.blob.digest[:19]}… is corrupt", peer
            )
        return index, data

    def accept(self, index: int, data: bytes) -> bool:
        """Whether these bytes are chunk ``index`` (also used to hash a part file again after a restart)."""
        if (
            self.hashes is None
            or len(data) != self._size_of(index)
            or hashlib.sha256(data).digest() != self.hashes[index]
        ):
            return False
        if self.lacks(index):
            self._missing[index // 8] &= ~(1 << index % 8)
            self._left -= 1
            self._fresh += 1
        return True

    def on_round(self, marker: Round, now: float, peer: str | None = None) -> bool:
        """A seeder ended a round: answer soon, jittered. Returns whether to listen to this ``peer`` (None:
        the controller) from now on."""
        if peer is not None:
            known = peer in self._peers
            if marker.site != self._site or (not known and len(self._peers) >= _MAX_PEERS):
                return False
            self._peers.setdefault(peer, 0)
            if not marker.sending:
                self._speak_soon(now)
            return not known
        self._every = marker.every or self._every
        self.gone |= marker.gone
        self.apart |= marker.apart
        if marker.apart or not (self.apart or marker.sending):
            self._round = marker.round
            self._speak_soon(now)
        return False

    def trusts(self, peer: str) -> bool:
        """A peer that was never announced, or that sent too much rubbish, is not listened to."""
        return self._peers.get(peer, _PEER_REJECTS) < _PEER_REJECTS

    def forget(self, now: float) -> None:
        """The whole blob did not match although every chunk did: the unsigned chunk list was wrong. Start
        again."""
        self._missing = bytearray(
            b"\xff" * (self.n // 8) + (bytes([(1 << self.n % 8) - 1]) if self.n % 8 else b"")
        )
        self._left = self.n
        self._pages.clear()
        if self.n > 1:
            self.hashes = None
        self.rejected += 1
        self._speak_at = now

    def poll(self, now: float) -> Need | None:
        """The need message to publish now, if it is time: every 64 chunks or 2 s, at round ends, after 5 s
        of silence."""
        if self._fresh >= self._every:
            self._speak_at = now
        if now < self._speak_at or self.complete:
            return None
        wait_s = self._EVERY_S if self._fresh else self._SILENCE_S
        if self.hashes is None:
            wait_s = self._BLIND_S
        self._fresh = 0
        self._speak_at = now + wait_s + self._random.uniform(0.0, 1.0)
        pages = self.hashes is None or self.blob.size <= INLINE_BYTES
        return self._need(pages=pages)

    def done(self) -> Need:
        """Nothing is missing: tell the seeder to stop counting on this device."""
        return self._need(pages=False)

    @property
    def hopeless(self) -> bool:
        """Too much of what arrives is wrong: somebody feeds us rubbish."""
        return self.rejected > max(self._MAX_REJECTS, self.n // 4)

    def _need(self, *, pages: bool) -> Need:
        return Need(
            epoch=self._epoch,
            size=self.blob.size,
            missing="" if self.complete else base64.b64encode(self._missing).decode(),
            pages=pages,
            round=self._round,
            done=self.complete,
            bps=self._bps,
            site=self._site,
            apart=self.apart,
        )

    def _size_of(self, index: int) -> int:
        return min(CHUNK_SIZE, self.blob.size - index * CHUNK_SIZE)

    def _speak_soon(self, now: float) -> None:
        self._speak_at = min(self._speak_at, now + self._random.uniform(0.05, 0.25))

    def _assemble(self, peer: str | None) -> None:
        joined = b"".join(self._pages[i] for i in range(len(self._pages)))
        self._pages.clear()
        if self._expected is not None and digest_of(joined) != self._expected:
            raise self._reject(
                IntegrityError, f"chunk list of blob {self.blob.digest[:19]}… is not the signed one", peer
            )
        self.hashes = tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
        self._speak_at = 0.0  # now the frames can be used: ask at once

    def _reject(
        self, error: type[ProtocolError] | type[IntegrityError], text: str, peer: str | None = None
    ) -> ProtocolError | IntegrityError:
        """What a peer sends counts against that peer only: it cannot make the fetch fail."""
        if peer is None:
            self.rejected += 1
        return error(text)
