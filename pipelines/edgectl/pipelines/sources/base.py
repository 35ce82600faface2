"""What a source is, its options, and what sources share. Which URI opens which:
:mod:`edgectl.pipelines.sources.open`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar
from urllib.parse import parse_qsl

from pydantic import Field, ValidationError

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config, first_problem
from edgectl.core.uri import redact
from edgectl.pipelines.stream.frame import Frame, Notice

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "EndOfStream",
    "FileOptions",
    "ImagesOptions",
    "NoOptions",
    "Source",
    "SourceInfo",
    "SynthOptions",
    "parse_options",
    "redact",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 8192 * 8192


class EndOfStream(Exception):
    """The source has no more frames. ``notice``: how it ended, where that is its own doing and not ours."""

    def __init__(self, notice: Notice | None = None) -> None:
        super().__init__("the source has no more frames" if notice is None else notice.reason)
        self.notice = notice


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source once it is open. Size and rate are None for a camera that has not answered
    yet."""

    uri: str
    """Without credentials."""
    kind: Literal["file", "images", "live", "synth"]
    width: int | None
    height: int | None
    fps: float | None
    realtime: bool
    """True: frames come at their own pace and a slow reader loses them (latest wins). False: the source
    waits."""
    frames: int | None = None
    """How many, if the source can tell."""


class Source(Protocol):
    """Belongs to one thread, which opens, reads and closes it; only ``interrupt`` may come from another."""

    decode_errors: int
    """Frames that arrived and could not be decoded, since ``open``."""
    corrupt_frames: int
    """Frames that were decoded and are known to be damaged, since ``open``. None of them is handed on."""
    outage: str | None
    """Reason code while the source is away (``refused``, ``timeout``, ``unreachable``, ``auth``,
    ``not_found``, ``ended``, ``invalid``), else None."""

    def open(self) -> SourceInfo:
        """Raises :class:`SourceError` (missing, unreachable) or :class:`DataError` (does not decode)."""
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, or None after ``timeout_s`` without one. Raises :class:`EndOfStream`,
        SourceError, DataError."""
        ...

    def interrupt(self) -> None:
        """Make a waiting ``read`` return soon. From any thread; nothing is freed."""
        ...

    def close(self) -> None:
        """Free everything. From the reading thread; safe to call twice."""
        ...


class NoOptions(Config):
    pass


class FileOptions(Config):
    paced: bool = False
    loop: bool = False
    fps: float | None = Field(default=None, gt=0, le=1000)
    """Pace, if other than the file's own."""


class ImagesOptions(Config):
    fps: float | None = Field(default=None, gt=0, le=1000)
    """The pictures are a film with this many a second. None: they are single pictures, each one for
    itself."""


class SynthOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    fps: float | None = Field(default=None, gt=0, le=240)
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    paced: bool = True
    width: int | None = Field(default=None, ge=64, le=4096)
    height: int | None = Field(default=None, ge=64, le=4096)
    markings: Literal["lanes", "none", "left", "right"] | None = None
    """Of ``road``: which lines are painted."""
    clutter: bool | None = None
    """Of ``road``: seams, kerbs, rails and shadows, too."""


O = TypeVar("O", bound=Config)  # noqa: E741


def parse_options(model: type[O], query: str, uri: str) -> O:
    """Query parameters as a validated model. Raises :class:`SourceError` for unknown, repeated or
    out-of-range ones."""
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise SourceError(f"source {redact(uri)} gives a parameter twice")
    try:
        return model.model_validate(values)
    except ValidationError as e:
        known = ", ".join(model.model_fields) or "none"
        raise SourceError(f"source {redact(uri)}: {first_problem(e)}", hint=f"parameters: {known}") from e
