"""What a source is, and what sources share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable
from urllib.parse import parse_qsl

from pydantic import ValidationError

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config, first_problem
from edgectl.core.uri import redact
from edgectl.pipelines.audio.blocks import AudioSource
from edgectl.pipelines.stream.frame import Frame, Notice

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "EndOfStream",
    "KeyFrameSource",
    "LossySource",
    "RetryingSource",
    "Source",
    "SourceInfo",
    "SourceType",
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

    def expected(self, seconds: float | None) -> int | None:
        """How many frames there will be in ``seconds`` (None: in all of it), if that can be told."""
        limit = None if seconds is None or not self.fps else max(1, round(seconds * self.fps))
        return min((n for n in (self.frames, limit) if n is not None), default=None)


class Source(Protocol):
    """Belongs to one thread, which opens, reads and closes it; only ``interrupt`` may come from another."""

    decode_errors: int
    """Frames that arrived and could not be decoded, since ``open``."""
    corrupt_frames: int
    """Frames that were decoded and are known to be damaged, since ``open``. None of them is handed on."""
    outage: str | None
    """Reason code while the source is away (``refused``, ``timeout``, ``unreachable``, ``auth``,
    ``not_found``, ``tls``, ``ended``, ``invalid``, ``stalled``, ``crashed``, ``no_room``), else None."""

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


@runtime_checkable
class LossySource(Protocol):
    """A source that loses frames by itself when it is not read in time: another process goes on."""

    superseded_frames: int
    """Frames that gave way to newer ones before they were read, since ``open``."""


@runtime_checkable
class RetryingSource(Protocol):
    """A source that is opened again after it failed."""

    trouble: str | None
    """What went wrong last, in a sentence; None while it is there."""

    def retry_s(self) -> float | None:
        """Seconds until it is tried again; None while it is there. From any thread."""
        ...


@runtime_checkable
class KeyFrameSource(Protocol):
    """A source that can be told to decode key frames alone: the others cost nothing then but their way here."""

    degraded_frames: int
    """Frames that it left out because it was told to, since ``open``."""

    def only_key_frames(self, on: bool) -> bool:
        """From any thread, also before ``open``. False: this source cannot, and nothing changes."""
        ...


@dataclass(frozen=True)
class SourceType:
    """A scheme of source URIs. It gives pictures, sound or both."""

    doc: tuple[tuple[str, str], ...]
    """Lines of documentation: a URI, and what it is."""
    video: Callable[[str, bool], Source] | None = None
    """From the URI, and whether a camera that is away at first is waited for (``patient``), to a source that is
    not open yet."""
    sound: Callable[[str, bool], AudioSource] | None = None
    """The same for sound; the source is open."""
    options: tuple[tuple[str, type[Config]], ...] = ()
    """For the documentation: of what, and the parameters of the URI (``?name=value``)."""


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
