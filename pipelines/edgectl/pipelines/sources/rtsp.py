"""A network camera (RTSP over TCP), which is opened again whenever it fails."""

from __future__ import annotations

from edgectl.core.schema import Config
from edgectl.pipelines.sources.base import Source, SourceType, parse_options
from edgectl.pipelines.sources.media.camera import LiveSource
from edgectl.pipelines.sources.media.hardware import HardwareChoice
from edgectl.pipelines.sources.media.http_fetch import authorities
from edgectl.pipelines.sources.media.network import check_address, network_camera

__all__ = ["SOURCE", "RtspOptions"]

_TIMEOUT_US = "5000000"


class RtspOptions(Config):
    ca: str | None = None
    """``rtsps``: file of the certificates to trust, in place of this machine's. A camera signs its own."""
    hw: HardwareChoice = "none"
    """Decode by hardware: ``auto``, or a device of FFmpeg. Where that is not possible the processor decodes, and an event
    says why."""


def _open(uri: str, patient: bool) -> Source:
    address, _, fragment = uri.partition("#")
    check_address(address)
    options = parse_options(RtspOptions, fragment, uri)
    # FFmpeg named the socket's timeout (µs) "stimeout" before version 5; unknown options are ignored. Nothing is
    # thrown away while the stream is looked at: with it goes the key frame, and a group of pictures is waited for.
    network = {"rtsp_transport": "tcp", "timeout": _TIMEOUT_US, "stimeout": _TIMEOUT_US, "fpsprobesize": "0"}
    if not address.lower().startswith("rtsps:"):
        return LiveSource(
            uri, network_camera(address, port=554, options=network, hw=options.hw), patient=patient
        )
    ca = authorities(options.ca)
    network |= {"tls_verify": "1", "ca_file": ca}
    return LiveSource(
        uri, network_camera(address, port=322, options=network, ca=ca, hw=options.hw), patient=patient
    )


SOURCE = SourceType(
    (
        (
            "rtsp://user:secret@cam/stream",
            "a network camera; reconnects by itself. The password never leaves the process ([how](security.md#credentials-of-cameras)); `/ ? # @ :` in it are written `%2F %3F %23 %40 %3A`",
        ),
        (
            "rtsps://cam/stream#ca=/etc/edgectl/cam.pem",
            "the same over TLS; the camera's certificate is checked",
        ),
    ),
    video=_open,
    options=(("RTSP, behind `#`", RtspOptions),),
)
