"""What a viewer asks for, and what it gets. Needs no image library."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from edgectl.pipelines.sinks.base import Sink

__all__ = ["WIDTHS", "Keep", "Look", "PictureSource", "ViewerPicture", "Watch", "width_for"]

Keep = Callable[[str, Sequence[str], bytes], None]
"""Takes the picture of some events: stream, ids of the events, JPEG."""

WIDTHS = (320, 640, 960, 1280, 1920)
"""Pixels. What a viewer asks for is rounded up to one of these, so that viewers share pictures."""


class Look(NamedTuple):
    """How a viewer wants a stream's pictures. Those who want the same share them."""

    width: int
    """One of :data:`WIDTHS`."""
    annotated: bool = True
    """With what was found, zones and lines drawn in."""


@dataclass(frozen=True, slots=True)
class ViewerPicture:
    """One frame as a viewer gets it."""

    stream: str
    seq: int
    """Of the frame."""
    width: int
    """Of the JPEG, pixels."""
    height: int
    taken_ns: int
    """CLOCK_MONOTONIC: when the frame was taken, or, in a file, when it was decoded."""
    time_s: float | None
    """Unix time of the frame; None for a file."""
    jpeg: bytes = field(repr=False)

    def age_ms(self, now_ns: int) -> float:
        """How long ago it was taken; ``now_ns`` is CLOCK_MONOTONIC."""
        return (now_ns - self.taken_ns) / 1e6

    def head(self, now_ns: int) -> dict[str, Any]:
        """All but the JPEG, as JSON values, and its age."""
        about = {key: value for key, value in asdict(self).items() if key != "jpeg"}
        return {**about, "age_ms": round(self.age_ms(now_ns), 1)}

    def packed(self, now_ns: int) -> bytes:
        """For a connection that carries many streams: length of the head and length of the JPEG (unsigned
        32 bit, big endian), the head as JSON, the JPEG."""
        head = json.dumps(self.head(now_ns), separators=(",", ":")).encode()
        return struct.pack(">II", len(head), len(self.jpeg)) + head + self.jpeg


class PictureSource(Protocol):
    """Where the page has its pictures from. Safe for any thread."""

    over: bool
    """Nothing will come any more."""

    def sinks(self, stream: str) -> tuple[Sink, ...]:
        """Show a stream. What comes back are the sinks that it needs in this process."""

    def watch(self, wanted: Mapping[str, Look], ring: Callable[[], None]) -> Watch:
        """Begin to look. ``ring`` is called from any thread when there may be something to take.

        Raises :class:`BusyError` when there are too many viewers.
        """

    def leave(self, watch: Watch) -> None: ...

    def newest(self, wanted: Mapping[str, Look]) -> list[ViewerPicture]:
        """The newest picture of each of these streams that has one that looks so."""

    def close(self) -> None: ...


class Watch:
    """What one viewer looks at. :meth:`take` gives each picture once, only the newest of each stream."""

    def __init__(self, hub: PictureSource, wanted: Mapping[str, Look], ring: Callable[[], None]) -> None:
        self.wanted = dict(wanted)
        self.ring = ring
        self._hub = hub
        self._taken: dict[str, int] = {}

    def take(self) -> list[ViewerPicture]:
        found = []
        for picture in self._hub.newest(self.wanted):
            if self._taken.get(picture.stream) != picture.taken_ns:
                self._taken[picture.stream] = picture.taken_ns
                found.append(picture)
        return found

    @property
    def over(self) -> bool:
        """Nothing will come any more."""
        return self._hub.over

    def close(self) -> None:
        self._hub.leave(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def width_for(asked: int) -> int:
    """The smallest of :data:`WIDTHS` that has the pixels that were asked for, or the largest."""
    return next((width for width in WIDTHS if width >= asked), WIDTHS[-1])
