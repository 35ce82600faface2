"""What a worker and the agent's page say to each other about pictures, over a Unix socket of this machine.

The page says what it wants, one JSON object a line: ``{"show": [["gate", 640, true], …]}``; each line takes the place of
the one before. The worker answers with messages: length of the head and length of the JPEG (unsigned 32 bit, big
endian), the head as JSON, the JPEG. A message of eight zero bytes says that the worker is well, once a second.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgectl.core.errors import ProtocolError
from edgectl.core.schema import Message, Name, parse_json
from edgectl.pipelines.view.looks import WIDTHS, Look, ViewerPicture

__all__ = [
    "ALIVE",
    "MAX_WANTED_BYTES",
    "EventPicture",
    "Shown",
    "packed_picture",
    "parse_message",
    "parse_wanted",
    "reachable",
    "receive_message",
    "wanted_line",
]

MAX_WANTED_BYTES = 1 << 16
_MAX_HEAD, _MAX_JPEG = 1 << 16, 16 << 20
ALIVE = bytes(8)
"""The message that says nothing."""
Shown = tuple[str, Look]
"""A stream, and how it is wanted."""


@dataclass(frozen=True, slots=True)
class EventPicture:
    """The picture of some events."""

    stream: str
    events: tuple[str, ...]
    jpeg: bytes = field(repr=False)

    def packed(self) -> bytes:
        return _packed(_EventHead(stream=self.stream, events=self.events), self.jpeg)


class _WantedPictures(Message):
    show: tuple[tuple[Name, int, bool], ...] = Field(max_length=512)


class _PictureHead(Message):
    stream: Name
    look: tuple[int, bool]
    seq: int
    width: int
    height: int
    taken_ns: int
    time_s: float | None


class _EventHead(Message):
    stream: Name
    events: tuple[Annotated[str, Field(max_length=128)], ...] = Field(max_length=512)


class _Head(Message):
    picture: _PictureHead | None = None
    event: _EventHead | None = None


def wanted_line(shown: Sequence[Shown]) -> bytes:
    show = tuple((stream, look.width, look.annotated) for stream, look in shown)
    return _WantedPictures(show=show).model_dump_json().encode() + b"\n"


def parse_wanted(line: bytes) -> frozenset[Shown]:
    """Raises :class:`ProtocolError`."""
    wanted = parse_json(
        _WantedPictures, line, max_bytes=MAX_WANTED_BYTES, what="what is to be shown", error=ProtocolError
    )
    if any(width not in WIDTHS for _, width, _ in wanted.show):
        raise ProtocolError(f"pictures have one of the widths {', '.join(map(str, WIDTHS))}")
    return frozenset((stream, Look(width, annotated)) for stream, width, annotated in wanted.show)


def packed_picture(look: Look, picture: ViewerPicture) -> bytes:
    about = {key: value for key, value in asdict(picture).items() if key != "jpeg"}
    return _packed(_PictureHead(look=(look.width, look.annotated), **about), picture.jpeg)


def _packed(about: _PictureHead | _EventHead, jpeg: bytes) -> bytes:
    head = _Head(picture=about) if isinstance(about, _PictureHead) else _Head(event=about)
    data = head.model_dump_json(exclude_none=False).encode()
    return struct.pack(">II", len(data), len(jpeg)) + data + jpeg


def parse_message(head: bytes, jpeg: bytes) -> tuple[Look, ViewerPicture] | EventPicture:
    """Raises :class:`ProtocolError`."""
    found = parse_json(_Head, head, max_bytes=_MAX_HEAD, what="a picture's head", error=ProtocolError)
    if (event := found.event) is not None:
        return EventPicture(event.stream, event.events, jpeg)
    if (about := found.picture) is None:
        raise ProtocolError("a picture has no head")
    fields = about.model_dump(exclude={"look"})
    return Look(*about.look), ViewerPicture(**fields, jpeg=jpeg)


def receive_message(connection: socket.socket, within_s: float) -> tuple[bytes, bytes] | None:
    """Head and JPEG; None where the message says nothing. Raises ``TimeoutError`` where it is not whole in time,
    ``ConnectionError`` for the end, :class:`ProtocolError`."""
    until_s = time.monotonic() + within_s
    head_n, jpeg_n = struct.unpack(">II", _take(connection, 8, until_s))
    if head_n > _MAX_HEAD or jpeg_n > _MAX_JPEG:
        raise ProtocolError(f"a picture of {jpeg_n} bytes with a head of {head_n}")
    if not head_n:
        return None
    return _take(connection, head_n, until_s), _take(connection, jpeg_n, until_s)


def _take(connection: socket.socket, n: int, until_s: float) -> bytes:
    found = bytearray()
    while len(found) < n:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("a picture was not whole in time")
        connection.settimeout(left_s)
        data = connection.recv(min(n - len(found), 1 << 20))
        if not data:
            raise ConnectionResetError("the worker has closed the connection")
        found += data
    return bytes(found)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """The address of a Unix socket, short enough for the system wherever its folder lies (``unix(7)``: 108 bytes)."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
