"""Pictures as H.264 in RTP packets (RFC 6184), by FFmpeg's encoder and its packetizer, and the description (SDP, RFC
8866) that a server wants first. No network here: the packets are handed out."""

from __future__ import annotations

import base64
import contextlib
from fractions import Fraction
from typing import Any

import av
import av.error
from numpy.typing import NDArray

from edgectl.core.errors import EngineError
from edgectl.pipelines.sinks.encode import add_encoder, fitted

__all__ = ["RtpEncoder"]

# RFC 6184, section 8.2.1
_TIME_BASE = Fraction(1, 90_000)
_TYPE = 96
_PACKET = 1400
"""Bytes at most: a server may hand them on over UDP."""
_SPS, _PPS = 7, 8


class _Packets:
    """What FFmpeg writes, packet by packet."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.taken.append(bytes(data))
        return len(data)


class RtpEncoder:
    """For one connection: it begins with a key frame. Errors of FFmpeg are raised as they are."""

    def __init__(self, size: tuple[int, int], fps: float, kbit: int) -> None:
        """``size``: width and height, even. ``kbit``: kbit/s at most, over a second. Raises :class:`EngineError` where FFmpeg
        has no H.264 encoder."""
        self._size = size
        self._written = _Packets()
        options = {"packetsize": str(_PACKET), "payload_type": str(_TYPE)}
        self._container = av.open(self._written, "w", format="rtp", options=options)
        stream = add_encoder(self._container, size, fps, _TIME_BASE, kbit, h264=True)
        if stream is None:
            self._container.close()
            raise EngineError(
                "this FFmpeg has no H.264 encoder (libx264)",
                hint="install PyAV's own wheel (pip install av), or turn it off: restream: false",
            )
        self._stream = stream
        self._first_ns: int | None = None
        self._last_pts = -1
        self._sets: dict[int, bytes] = {}

    def packets(self, image: NDArray[Any], t_ns: int) -> list[bytes]:
        """Of a BGR picture (H, W, 3) of any size, taken at ``t_ns`` (monotonic): RTP packets, and RTCP sender reports
        among them."""
        self._first_ns = t_ns if self._first_ns is None else self._first_ns
        picture = av.VideoFrame.from_ndarray(fitted(image, self._size), format="bgr24")
        self._last_pts = max((t_ns - self._first_ns) * 9 // 100_000, self._last_pts + 1)
        picture.pts, picture.time_base = self._last_pts, _TIME_BASE
        for packet in self._stream.encode(picture):
            if packet.is_keyframe and not self._sets:
                self._sets = _parameter_sets(bytes(packet))
            self._container.mux(packet)
        taken, self._written.taken = self._written.taken, []
        return taken

    def description(self) -> bytes:
        """SDP, known once the first picture is encoded."""
        sps, pps = self._sets.get(_SPS, b""), self._sets.get(_PPS, b"")
        sets = ",".join(base64.b64encode(s).decode() for s in (sps, pps))
        lines = [
            "v=0",
            "o=- 0 0 IN IP4 127.0.0.1",
            "s=edgectl",
            "c=IN IP4 0.0.0.0",
            "t=0 0",
            f"m=video 0 RTP/AVP {_TYPE}",
            f"a=rtpmap:{_TYPE} H264/90000",
            f"a=fmtp:{_TYPE} packetization-mode=1;profile-level-id={sps[1:4].hex().upper()};sprop-parameter-sets={sets}",
            "a=control:streamid=0",
        ]
        return "".join(f"{line}\r\n" for line in lines).encode()

    def close(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()


def _parameter_sets(data: bytes) -> dict[int, bytes]:
    """Type → the first NAL unit of it, of a stream with start codes (H.264, annex B)."""
    found: dict[int, bytes] = {}
    for unit in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1"):
        if unit and unit[0] & 0x1F in (_SPS, _PPS):
            found.setdefault(unit[0] & 0x1F, unit)
    return found
