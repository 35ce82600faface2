"""Pack a file whose weights share few values: codebook and packed indices instead of numbers, the rest
deflated. Lossless.

Format: ``EDGCB1``, a JSON header line, then one deflate stream of: the file with its packed regions cut out,
and for each region its codebook and its indices. :func:`unpack` gives back the very bytes: the header carries
their digest.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

import numpy as np

from edgectl.core.errors import IntegrityError
from edgectl.core.files import digest_of

__all__ = ["pack", "unpack"]

_MAGIC = b"EDGCB1\n"
_MAX_HEADER = 1 << 20
_WORD = 4  # bytes of a weight
# weights that are widened at a time; a multiple of 8, so that blocks start at whole bytes
_BLOCK = 1 << 18


def pack(data: bytes, regions: Sequence[bytes]) -> bytes:
    """``regions``: pieces of ``data`` that are arrays of 4-byte values; those with more than 256 distinct
    ones stay as they are."""
    found: list[list[int]] = []  # offset, count, size of the codebook
    rest, books, at = [], [], 0
    for region in sorted(((data.find(r), r) for r in set(regions)), key=lambda r: r[0]):
        offset, raw = region
        if offset < at or len(raw) % _WORD or not raw:
            continue
        book, indices = np.unique(np.frombuffer(raw, "<u4"), return_inverse=True)
        if len(book) > 256 or len(book) * _WORD * 2 > len(raw):
            continue
        found.append([offset, len(indices), len(book)])
        rest.append(data[at:offset])
        books += [book.astype("<u4").tobytes(), _narrow(indices.astype(np.uint8), _bits(len(book)))]
        at = offset + len(raw)
    rest.append(data[at:])
    whole = {"size": len(data), "digest": digest_of(data), "regions": found}
    header = json.dumps(whole, separators=(",", ":")).encode() + b"\n"
    return _MAGIC + header + zlib.compress(b"".join(rest) + b"".join(books), 9)


def unpack(packed: bytes, *, max_bytes: int) -> bytes:
    """The file as it was. Raises :class:`IntegrityError` for anything that :func:`pack` did not write,
    before it takes more memory than ``max_bytes`` allows."""
    try:
        if not packed.startswith(_MAGIC):
            raise ValueError("no magic")
        end = packed.index(b"\n", len(_MAGIC), len(_MAGIC) + _MAX_HEADER)
        header = json.loads(packed[len(_MAGIC) : end])
        size, regions = int(header["size"]), [(int(o), int(n), int(k)) for o, n, k in header["regions"]]
        if not 0 <= size <= max_bytes or any(o < 0 or n < 1 or not 1 <= k <= 256 for o, n, k in regions):
            raise ValueError("sizes")
        inner = size - sum(_WORD * n for _, n, _ in regions)
        expected = inner + sum(_WORD * k + (n * _bits(k) + 7) // 8 for _, n, k in regions)
        if inner < 0 or expected > max_bytes:
            raise ValueError("sizes")
        stream = zlib.decompressobj()
        body = stream.decompress(packed[end + 1 :], expected + 1)
        if len(body) != expected or not stream.eof or stream.unused_data:
            raise ValueError("length")
        pieces, taken, made, at = [], 0, 0, inner
        for offset, count, k in regions:
            if offset < made or taken + offset - made > inner:
                raise ValueError("offsets")
            pieces.append(body[taken : taken + offset - made])
            taken += offset - made
            book = np.frombuffer(body, "<u4", k, at)
            width = (count * _bits(k) + 7) // 8
            start = at + _WORD * k
            for first in range(0, count, _BLOCK):
                bits, many = _bits(k), min(_BLOCK, count - first)
                begin = start + first * bits // 8
                indices = _wide(body[begin : begin + (many * bits + 7) // 8], bits, many)
                if int(indices.max()) >= k:
                    raise ValueError("index")
                pieces.append(book[indices].tobytes())
            at += _WORD * k + width
            made = offset + _WORD * count
        pieces.append(body[taken:inner])
        whole = b"".join(pieces)
        if digest_of(whole) != header["digest"]:
            raise ValueError("digest")
        return whole
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as e:
        raise IntegrityError("the packed weights are damaged", hint="fetch the bundle again") from e


def _bits(values: int) -> int:
    return max(1, (values - 1).bit_length())


def _narrow(indices: np.ndarray[tuple[int], np.dtype[np.uint8]], bits: int) -> bytes:
    planes = np.unpackbits(indices[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(planes.ravel()).tobytes()


def _wide(data: bytes, bits: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    planes = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    return np.packbits(np.pad(planes, ((0, 0), (8 - bits, 0))), axis=1).ravel()
