"""A camera at the other end of a network, as FFmpeg reads it: every call has a deadline."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.base import redact
from edgectl.pipelines.sources.media.camera import Camera, CameraReader
from edgectl.pipelines.sources.media.reader import Away, VideoReader

__all__ = ["network_camera"]

_TIMEOUT_S = 5.0
_LOOK_S = 1.0


def network_camera(
    url: str, *, port: int, format: str | None = None, options: Mapping[str, str] | None = None
) -> Camera:
    """``url`` for FFmpeg; ``port``: that of its scheme, where the address names none."""
    what, parts = redact(url), urlsplit(url)
    host, known_port = parts.hostname or "", parts.port or port

    def connect(stop: threading.Event) -> CameraReader:
        find(host, known_port, what, _TIMEOUT_S)
        return VideoReader(url, what, format=format, options=options, timeout_s=_TIMEOUT_S, low_delay=True)

    def look() -> None:
        place = find(host, known_port, what, _LOOK_S)
        try:
            socket.create_connection(place, timeout=_LOOK_S).close()
        except OSError as e:
            raise SourceError(f"cannot reach {what}: {e.strerror or 'no answer'}", retryable=True) from e

    return Camera(connect, look)


def find(host: str, port: int, what: str, timeout_s: float) -> tuple[str, int]:
    """The numeric address of a host. Looked up in a thread: a name server that is silent cannot be interrupted.

    Raises :class:`SourceError`: the name is unknown (``unreachable``), or was not answered in time (``timeout``).
    """
    found: list[tuple[str, int] | OSError] = []

    def ask() -> None:
        try:
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
            found.append((str(address[0]), port))
        except (OSError, UnicodeError) as e:
            found.append(e if isinstance(e, OSError) else OSError(str(e)))

    thread = threading.Thread(target=ask, name=f"edgectl-name-{host[:32]}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not found:
        raise SourceError(f"cannot open {what}: no answer in time for its name", retryable=True) from Away(
            "timeout"
        )
    if isinstance(found[0], OSError):
        raise SourceError(
            f"cannot open {what}: its name does not resolve",
            hint="check the address and the network",
            retryable=True,
        ) from Away("unreachable")
    return found[0]
