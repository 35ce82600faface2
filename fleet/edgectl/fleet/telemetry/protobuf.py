"""Protocol buffers as they are on the wire, as far as metrics need them: fields are bytes, a message is their sum. Pure."""

from __future__ import annotations

import struct

__all__ = [
    "bytes_field",
    "delimited",
    "double_field",
    "encoded",
    "fixed64_field",
    "text_field",
    "varint_field",
    "zigzag",
]


def zigzag(n: int) -> int:
    return n << 1 if n >= 0 else (-n << 1) - 1


def encoded(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def varint_field(number: int, n: int) -> bytes:
    return encoded(number << 3) + encoded(n)


def double_field(number: int, value: float) -> bytes:
    return encoded(number << 3 | 1) + struct.pack("<d", value)


def bytes_field(number: int, data: bytes) -> bytes:
    return encoded(number << 3 | 2) + delimited(data)


def text_field(number: int, text: str) -> bytes:
    return bytes_field(number, text.encode("utf-8", "replace"))


def delimited(data: bytes) -> bytes:
    return encoded(len(data)) + data


def fixed64_field(number: int, n: int) -> bytes:
    return encoded(number << 3 | 1) + struct.pack("<Q", n)
