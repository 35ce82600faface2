"""Where frames and sound come from: one file per scheme of URIs, one table that names them. Times, damage and
reconnection, which they share, are in :mod:`edgectl.pipelines.sources.media`."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.audio.blocks import RATE, AudioSource, Samples
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.sources.base import EndOfStream, Source, SourceInfo, SourceType, redact

__all__ = [
    "SOURCES",
    "EndOfStream",
    "Source",
    "SourceInfo",
    "open_audio",
    "open_source",
    "read_audio",
    "redact",
]

SOURCES = Registry(
    "source",
    "edgectl.sources",
    SourceType,
    {
        "file": "edgectl.pipelines.sources.file:SOURCE",
        "rtsp": "edgectl.pipelines.sources.rtsp:SOURCE",
        "rtsps": "edgectl.pipelines.sources.rtsp:SOURCE",
        "http": "edgectl.pipelines.sources.http:SOURCE",
        "https": "edgectl.pipelines.sources.http:SOURCE",
        "rtmp": "edgectl.pipelines.sources.rtmp:SOURCE",
        "v4l2": "edgectl.pipelines.sources.v4l2:SOURCE",
        "csi": "edgectl.pipelines.sources.gst:CSI",
        "gst": "edgectl.pipelines.sources.gst:GST",
        "mic": "edgectl.pipelines.sources.microphone:SOURCE",
        "synth": "edgectl.pipelines.sources.synth:SOURCE",
    },
)


def open_source(uri: str, *, patient: bool = False) -> Source:
    """The source of pictures for a URI, not opened yet. ``patient``: a camera that is away at first is waited
    for.

    Raises :class:`SourceError` for an unknown scheme, scene or parameter, and for a file that is not there.
    """
    scheme = _scheme(uri, "pictures")
    with SOURCES.using(scheme) as type_:
        if type_.video is None:
            raise SourceError(f"{scheme}:// gives no pictures", hint=f"use {_schemes('pictures')}")
        return type_.video(uri, patient)


def open_audio(uri: str, *, patient: bool = False) -> AudioSource:
    """The source of sound for a URI: mono float32 at 16 kHz. ``patient``: a microphone that is away at first is
    waited for.

    Raises :class:`SourceError` for an unknown scheme, a missing file, a bad parameter or a channel that is
    not there, and :class:`DataError` for a file that does not decode.
    """
    scheme = _scheme(uri, "sound")
    with SOURCES.using(scheme) as type_:
        if type_.sound is None:
            raise SourceError(f"{scheme}:// gives no sound", hint=f"use {_schemes('sound')}")
        return type_.sound(uri, patient)


def read_audio(uri: str | Path, *, max_seconds: float = 7200.0) -> Samples:
    """A whole recording, or a synthetic sound with ``seconds``, as float32 mono 16 kHz in ±1.

    Raises :class:`SourceError` if it is not there, :class:`DataError` if it has no sound or does not end in
    time.
    """
    source = open_audio(str(uri))
    name = redact(Path(str(uri)).name)
    if source.live:
        source.close()
        raise DataError(
            f"{name} never ends", hint="use a recording, or a synthetic sound with paced=0 and seconds"
        )
    pieces, total = [], 0
    while (block := source.read()) is not None:
        pieces.append(block.data)
        total += len(block.data)
        if total > max_seconds * RATE:
            raise DataError(f"{name} is longer than {max_seconds:g} s", hint="cut it into shorter recordings")
    if not total:
        raise DataError(f"{name} has no sound in it", hint="give it more seconds")
    return np.concatenate(pieces)


def _scheme(uri: str, what: str) -> str:
    if len(uri) > 4096 or "\x00" in uri:
        raise SourceError("the source URI is too long or has a NUL in it")
    if "://" not in uri and not uri.startswith("file:"):
        return "file"
    try:
        scheme = urlsplit(uri).scheme
    except ValueError:
        # of brackets that hold no address of IPv6 (RFC 3986 §3.2.2)
        raise SourceError(
            f"{redact(uri)} is no address: its host cannot be read",
            hint="in a user name or password write [ as %5B and ] as %5D",
        ) from None
    if not scheme:  # a path with :// in it
        return "file"
    if scheme not in SOURCES:
        raise SourceError(f"unknown source scheme {scheme!r}", hint=f"use {_schemes(what)}")
    return scheme


def _schemes(what: str) -> str:
    fitting = [
        f"{name}://"
        for name in SOURCES.own[1:]
        if (SOURCES.get(name).video if what == "pictures" else SOURCES.get(name).sound)
    ]
    others = [f"{name}://" for name in SOURCES.names() if name not in SOURCES.own]
    return f"a path, file:, {', '.join(fitting + others)}"
