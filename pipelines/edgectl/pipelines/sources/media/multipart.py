"""Pictures out of ``multipart/x-mixed-replace``, the stream of web cameras (RFC 2046 §5.1; the replacing kind is
Netscape's). Pure: bytes in, pictures out.

Cameras differ in what the standard asks: some write the boundary with its dashes into the header, some leave out the
line before it or the length of a part. So a part ends after its length, or else before the next boundary.
"""

from __future__ import annotations

from edgectl.core.errors import DataError

__all__ = ["MAX_PART", "Multipart"]

MAX_PART = 32 << 20
"""Bytes of one picture."""
_MAX_HEADERS = 16 << 10


class Multipart:
    """Feed it what comes; it gives whole parts."""

    def __init__(self, boundary: str) -> None:
        """Raises :class:`DataError` for a boundary that is none."""
        name = boundary.strip().strip('"').lstrip("-").encode("latin-1", "replace")
        if not 0 < len(name) <= 200:
            raise DataError("the stream of pictures does not say what lies between them")
        self._mark = b"--" + name
        self._held = bytearray()
        self._length: int | None = None
        self._in_part = False

    def feed(self, data: bytes) -> list[bytes]:
        """The parts that are whole now. Raises :class:`DataError` for one that is too large, before it is held."""
        self._held += data
        parts = []
        while (part := self._next()) is not None:
            if part:
                parts.append(part)
        return parts

    def _next(self) -> bytes | None:
        if not self._in_part and not self._begin():
            return None
        held = self._held
        if self._length is not None:
            if len(held) < self._length:
                return None
            end = self._length
        else:
            end = held.find(self._mark)
            if end < 0:
                if len(held) > MAX_PART:
                    raise DataError(f"a picture of more than {MAX_PART >> 20} MiB is not taken")
                return None
        part = bytes(held[:end])
        del held[:end]
        self._in_part = False
        return part if self._length is not None else part.rstrip(b"\r\n")

    def _begin(self) -> bool:
        """Go to the first byte of the next part; False: it is not there yet."""
        held = self._held
        at = held.find(self._mark)
        if at < 0:
            # what may be the first half of a mark is kept
            del held[: max(0, len(held) - len(self._mark))]
            return False
        del held[:at]
        end, gap = held.find(b"\r\n\r\n"), 4
        plain = held.find(b"\n\n")
        if plain >= 0 and (end < 0 or plain < end):
            end, gap = plain, 2
        if end < 0:
            if len(held) > _MAX_HEADERS:
                raise DataError("the headers of a picture do not end")
            return False
        self._length = _length(bytes(held[:end]))
        if self._length is not None and self._length > MAX_PART:
            raise DataError(
                f"a picture of {self._length} bytes is not taken: {MAX_PART >> 20} MiB are allowed"
            )
        del held[: end + gap]
        self._in_part = True
        return True


def _length(headers: bytes) -> int | None:
    for line in headers.split(b"\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit() and len(value) < 20:
            return int(value) or None
    return None
