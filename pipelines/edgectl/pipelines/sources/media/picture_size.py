"""The size that a still picture states, before there is memory for it. Pure: it looks at the first bytes.

JPEG (ITU-T T.81, B.2.2), PNG (ISO/IEC 15948, 11.2.2), BMP, WebP (RFC 9649) and TIFF 6.0.
"""

from __future__ import annotations

import struct

__all__ = ["stated_size"]


def stated_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height; None where the bytes are none of these formats, or too few."""
    head = bytes(data[:32])
    try:
        if head[:2] == b"\xff\xd8":
            return _jpeg(data)
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", head, 16)
        if head[:2] == b"BM":
            if struct.unpack_from("<I", head, 14)[0] == 12:
                return struct.unpack_from("<HH", head, 18)
            width, height = struct.unpack_from("<ii", head, 18)
            return abs(width), abs(height)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _tiff(data, "<" if head[:2] == b"II" else ">")
    except struct.error:
        return None
    return None


def _jpeg(data: bytes | memoryview) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _tiff(data: bytes | memoryview, order: str) -> tuple[int, int] | None:
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    found: dict[int, int] = {}
    for i in range(struct.unpack_from(f"{order}H", data, at)[0]):
        tag, form = struct.unpack_from(f"{order}HH", data, at + 2 + 12 * i)
        if tag in (256, 257):
            found[tag] = struct.unpack_from(order + ("H" if form == 3 else "I"), data, at + 10 + 12 * i)[0]
    return (found[256], found[257]) if len(found) == 2 else None
