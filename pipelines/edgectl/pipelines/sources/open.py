"""The URI grammar: which source a URI opens.

=============================
================================================================================== ``/path/clip.mp4``,
``file:``   every frame, the reader waits; ``?paced=1&loop=1`` makes a camera of it ``/path/folder``
its images in name order, each for itself; ``?fps=10`` makes a film of them ``/path/picture.jpg``
one picture ``rtsp://…``, ``rtsps://…``     a network camera, reconnecting ``v4l2:///dev/video0``          a
local camera ``synth://yard?seed=1&fps=15``  a scene with known ground truth; also ``seconds``, ``paced``,
``width``, ``height`` =============================
==================================================================================
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from edgectl.core.errors import SourceError
from edgectl.core.uri import redact
from edgectl.pipelines.sources.base import (
    IMAGE_SUFFIXES,
    FileOptions,
    ImagesOptions,
    NoOptions,
    Source,
    SynthOptions,
    parse_options,
)
from edgectl.pipelines.sources.file import FileSource
from edgectl.pipelines.sources.images import ImagesSource
from edgectl.pipelines.sources.media.camera import LiveSource
from edgectl.pipelines.sources.synth import SynthSource

__all__ = ["open_source"]


_NO_FILE = "check the path of the source; the address of a camera begins with rtsp://"


def open_source(uri: str, *, patient: bool = False) -> Source:
    """The source for a URI, not opened yet. ``patient``: a camera that is away at first is waited for.

    Raises :class:`SourceError` for an unknown scheme, scene or parameter, and for a file that is not there.
    """
    if len(uri) > 4096 or "\x00" in uri:
        raise SourceError("the source URI is too long or has a NUL in it")
    scheme = urlsplit(uri).scheme if "://" in uri or uri.startswith("file:") else ""
    if scheme in ("rtsp", "rtsps"):
        _check_authority(uri)
        return LiveSource(uri, uri, patient=patient)
    if scheme == "v4l2":
        parts = urlsplit(uri)
        parse_options(NoOptions, parts.query, uri)
        return LiveSource(uri, parts.path, format="v4l2", patient=patient)
    if scheme == "synth":
        parts = urlsplit(uri)
        return SynthSource(uri, parts.netloc, parse_options(SynthOptions, parts.query, uri))
    if scheme not in ("", "file"):
        raise SourceError(
            f"unknown source scheme {scheme!r}", hint="use a path, file:, rtsp://, v4l2:// or synth://"
        )
    path, query = _split_path(uri, is_uri=scheme == "file")
    if path.is_dir():
        return ImagesSource(path, parse_options(ImagesOptions, query, uri))
    if not path.exists():
        raise SourceError(f"there is no file {redact(uri)}", hint=_NO_FILE)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImagesSource(path, parse_options(ImagesOptions, query, uri))
    return FileSource(path, parse_options(FileOptions, query, uri))


def _check_authority(uri: str) -> None:
    """Raises :class:`SourceError` where a password was written as it is, and ends the authority (RFC 3986
    §3.2) before its time."""
    try:
        host = urlsplit(uri).hostname
        _ = urlsplit(uri).port
    except ValueError:
        host = None
    if not host:
        raise SourceError(
            f"{redact(uri)} is not the address of a camera: its host or its port cannot be read",
            hint="in a user name or password write / as %2F, ? as %3F, # as %23, @ as %40 and : as %3A",
        )


def _split_path(uri: str, *, is_uri: bool) -> tuple[Path, str]:
    if not is_uri and Path(uri).exists():  # a file may have a question mark in its name
        return Path(uri), ""
    raw, _, query = uri.partition("?")
    if is_uri:
        raw = raw.removeprefix("file:")
        raw = unquote("/" + raw.lstrip("/") if raw.startswith("//") else raw)
    return Path(raw), query
