"""A network camera (RTSP over TCP), which is opened again whenever it fails."""

from __future__ import annotations

from urllib.parse import urlsplit

from edgectl.core.errors import SourceError
from edgectl.core.uri import redact
from edgectl.pipelines.sources.base import Source, SourceType
from edgectl.pipelines.sources.media.camera import LiveSource
from edgectl.pipelines.sources.media.network import network_camera

__all__ = ["SOURCE"]

_TIMEOUT_US = "5000000"


def _open(uri: str, patient: bool) -> Source:
    _check_authority(uri)
    secure = urlsplit(uri).scheme == "rtsps"
    # FFmpeg named the socket's timeout (µs) "stimeout" before version 5; unknown options are ignored.
    options = {"rtsp_transport": "tcp", "timeout": _TIMEOUT_US, "stimeout": _TIMEOUT_US, "fflags": "nobuffer"}
    return LiveSource(uri, network_camera(uri, port=322 if secure else 554, options=options), patient=patient)


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


SOURCE = SourceType(
    (
        (
            "rtsp://user:secret@cam/stream",
            "a network camera; reconnects by itself. The password never leaves the process ([how](security.md#credentials-of-cameras)); `/ ? # @ :` in it are written `%2F %3F %23 %40 %3A`",
        ),
    ),
    video=_open,
)
