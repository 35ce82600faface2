"""A stream from a media server (RTMP), which is opened again whenever it fails."""

from __future__ import annotations

from edgectl.pipelines.sources.base import Source, SourceType
from edgectl.pipelines.sources.media.camera import LiveSource
from edgectl.pipelines.sources.media.network import check_address, network_camera

__all__ = ["SOURCE"]


def _open(uri: str, patient: bool) -> Source:
    check_address(uri)
    options = {"rtmp_live": "live", "fpsprobesize": "0", "rw_timeout": "5000000"}
    return LiveSource(uri, network_camera(uri, port=1935, options=options), patient=patient)


SOURCE = SourceType(
    (("rtmp://server/live/key", "a stream from a media server; reconnects by itself"),), video=_open
)
