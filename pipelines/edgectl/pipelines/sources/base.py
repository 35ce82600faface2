"""The source protocol and the URI grammar.

=============================  ==================================================================================
``/path/clip.mp4``, ``file:``   every frame, the reader waits; ``?paced=1&loop=1`` makes a camera of it
``/path/folder``                its images in name order (calibration)
``rtsp://…``, ``rtsps://…``     a network camera, reconnecting
``v4l2:///dev/video0``          a local camera
``synth://yard?seed=1&fps=15``  a scene with known ground truth; also ``seconds``, ``paced``, ``width``, ``height``
=============================  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, ValidationError

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config, first_problem
from edgectl.pipelines.frame import Frame

__all__ = [
    "EndOfStream",
    "FileOptions",
    "NoOptions",
    "Source",
    "SourceInfo",
    "SynthOptions",
    "open_source",
    "parse_options",
    "redact",
]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 8192 * 8192


class EndOfStream(Exception):
    """The source has no more frames."""


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source once it is open. Size and rate are None for a camera that has not answered yet."""

    uri: str
    """Without credentials."""
    kind: Literal["file", "images", "live", "synth"]
    width: int | None
    height: int | None
    fps: float | None
    realtime: bool
    """True: frames come at their own pace and a slow reader loses them (latest wins). False: the source waits."""
    frames: int | None = None
    """How many, if the source can tell."""


class Source(Protocol):
    """Belongs to one thread, which opens, reads and closes it; only ``interrupt`` may come from another."""

    decode_errors: int
    """Frames that arrived and could not be decoded, since ``open``."""
    outage: str | None
    """Reason code while the source is away (``refused``, ``timeout``, ``auth``, ``not_found``, ``ended``, ``invalid``), else None."""

    def open(self) -> SourceInfo:
        """Raises :class:`SourceError` (missing, unreachable) or :class:`DataError` (does not decode)."""
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """The next frame, or None after ``timeout_s`` without one. Raises :class:`EndOfStream`, SourceError, DataError."""
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


class SynthOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    fps: float | None = Field(default=None, gt=0, le=240)
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    paced: bool = True
    width: int | None = Field(default=None, ge=64, le=4096)
    height: int | None = Field(default=None, ge=64, le=4096)


O = TypeVar("O", bound=Config)  # noqa: E741


def parse_options(model: type[O], query: str, uri: str) -> O:
    """Query parameters as a validated model. Raises :class:`SourceError` for unknown, repeated or out-of-range ones."""
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=32)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise SourceError(f"source {redact(uri)} gives a parameter twice")
    try:
        return model.model_validate(values)
    except ValidationError as e:
        known = ", ".join(model.model_fields) or "none"
        raise SourceError(f"source {redact(uri)}: {first_problem(e)}", hint=f"parameters: {known}") from e


def redact(uri: str) -> str:
    """``uri`` without user name and password: for messages and events."""
    scheme, sep, rest = uri.partition("://")
    if not sep:
        return uri
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def open_source(uri: str, *, patient: bool = False) -> Source:
    """The source for a URI, not opened yet. ``patient``: a camera that is away at first is waited for.

    Raises :class:`SourceError` for an unknown scheme, scene or parameter, and for a file that is not there.
    """
    # Imported here: a synthetic source needs no decoder, and the sources import this module.
    from edgectl.pipelines.sources.file import FileSource
    from edgectl.pipelines.sources.images import ImagesSource
    from edgectl.pipelines.sources.live import LiveSource
    from edgectl.pipelines.sources.synth import SynthSource

    if len(uri) > 4096 or "\x00" in uri:
        raise SourceError("the source URI is too long or has a NUL in it")
    scheme = urlsplit(uri).scheme if "://" in uri or uri.startswith("file:") else ""
    if scheme in ("rtsp", "rtsps"):
        return LiveSource(uri, uri, patient=patient)
    if scheme == "v4l2":
        parts = urlsplit(uri)
        parse_options(NoOptions, parts.query, uri)
        return LiveSource(uri, parts.path, format="v4l2", patient=patient)
    if scheme == "synth":
        parts = urlsplit(uri)
        return SynthSource(uri, parts.netloc, parse_options(SynthOptions, parts.query, uri))
    if scheme not in ("", "file"):
        raise SourceError(f"unknown source scheme {scheme!r}", hint="use a path, file:, rtsp://, v4l2:// or synth://")
    path, query = _split_path(uri, is_uri=scheme == "file")
    if path.is_dir():
        parse_options(NoOptions, query, uri)
        return ImagesSource(path)
    if not path.exists():
        raise SourceError(f"there is no file {path}", hint="check the path of the source")
    options = parse_options(FileOptions, query, uri)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImagesSource(path)
    return FileSource(path, options)


def _split_path(uri: str, *, is_uri: bool) -> tuple[Path, str]:
    if not is_uri and Path(uri).exists():  # a file may have a question mark in its name
        return Path(uri), ""
    raw, _, query = uri.partition("?")
    if is_uri:
        raw = raw.removeprefix("file:")
        raw = unquote("/" + raw.lstrip("/") if raw.startswith("//") else raw)
    return Path(raw), query
