"""A camera at the other end of a network, as FFmpeg reads it: every call has a deadline."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.base import redact
from edgectl.pipelines.sources.media.camera import Camera, CameraReader
from edgectl.pipelines.sources.media.hardware import Hardware, HardwareChoice
from edgectl.pipelines.sources.media.reader import Away, VideoReader

__all__ = ["check_address", "find", "look_for", "network_camera"]

_TIMEOUT_S = 5.0
_LOOK_S = 1.0
_STOP_S = 0.1
"""How often a wait asks whether it should go on."""


def network_camera(
    url: str,
    *,
    port: int,
    format: str | None = None,
    options: Mapping[str, str] | None = None,
    ca: str | None = None,
    hw: HardwareChoice = "none",
) -> Camera:
    """``url`` for FFmpeg; ``port``: that of its scheme, where the address names none. ``ca``: file of the
    certificates that FFmpeg was told to trust, so that a camera which it refuses can be told why. ``hw``: what
    decodes."""
    hardware = Hardware(hw)
    what, parts = redact(url), urlsplit(url)
    host, known_port = parts.hostname or "", parts.port or port

    def connect(stop: threading.Event) -> CameraReader:
        find(host, known_port, what, _TIMEOUT_S, stop)
        try:
            return VideoReader(
                url,
                what,
                format=format,
                options=options,
                timeout_s=_TIMEOUT_S,
                low_delay=True,
                hardware=hardware,
            )
        except SourceError as e:
            if ca is not None and getattr(e.__cause__, "errno", None) == errno.EIO:
                _check_certificate(host, known_port, what, ca)
            raise

    ceilings = {"auth": 300.0, "not_found": 300.0, "tls": 300.0}
    return Camera(connect, lambda: look_for(host, known_port, what), ceilings, gives_packets=True)


def check_address(uri: str) -> None:
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


def _check_certificate(host: str, port: int, what: str, ca: str) -> None:
    """Why FFmpeg, which says no more than EIO, did not like a secure connection. Raises :class:`SourceError` if it
    was that."""
    context = ssl.create_default_context(cafile=ca)
    try:
        with socket.create_connection((host, port), timeout=_LOOK_S) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLError as e:
        said = getattr(e, "verify_message", None) or e.reason
        raise SourceError(
            f"cannot open {what}: its certificate is not trusted: {said}",
            hint="give the file of the certificate that signed it behind #ca=",
        ) from Away("tls")
    except OSError:
        return


def look_for(host: str, port: int, what: str) -> None:
    """Whether somebody listens there: no more than a connection that is closed again, within a second. Raises
    :class:`SourceError`."""
    place = find(host, port, what, _LOOK_S)
    try:
        socket.create_connection(place, timeout=_LOOK_S).close()
    except OSError as e:
        raise SourceError(f"cannot reach {what}: {e.strerror or 'no answer'}", retryable=True) from e


def find(
    host: str, port: int, what: str, timeout_s: float, stop: threading.Event | None = None
) -> tuple[str, int]:
    """The numeric address of a host. Looked up in a thread: a name server that is silent cannot be interrupted.
    ``stop`` ends the wait.

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
    until = time.monotonic() + timeout_s
    while thread.is_alive() and not (stop is not None and stop.is_set()):
        if (left_s := until - time.monotonic()) <= 0:
            break
        thread.join(min(left_s, _STOP_S))
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
