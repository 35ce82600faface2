"""Differences between two ONNX files that know where the tensors are: what a release that fine-tunes another
one costs to send.

A fine-tuned network has no byte run in common with the old one, so that chunk reuse and bsdiff find next to
nothing in it; but tensor by tensor the numbers are close. The file is cut into tensors, which are paired by
type and shape in order, and the rest. A pair travels as the difference of its numbers (int8: bytes; float32:
words, split into planes of bytes), entropy coded by LZMA; the rest is deflated with the old file's rest as
dictionary. ``bench/delta.py`` measures it against bsdiff4.

A difference is untrusted: nobody signed it, the digest of what comes out is what proves it. So
:func:`apply_delta` never makes more than the size it is told, holds a few MiB at most, and answers anything
malformed with :class:`ProtocolError`.

Format::

    "edgectl-delta-1\\n"
    u64 size of the old file, u64 size of the new one, u32 segments, u32 bytes of the segment table, 4 × u64
    bytes of the streams
    the segment table, deflated: u8 width (0: the rest; 1, 2, 4: bytes of a number), u64 offset in the old
    file, u64 bytes
    the streams of widths 0 (deflate), 1, 2, 4 (xz)
"""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import BinaryIO, Protocol

from edgectl.core.bundle import CHUNK_SIZE
from edgectl.core.errors import ProtocolError

__all__ = ["Span", "apply_delta", "common_bytes", "make_delta", "tensor_spans"]

_MAGIC = b"edgectl-delta-1\n"
_HEADER = struct.Struct(">QQII4Q")
_SEGMENT = struct.Struct(">BQQ")
_WIDTHS = (0, 1, 2, 4)
_MAX_SEGMENTS = 65_536
_MIN_TENSOR = 64  # bytes; smaller ones go with the rest
_BLOCK = 1 << 18  # bytes that are decoded at a time
_DICTIONARY = 32_768  # what deflate looks back
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]
_XZ_MEMORY = 8 << 20
_WIDTH_OF = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 9: 1, 10: 2, 12: 4, 16: 2}
"""Bytes of a number of ``onnx.TensorProto.DataType``; types that are not here go with the rest."""


@dataclass(frozen=True)
class Span:
    """Where a tensor's numbers are in an ONNX file."""

    offset: int
    size: int
    kind: tuple[int, ...]
    """Type and dimensions."""


@dataclass(frozen=True)
class _Segment:
    width: int
    old: int
    size: int


# ---- make


def make_delta(old: bytes, new: bytes) -> bytes | None:
    """What :func:`apply_delta` needs to make ``new`` of ``old``; None where the two have no tensors in
    common, or are no ONNX files."""
    try:
        pairs = _pairs(tensor_spans(old), tensor_spans(new))
    except ProtocolError:
        return None
    if not pairs or len(pairs) > _MAX_SEGMENTS // 2:
        return None
    segments: list[_Segment] = []
    at = 0
    for a, b in pairs:
        if b.offset > at:
            segments.append(_Segment(0, 0, b.offset - at))
        segments.append(_Segment(_WIDTH_OF[b.kind[0]], a.offset, b.size))
        at = b.offset + b.size
    if at < len(new):
        segments.append(_Segment(0, 0, len(new) - at))
    parts: dict[int, list[bytes]] = {w: [] for w in _WIDTHS}
    at = 0
    for s in segments:
        for start in range(0, s.size, _BLOCK):
            size = min(_BLOCK, s.size - start)
            piece = new[at + start : at + start + size]
            parts[s.width].append(
                _subtract(piece, old[s.old + start : s.old + start + size], s.width) if s.width else piece
            )
        at += s.size
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _rest(old, segments))
    streams = [deflate.compress(b"".join(parts[0])) + deflate.flush()]
    streams += [_xz(b"".join(parts[w])) for w in _WIDTHS[1:]]
    table = zlib.compress(b"".join(_SEGMENT.pack(s.width, s.old, s.size) for s in segments), 9)
    header = _HEADER.pack(len(old), len(new), len(segments), len(table), *map(len, streams))
    return _MAGIC + header + table + b"".join(streams)


def common_bytes(old: Sequence[Span], new: Sequence[Span]) -> int:
    """Bytes of the new file's tensors that :func:`make_delta` would pair with one of the old file: an
    upper bound of what it can save."""
    return sum(b.size for _, b in _pairs(old, new))


def _pairs(old: Sequence[Span], new: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Tensors of one type and shape, in the order of both files."""
    matcher = SequenceMatcher(None, [s.kind for s in old], [s.kind for s in new], autojunk=False)
    return [(old[m.a + i], new[m.b + i]) for m in matcher.get_matching_blocks() for i in range(m.size)]


def _subtract(new: bytes, old: bytes, width: int) -> bytes:
    lanes = _Lanes(len(new) // width, width)
    difference = lanes.subtract(int.from_bytes(new, "little"), int.from_bytes(old, "little"))
    if width == 1:
        return difference.to_bytes(len(new), "little")
    coded = lanes.zigzag(difference).to_bytes(len(new), "little")
    return b"".join(coded[k::width] for k in range(width))


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=_XZ) if data else b""


# ---- apply


def apply_delta(base: Path, delta: Path, size: int) -> Iterator[bytes]:
    """The new file of ``size`` bytes, in pieces of 64 KiB; the last may be shorter. Nothing here is verified.

    Raises :class:`ProtocolError` if the difference is malformed, of another base, or of another result's
    size.
    """
    try:
        with base.open("rb") as old, delta.open("rb") as f:
            pending = bytearray()
            for piece in _pieces(old, f, size):
                pending += piece
                whole = len(pending) // CHUNK_SIZE * CHUNK_SIZE
                for at in range(0, whole, CHUNK_SIZE):
                    yield bytes(pending[at : at + CHUNK_SIZE])
                del pending[:whole]
            if pending:
                yield bytes(pending)
    except (OSError, lzma.LZMAError, zlib.error, struct.error, EOFError) as e:
        raise ProtocolError(f"the delta cannot be applied: {e}") from e


def _pieces(old: BinaryIO, delta: BinaryIO, size: int) -> Iterator[bytes]:
    old_size = os.fstat(old.fileno()).st_size
    if delta.read(len(_MAGIC)) != _MAGIC:
        raise ProtocolError("this is not a delta file")
    base_size, new_size, count, table_size, *lengths = _HEADER.unpack(delta.read(_HEADER.size))
    if (base_size, new_size) != (old_size, size):
        raise ProtocolError("the delta is for other files")
    if count > _MAX_SEGMENTS or table_size > count * _SEGMENT.size + 64:
        raise ProtocolError(f"the delta has {count} segments")
    table = zlib.decompressobj().decompress(delta.read(table_size), count * _SEGMENT.size)
    if len(table) != count * _SEGMENT.size:
        raise ProtocolError("the delta's table is too short")
    segments = [_Segment(*fields) for fields in _SEGMENT.iter_unpack(table)]
    if sum(s.size for s in segments) != size:
        raise ProtocolError("the delta's segments do not add up")
    for s in segments:
        if s.width not in _WIDTHS or (s.width and (s.old + s.size > old_size or s.size % s.width)):
            raise ProtocolError("the delta has a segment that its base does not have")
    at = delta.tell()
    if at + sum(lengths) > os.fstat(delta.fileno()).st_size:
        raise ProtocolError("the delta is shorter than it says")
    streams: dict[int, _Stream] = {}
    for width, length in zip(_WIDTHS, lengths, strict=True):
        decoder: _Decoder
        if width:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        else:
            decoder = _Inflate(_rest_of(old, old_size, segments))
        streams[width] = _Stream(delta, at, length, decoder)
        at += length
    for s in segments:
        for start in range(0, s.size, _BLOCK):
            size = min(_BLOCK, s.size - start)
            coded = streams[s.width].read(size)
            yield _add(coded, os.pread(old.fileno(), size, s.old + start), s.width) if s.width else coded


def _add(coded: bytes, old: bytes, width: int) -> bytes:
    lanes = _Lanes(len(old) // width, width)
    if width == 1:
        difference = int.from_bytes(coded, "little")
    else:
        count = len(coded) // width
        mixed = bytearray(len(coded))
        for k in range(width):
            mixed[k::width] = coded[k * count : (k + 1) * count]
        difference = lanes.unzigzag(int.from_bytes(mixed, "little"))
    return lanes.add(int.from_bytes(old, "little"), difference).to_bytes(len(old), "little")


class _Lanes:
    """Arithmetic on ``count`` unsigned little-endian numbers of ``width`` bytes that lie side by side in one
    large integer.

    Each wraps by itself. This is what numpy would do, without its 20 MiB in an agent that needs it once a
    release.
    """

    def __init__(self, count: int, width: int) -> None:
        self._bits = 8 * width
        self._ones = int.from_bytes((b"\1" + bytes(width - 1)) * count, "little")
        self._full = (1 << self._bits * count) - 1
        self._high = self._ones << (self._bits - 1)
        self._low = self._full ^ self._high

    def add(self, a: int, b: int) -> int:
        return ((a & self._low) + (b & self._low)) ^ ((a ^ b) & self._high)

    def subtract(self, a: int, b: int) -> int:
        return ((a | self._high) - (b & self._low)) ^ ((a ^ b ^ self._full) & self._high)

    def zigzag(self, a: int) -> int:
        """Small negative numbers get small codes, too: 0, -1, 1, -2 … → 0, 1, 2, 3 …"""
        return ((a & self._low) << 1) ^ self._fill((a >> (self._bits - 1)) & self._ones)

    def unzigzag(self, a: int) -> int:
        return ((a >> 1) & self._low) ^ self._fill(a & self._ones)

    def _fill(self, ones: int) -> int:
        """All bits of each lane that holds a one."""
        return (ones << self._bits) - ones


class _Decoder(Protocol):
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Inflate:
    """zlib with the manners of lzma: what is not wanted yet stays inside."""

    def __init__(self, dictionary: bytes) -> None:
        self._inflate = zlib.decompressobj(-15, zdict=dictionary)

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


class _Stream:
    """Bytes of one compressed part of a file, as many as are asked for."""

    def __init__(self, file: BinaryIO, at: int, length: int, decoder: _Decoder) -> None:
        self._file, self._at, self._left, self._decoder = file, at, length, decoder

    def read(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            data = b""
            if self._decoder.needs_input:
                data = os.pread(self._file.fileno(), min(1 << 16, self._left), self._at)
                self._at += len(data)
                self._left -= len(data)
            piece = b"" if self._decoder.eof else self._decoder.decompress(data, size - len(found))
            if not piece and not data:
                raise ProtocolError("the delta ends too soon")
            found += piece
        return found


def _rest(old: bytes, segments: Sequence[_Segment]) -> bytes:
    """The end of what no tensor covers: what deflate finds best."""
    return b"".join(old[a:b] for a, b in _gaps(len(old), segments))[-_DICTIONARY:]


def _rest_of(old: BinaryIO, size: int, segments: Sequence[_Segment]) -> bytes:
    found: list[bytes] = []
    wanted = _DICTIONARY
    for a, b in reversed(_gaps(size, segments)):
        start = max(a, b - wanted)
        found.append(os.pread(old.fileno(), b - start, start))
        wanted -= b - start
        if not wanted:
            break
    return b"".join(reversed(found))


def _gaps(size: int, segments: Sequence[_Segment]) -> list[tuple[int, int]]:
    gaps, at = [], 0
    for s in sorted((s for s in segments if s.width), key=lambda s: s.old):
        if s.old > at:
            gaps.append((at, s.old))
        at = max(at, s.old + s.size)
    if at < size:
        gaps.append((at, size))
    return gaps


# ---- where the tensors of an ONNX file are (protobuf, onnx.proto3: ModelProto.graph = 7, GraphProto.initializer = 5)


def tensor_spans(data: bytes) -> list[Span]:
    """The raw data of all initializers of some size, in the order of the file. Raises
    :class:`ProtocolError`: this is no ONNX file."""
    spans = []
    for number, start, end, _ in _fields(data, 0, len(data)):
        if number != 7:
            continue
        for inner, first, last, _ in _fields(data, start, end):
            if inner == 5 and (span := _tensor(data, first, last)):
                spans.append(span)
    return spans


def _tensor(data: bytes, start: int, end: int) -> Span | None:
    dims: list[int] = []
    kind, raw = 0, None
    for number, first, last, value in _fields(data, start, end):
        if number == 1 and value is None:
            dims += _varints(data, first, last)
        elif number == 1 and value is not None:
            dims.append(value)
        elif number == 2 and value is not None:
            kind = value
        elif number == 9:
            raw = first, last - first
    if raw is None or raw[1] < _MIN_TENSOR or kind not in _WIDTH_OF or raw[1] % _WIDTH_OF[kind]:
        return None
    return Span(raw[0], raw[1], (kind, raw[1], *dims))


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int | None]]:
    """``(number, start, end, value)`` of each field; ``value`` is that of a varint, None otherwise."""
    while at < end:
        key, at = _varint(data, at, end)
        number, wire = key >> 3, key & 7
        if wire == 0:
            first = at
            value, at = _varint(data, at, end)
            yield number, first, at, value
            continue
        if wire == 2:
            size, at = _varint(data, at, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ProtocolError("not a protobuf message")
        if size > end - at:
            raise ProtocolError("not a protobuf message")
        yield number, at, at + size, None
        at += size


def _varints(data: bytes, at: int, end: int) -> list[int]:
    found = []
    while at < end:
        value, at = _varint(data, at, end)
        found.append(value)
    return found


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ProtocolError("not a protobuf message")
