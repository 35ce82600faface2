"""What travels: manifest pages, needs and round markers (JSON), chunk frames (binary). All of it is
untrusted when it arrives."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from edgectl.core.bundle import ANNOTATION_CHUNKS, CHUNK_SIZE, Descriptor
from edgectl.core.errors import ProtocolError
from edgectl.core.files import digest_of
from edgectl.core.schema import Digest, Message, Name, parse_json

__all__ = [
    "FRAME_BYTES",
    "INLINE_BYTES",
    "MAX_SUM",
    "PAGE_HASHES",
    "ChunkFrame",
    "DeltaOffer",
    "ManifestPage",
    "Need",
    "Round",
    "bitmap",
    "chunk_count",
    "chunk_hashes",
    "chunks_digest",
    "decode_frame",
    "describe",
    "encode_frame",
    "indices_of",
    "pages_of",
    "sum_chunks",
    "unbase64",
]

_HEADER = struct.Struct(">BBHIQ")  # version, codec, flags, index, tag
_PLAIN, _SUM = 0, 1
MAX_SUM = 32
"""Chunks in one sum, at most: who solves it reads the others from disk."""
FRAME_BYTES = _HEADER.size + 4 * (MAX_SUM - 1) + CHUNK_SIZE
INLINE_BYTES = 32 * 1024
"""Blobs up to this size travel inside their first manifest page."""
# one page describes 64 MiB and is 44 KiB of base64
PAGE_HASHES = 1024
MAX_PAGE_BYTES = 64 * 1024
_MAX_NEED_BYTES = 4 << 20
_MAX_ROUND_BYTES = 4096


class DeltaOffer(Message):
    """A smaller blob from which, with ``base`` at hand, the described blob can be made. Not signed: the
    result's digest proves it."""

    base: Digest
    digest: Digest
    size: int = Field(ge=1, le=1 << 40)
    codec: Literal["tensor-1"] = "tensor-1"


class ManifestPage(Message):
    """A page of a blob's chunk list, retained at ``a/<digest>/m/<page>``. ``hashes``: base64 of 32-byte
    sha256s, in order."""

    digest: Digest
    size: int = Field(ge=0, le=1 << 40)
    page: int = Field(ge=0, le=1 << 20)
    pages: int = Field(ge=1, le=1 << 20)
    hashes: str = ""
    inline: str | None = None
    """Base64 of the whole blob, where it is small."""
    deltas: tuple[DeltaOffer, ...] = Field(default=(), max_length=8)
    """On page 0."""


class Need(Message):
    """What a device misses of one blob."""

    epoch: int = Field(ge=0)
    size: int = Field(ge=0, le=1 << 40)
    missing: str = ""
    """Base64 bitmap; bit ``i % 8`` of byte ``i // 8`` set: chunk ``i`` is missing."""
    pages: bool = False
    """The retained manifest pages did not arrive: publish them again."""
    round: int = Field(default=0, ge=0)
    """The last round marker that this device has seen: what it says is true after that round."""
    done: bool = False
    bps: int | None = Field(default=None, ge=1024, le=1 << 40)
    """Bytes/s that this device wants to receive at most, over all blobs."""
    site: Name | None = None
    """Where the device is: devices of one site share its bandwidth."""
    apart: bool = False
    """The device was set apart and no longer hears the broadcast."""

    @classmethod
    def of(
        cls,
        missing: Iterable[int],
        size: int,
        *,
        epoch: int,
        pages: bool = False,
        round: int = 0,
        bps: int | None = None,
        site: str | None = None,
    ) -> Need:
        bits = base64.b64encode(bitmap(missing, chunk_count(size))).decode()
        return cls(epoch=epoch, size=size, missing=bits, pages=pages, round=round, bps=bps, site=site)

    def bits(self) -> bytes:
        """The bitmap of what is missing. Raises :class:`ProtocolError` if it does not fit ``size``."""
        n = chunk_count(self.size)
        bits = unbase64(self.missing, (n + 7) // 8, "need bitmap") if self.missing else bytes((n + 7) // 8)
        if n % 8 and bits[-1] >> n % 8:
            raise ProtocolError("need bitmap names chunks beyond the end")
        return bits

    def indices(self) -> frozenset[int]:
        """The missing chunks. Raises :class:`ProtocolError` if the bitmap does not fit ``size``."""
        return frozenset(indices_of(self.bits()))

    @classmethod
    def parse(cls, data: bytes) -> Need:
        return parse_json(cls, data, max_bytes=_MAX_NEED_BYTES, what="need message")


class Round(Message):
    """The end of a round of a seeder; devices answer with a fresh :class:`Need`."""

    round: int = Field(ge=0)
    sent: int = Field(default=0, ge=0)
    gone: bool = False
    """No such blob: stop asking."""
    sending: bool = False
    """Not the end: the round goes on. Said so that other seeders keep silent and devices of the site can
    listen."""
    every: int | None = Field(default=None, ge=16, le=4096)
    """New chunks after which a device is to speak, where many listen."""
    site: Name | None = None
    """Of a peer that seeds: whom it serves."""
    apart: bool = False
    """To one device, on its repair topic: leave the broadcast, which goes too fast for you; repairs
    follow."""

    @classmethod
    def parse(cls, data: bytes) -> Round:
        return parse_json(cls, data, max_bytes=_MAX_ROUND_BYTES, what="round marker")


@dataclass(frozen=True)
class ChunkFrame:
    """A chunk (one index), or the sum (XOR, shorter ones padded with zeros) of several."""

    indices: tuple[int, ...]
    data: bytes


def chunk_count(size: int) -> int:
    return (size + CHUNK_SIZE - 1) // CHUNK_SIZE


def bitmap(indices: Iterable[int], n: int) -> bytes:
    """``(n + 7) // 8`` bytes with the bits of ``indices`` set."""
    bits = bytearray((n + 7) // 8)
    for i in indices:
        bits[i // 8] |= 1 << (i % 8)
    return bytes(bits)


def indices_of(bits: bytes | bytearray) -> Iterator[int]:
    """The set bits, in order."""
    for b, byte in enumerate(bits):
        if byte:
            yield from (8 * b + k for k in range(8) if byte >> k & 1)


def encode_frame(digest: str, index: int | tuple[int, ...], data: bytes) -> bytes:
    """One chunk, or the sum of several, as it travels: 16-byte header, the other indices (4 bytes each),
    at most 64 KiB."""
    if isinstance(index, int):
        return _HEADER.pack(1, _PLAIN, 0, index, _tag(digest)) + data
    others = struct.pack(f">{len(index) - 1}I", *index[1:])
    return _HEADER.pack(1, _SUM, len(index), index[0], _tag(digest)) + others + data


def decode_frame(frame: bytes, digest: str) -> ChunkFrame:
    """Raises :class:`ProtocolError` for a frame of another blob, version or size. Hashes are not checked."""
    if not _HEADER.size < len(frame) <= FRAME_BYTES:
        raise ProtocolError(f"chunk frame of {len(frame)} bytes")
    version, codec, flags, index, tag = _HEADER.unpack_from(frame)
    if tag != _tag(digest):
        raise ProtocolError("chunk frame belongs to another blob")
    at = _HEADER.size
    indices: tuple[int, ...] = (index,)
    if (version, codec) == (1, _SUM) and 2 <= flags <= MAX_SUM and len(frame) > at + 4 * (flags - 1):
        indices += struct.unpack_from(f">{flags - 1}I", frame, at)
        at += 4 * (flags - 1)
        if len(set(indices)) != len(indices):
            raise ProtocolError("chunk frame names a chunk twice")
    elif (version, codec, flags) != (1, _PLAIN, 0):
        raise ProtocolError(
            f"chunk frame of version {version}, codec {codec}, flags {flags}; this is version 1, codecs 0 and 1"
        )
    data = frame[at:]
    if len(data) > CHUNK_SIZE:
        raise ProtocolError(f"chunk of {len(data)} bytes")
    return ChunkFrame(indices, data)


def sum_chunks(chunks: Sequence[bytes], size: int = CHUNK_SIZE) -> bytes:
    """XOR of chunks, each padded with zeros to ``size`` bytes."""
    total = 0
    for chunk in chunks:
        total ^= int.from_bytes(chunk[:size], "little")
    return total.to_bytes(size, "little")


def chunk_hashes(data: bytes) -> list[bytes]:
    """The 32-byte sha256 of every 64 KiB chunk, in order."""
    view = memoryview(data)
    return [hashlib.sha256(view[at : at + CHUNK_SIZE]).digest() for at in range(0, len(data), CHUNK_SIZE)]


def chunks_digest(hashes: Sequence[bytes]) -> str:
    """The value of the ``io.edgectl.chunks`` annotation."""
    return digest_of(b"".join(hashes))


def pages_of(
    digest: str,
    size: int,
    hashes: Sequence[bytes],
    *,
    inline: bytes | None = None,
    deltas: tuple[DeltaOffer, ...] = (),
) -> list[ManifestPage]:
    """All manifest pages of a blob, page 0 first."""
    if inline is not None:
        return [
            ManifestPage(digest=digest, size=size, page=0, pages=1, inline=base64.b64encode(inline).decode())
        ]
    parts = [hashes[at : at + PAGE_HASHES] for at in range(0, len(hashes), PAGE_HASHES)]
    return [
        ManifestPage(
            digest=digest,
            size=size,
            page=i,
            pages=len(parts),
            hashes=base64.b64encode(b"".join(part)).decode(),
            deltas=deltas if i == 0 else (),
        )
        for i, part in enumerate(parts)
    ]


def unbase64(text: str, size: int, what: str) -> bytes:
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


def _tag(digest: str) -> int:
    return int(digest.removeprefix("sha256:")[:16], 16)


def describe(data: bytes, media: str = "application/octet-stream") -> Descriptor:
    """The descriptor of bytes that travel: with it a device checks each chunk as it arrives."""
    hashes = chunk_hashes(data)
    annotations = {ANNOTATION_CHUNKS: chunks_digest(hashes)} if len(hashes) > 1 else {}
    return Descriptor(mediaType=media, digest=digest_of(data), size=len(data), annotations=annotations)
