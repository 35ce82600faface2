"""The transfer protocol: one upload over MQTT fans out to many devices, and each proves completeness by hash.

A seeder broadcasts 64 KiB chunks; a device says with a bitmap what it misses; the seeder broadcasts the union and repairs what
few devices miss. An acknowledged message may still be lost (reference: mosquitto dropped 38 % of acknowledged chunks), so only
hashes count. Everything here is pure: time in seconds of any monotonic clock is an argument, bytes go in and come out.

Verify chain: signed target → index.json → manifest → descriptor → chunk list (its digest is the annotation
``io.edgectl.chunks``) → each chunk on arrival. Blobs that carry no such annotation are verified as a whole.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import random
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from edgectl.core.bundle import ANNOTATION_CHUNKS, CHUNK_SIZE, Descriptor
from edgectl.core.errors import IntegrityError, ProtocolError
from edgectl.core.files import digest_of
from edgectl.core.schema import Digest, Message, parse_json

__all__ = [
    "FRAME_BYTES", "INLINE_BYTES", "Broadcast", "ManifestPage", "Marker", "Need", "Receiver", "Repair", "Round", "Seeder", "chunk_hashes",
    "chunks_digest", "decode_frame", "encode_frame", "pages_of",
]  # fmt: skip

_HEADER = struct.Struct(">BBHIQ")  # version, codec, flags, index, tag
FRAME_BYTES = _HEADER.size + CHUNK_SIZE
INLINE_BYTES = 32 * 1024
"""Blobs up to this size travel inside their first manifest page."""
_PAGE_HASHES = 1024  # one page describes 64 MiB and is 44 KiB of base64
_MAX_PAGE_BYTES = 64 * 1024
_MAX_NEED_BYTES = 4 << 20


# ---- messages


class ManifestPage(Message):
    """A page of a blob's chunk list, retained at ``a/<digest>/m/<page>``. ``hashes``: base64 of 32-byte sha256s, in order."""

    digest: Digest
    size: int = Field(ge=0, le=1 << 40)
    page: int = Field(ge=0, le=1 << 20)
    pages: int = Field(ge=1, le=1 << 20)
    hashes: str = ""
    inline: str | None = None
    """Base64 of the whole blob, where it is small."""


class Need(Message):
    """What a device misses of one blob."""

    epoch: int = Field(ge=0)
    size: int = Field(ge=0, le=1 << 40)
    missing: str = ""
    """Base64 bitmap; bit ``i % 8`` of byte ``i // 8`` set: chunk ``i`` is missing."""
    pages: bool = False
    """The retained manifest pages did not arrive: publish them again."""
    done: bool = False

    @classmethod
    def of(cls, missing: Iterable[int], size: int, *, epoch: int, pages: bool = False) -> Need:
        bits = bytearray((chunk_count(size) + 7) // 8)
        for i in missing:
            bits[i // 8] |= 1 << (i % 8)
        return cls(epoch=epoch, size=size, missing=base64.b64encode(bits).decode(), pages=pages)

    def indices(self) -> frozenset[int]:
        """The missing chunks. Raises :class:`ProtocolError` if the bitmap does not fit ``size``."""
        n = chunk_count(self.size)
        bits = _unbase64(self.missing, (n + 7) // 8, "need bitmap") if self.missing else b""
        found = frozenset(8 * b + k for b, byte in enumerate(bits) if byte for k in range(8) if byte >> k & 1)
        if any(i >= n for i in found):
            raise ProtocolError("need bitmap names chunks beyond the end")
        return found

    @classmethod
    def parse(cls, data: bytes) -> Need:
        return parse_json(cls, data, max_bytes=_MAX_NEED_BYTES, what="need message")


class Round(Message):
    """The end of a round of the seeder; devices answer with a fresh :class:`Need`. ``gone``: no such blob, stop asking."""

    round: int = Field(ge=0)
    sent: int = Field(default=0, ge=0)
    gone: bool = False


def chunk_count(size: int) -> int:
    return (size + CHUNK_SIZE - 1) // CHUNK_SIZE


def encode_frame(digest: str, index: int, data: bytes) -> bytes:
    """One chunk as it travels: 16-byte header and at most 64 KiB."""
    return _HEADER.pack(1, 0, 0, index, _tag(digest)) + data


def decode_frame(frame: bytes, digest: str) -> tuple[int, bytes]:
    """``(index, data)``; raises :class:`ProtocolError` for a frame of another blob, version or size. Hashes are not checked."""
    if not _HEADER.size < len(frame) <= FRAME_BYTES:
        raise ProtocolError(f"chunk frame of {len(frame)} bytes")
    version, codec, flags, index, tag = _HEADER.unpack_from(frame)
    if (version, codec, flags) != (1, 0, 0):
        raise ProtocolError(f"chunk frame of version {version}, codec {codec}, flags {flags}; this is version 1, codec 0")
    if tag != _tag(digest):
        raise ProtocolError("chunk frame belongs to another blob")
    return index, frame[_HEADER.size :]


def chunk_hashes(data: bytes) -> list[bytes]:
    """The 32-byte sha256 of every 64 KiB chunk, in order."""
    view = memoryview(data)
    return [hashlib.sha256(view[at : at + CHUNK_SIZE]).digest() for at in range(0, len(data), CHUNK_SIZE)]


def chunks_digest(hashes: Sequence[bytes]) -> str:
    """The value of the ``io.edgectl.chunks`` annotation."""
    return digest_of(b"".join(hashes))


def pages_of(digest: str, size: int, hashes: Sequence[bytes], *, inline: bytes | None = None) -> list[ManifestPage]:
    """All manifest pages of a blob, page 0 first."""
    if inline is not None:
        return [ManifestPage(digest=digest, size=size, page=0, pages=1, inline=base64.b64encode(inline).decode())]
    parts = [hashes[at : at + _PAGE_HASHES] for at in range(0, len(hashes), _PAGE_HASHES)]
    return [
        ManifestPage(digest=digest, size=size, page=i, pages=len(parts), hashes=base64.b64encode(b"".join(part)).decode())
        for i, part in enumerate(parts)
    ]


# ---- the device's side


class Receiver:
    """What a device has of one blob and when it speaks up. The caller stores the chunks; all time is ``now`` in seconds."""

    _EVERY_CHUNKS = 256
    _EVERY_S = 2.0
    _SILENCE_S = 5.0
    _MAX_REJECTS = 64

    def __init__(self, blob: Descriptor, now: float, *, epoch: int, seed: int = 0) -> None:
        self.blob = blob
        self.n = chunk_count(blob.size)
        self.hashes: tuple[bytes, ...] | None = None
        """Chunk list; None until every page is here and their digest is right."""
        self.rejected = 0
        """Chunks and pages refused because they are not what their hash says."""
        self.gone = False
        self._epoch = epoch
        self._random = random.Random(seed)  # noqa: S311 - jitter
        self._missing = set(range(self.n))
        self._pages: dict[int, tuple[int, bytes]] = {}
        self._inline: bytes | None = None
        self._fresh = 0  # chunks since the last need
        self._expected = blob.annotations.get(ANNOTATION_CHUNKS)
        if self.n <= 1:
            self.hashes = (bytes.fromhex(blob.digest.removeprefix("sha256:")),)[: self.n]
        # Retained pages come by themselves; ask for them only if they do not.
        wait_s = 2.0 if self.hashes is None or blob.size <= INLINE_BYTES else 0.0
        self._speak_at = now + wait_s + self._random.uniform(0.05, 0.3)

    @property
    def complete(self) -> bool:
        return not self._missing

    @property
    def have(self) -> int:
        return self.n - len(self._missing)

    @property
    def missing(self) -> frozenset[int]:
        return frozenset(self._missing)

    def page_numbers(self) -> list[int]:
        """The pages to subscribe to, by exact topic: wildcards lose retained pages."""
        return list(range(max(1, (self.n + _PAGE_HASHES - 1) // _PAGE_HASHES)))

    def on_page(self, data: bytes) -> bytes | None:
        """Take one manifest page; returns the whole blob if it came inline and verified.

        Raises :class:`ProtocolError` / :class:`IntegrityError` for a page that does not fit; it is counted and forgotten.
        """
        page = parse_json(ManifestPage, data, max_bytes=_MAX_PAGE_BYTES, what="manifest page")
        pages = len(self.page_numbers())
        if (page.digest, page.size, page.pages) != (self.blob.digest, self.blob.size, pages) or page.page >= pages:
            raise self._reject(ProtocolError, "manifest page does not describe the blob that was asked for")
        if page.inline is not None:
            whole = _unbase64(page.inline, self.blob.size, "inline blob")
            if digest_of(whole) != self.blob.digest:
                raise self._reject(IntegrityError, f"inline blob {self.blob.digest[:19]}… is corrupt")
            self._missing.clear()
            return whole
        if self.hashes is None:
            count = min(_PAGE_HASHES, self.n - page.page * _PAGE_HASHES)
            self._pages[page.page] = (page.pages, _unbase64(page.hashes, 32 * count, "manifest page"))
            if len(self._pages) == pages:
                self._assemble()
        return None

    def on_frame(self, frame: bytes) -> tuple[int, bytes] | None:
        """``(index, data)`` of a chunk that is new and verified; None for one that is not needed.

        Raises :class:`IntegrityError` for a chunk that is not what its hash says, :class:`ProtocolError` for a foreign frame.
        """
        index, data = decode_frame(frame, self.blob.digest)
        if index not in self._missing or self.hashes is None:
            if index >= self.n:
                raise self._reject(ProtocolError, f"chunk {index} lies beyond the end of the blob")
            return None
        if not self.accept(index, data):
            raise self._reject(IntegrityError, f"chunk {index} of blob {self.blob.digest[:19]}… is corrupt")
        return index, data

    def accept(self, index: int, data: bytes) -> bool:
        """Whether these bytes are chunk ``index`` (also used to hash a part file again after a restart)."""
        expected_size = min(CHUNK_SIZE, self.blob.size - index * CHUNK_SIZE)
        if self.hashes is None or len(data) != expected_size or hashlib.sha256(data).digest() != self.hashes[index]:
            return False
        if index in self._missing:
            self._missing.discard(index)
            self._fresh += 1
        return True

    def on_round(self, marker: Round, now: float) -> None:
        """The seeder ended a round: answer soon, jittered."""
        self.gone = marker.gone
        self._speak_at = min(self._speak_at, now + self._random.uniform(0.0, 0.2))

    def forget(self, now: float) -> None:
        """The whole blob did not match although every chunk did: the unsigned chunk list was wrong. Start again."""
        self._missing = set(range(self.n))
        self._pages.clear()
        if self.n > 1:
            self.hashes = None
        self.rejected += 1
        self._speak_at = now

    def poll(self, now: float) -> Need | None:
        """The need message to publish now, if it is time: every 256 chunks or 2 s, at round ends, after 5 s of silence."""
        if self._fresh >= self._EVERY_CHUNKS:
            self._speak_at = now
        if now < self._speak_at or self.complete:
            return None
        progress = self._fresh > 0
        self._fresh = 0
        self._speak_at = now + (self._EVERY_S if progress else self._SILENCE_S) + self._random.uniform(0.0, 1.0)
        return Need.of(
            self._missing, self.blob.size, epoch=self._epoch, pages=self.hashes is None or self.blob.size <= INLINE_BYTES
        )

    @property
    def hopeless(self) -> bool:
        """Too much of what arrives is wrong: somebody feeds us rubbish."""
        return self.rejected > max(self._MAX_REJECTS, self.n // 4)

    def _assemble(self) -> None:
        joined = b"".join(self._pages[i][1] for i in range(len(self._pages)))
        self._pages.clear()
        if self._expected is not None and digest_of(joined) != self._expected:
            raise self._reject(IntegrityError, f"chunk list of blob {self.blob.digest[:19]}… is not the signed one")
        self.hashes = tuple(joined[at : at + 32] for at in range(0, len(joined), 32))
        self._speak_at = 0.0  # now the frames can be used: ask at once

    def _reject(self, error: type[ProtocolError] | type[IntegrityError], text: str) -> ProtocolError | IntegrityError:
        self.rejected += 1
        return error(text)


# ---- the seeder's side


@dataclass(frozen=True)
class Broadcast:
    index: int


@dataclass(frozen=True)
class Repair:
    device: str
    index: int


@dataclass(frozen=True)
class Marker:
    """Publish this round marker. ``pages``: publish the manifest pages again, too."""

    round: Round
    pages: bool = False


@dataclass
class _Device:
    epoch: int
    missing: frozenset[int]
    seen: float
    offered: int = 0
    before: int = 0
    slow: bool = False


@dataclass
class Seeder:
    """Plans the sends of one blob. Idle → collect 500 ms → send → wait for fresh needs (at most 1.5 s) → send the rest → idle.

    ``next`` gives one send at a time, so that the caller's window paces it.
    """

    size: int
    collect_s: float = 0.5
    settle_s: float = 1.5
    ttl_s: float = 20.0
    _SLOW_BATCH = 128
    rounds: int = 0
    sent: int = 0
    _devices: dict[str, _Device] = field(default_factory=dict)
    _queue: deque[Broadcast | Repair] = field(default_factory=deque)
    _plan_at: float | None = None
    _round_end: float = 0.0
    _sending: bool = False
    _in_round: int = 0
    _pages: bool = False

    @property
    def active(self) -> int:
        """Devices that still miss something."""
        return len(self._devices)

    def on_need(self, device: str, need: Need, now: float) -> None:
        """What a device misses now. Raises :class:`ProtocolError` for a bitmap that does not fit this blob."""
        if need.size != self.size:
            raise ProtocolError(f"{device} asks for a blob of {need.size} bytes, this one has {self.size}")
        known = self._devices.get(device)
        if known is not None and need.epoch < known.epoch:
            return  # a late message of an earlier start of this device
        missing = need.indices()
        if need.done or not missing:
            self._devices.pop(device, None)
            return
        self._pages |= need.pages
        if known is None or known.epoch != need.epoch:
            known = self._devices[device] = _Device(need.epoch, missing, now, before=len(missing))
        known.missing, known.seen = missing, now
        if self._plan_at is None and not self._sending:
            self._plan_at = now + self.collect_s

    def next(self, now: float) -> Broadcast | Repair | Marker | None:
        """The next thing to send, or None if there is nothing to do at ``now``."""
        if self._queue:
            self._in_round += 1
            self.sent += 1
            return self._queue.popleft()
        if self._sending:
            self._sending = False
            self.rounds += 1
            self._round_end = now
            self._plan_at = now + self.settle_s
            return Marker(Round(round=self.rounds, sent=self._in_round))
        self._devices = {d: s for d, s in self._devices.items() if now - s.seen <= self.ttl_s}
        if not self._devices:
            self._plan_at, self.rounds = None, 0
            return None
        if self._plan_at is None:
            self._plan_at = now + self.collect_s
        everyone_answered = self.rounds > 0 and all(d.seen > self._round_end for d in self._devices.values())
        if now >= self._plan_at or (everyone_answered and self._round_end + self.settle_s == self._plan_at):
            return self._plan(now)
        return None

    def wake_at(self, now: float) -> float | None:
        """When :meth:`next` may have something new; None: not before another need arrives."""
        return now if self._queue or self._sending else self._plan_at

    def _plan(self, now: float) -> Marker | None:
        fresh = {d: s for d, s in self._devices.items() if s.seen > self._round_end or self.rounds == 0}
        self._judge_speed(fresh)
        together = {d: s for d, s in fresh.items() if not s.slow}
        counts: dict[int, int] = {}
        for state in together.values():
            for index in state.missing:
                counts[index] = counts.get(index, 0) + 1
        # A rare chunk goes to the one who misses it; alone (or at first, when others may be about to join) all is broadcast.
        threshold = 1 if self.rounds == 0 or len(together) <= 1 else max(2, len(together) // 50)
        shared = {i for i, c in counts.items() if c >= threshold}
        self._queue.extend(Broadcast(i) for i in sorted(shared))
        for device, state in sorted(fresh.items()):
            own = sorted(state.missing) if state.slow else sorted(state.missing - shared)
            self._queue.extend(Repair(device, i) for i in (own[: self._SLOW_BATCH] if state.slow else own))
            state.before = len(state.missing)
            state.offered = min(len(own), self._SLOW_BATCH) if state.slow else len(state.missing)
        self._in_round = 0
        self._sending = bool(self._queue)
        self._plan_at = None if self._sending else now + self.settle_s
        if self._pages:
            self._pages = False
            return Marker(Round(round=self.rounds), pages=True)
        return None

    @staticmethod
    def _judge_speed(devices: dict[str, _Device]) -> None:
        """A device that took less than half of what it was offered, while most took nearly all, must not slow the rest."""
        judged = [s for s in devices.values() if s.offered >= 64]
        gains = sorted((s.before - len(s.missing)) / s.offered for s in judged)
        if len(gains) >= 3 and gains[len(gains) // 2] >= 0.9:
            for state in judged:
                state.slow = (state.before - len(state.missing)) / state.offered < 0.5


def _tag(digest: str) -> int:
    return int(digest.removeprefix("sha256:")[:16], 16)


def _unbase64(text: str, size: int, what: str) -> bytes:
    """Strict base64 of exactly ``size`` bytes; the length is compared before anything is decoded."""
    if len(text) != (size + 2) // 3 * 4:
        raise ProtocolError(f"{what} has {len(text)} characters, not those of {size} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ProtocolError(f"{what} is not base64") from e
    if len(data) != size:
        raise ProtocolError(f"{what} has {len(data)} bytes, not {size}")
    return data
