"""Decoding by hardware, where FFmpeg offers it: which device is asked for, and in one word why it is not.

A device of FFmpeg decodes and its pictures are copied into memory: they go the same way as others from there on. Left
out: decoders that are no devices (a Raspberry Pi's ``h264_v4l2m2m``, a Jetson's): GStreamer has them (``gst://``,
``csi://``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import av
import av.error

__all__ = ["Hardware", "HardwareChoice", "NoHardware"]

Device = Literal["cuda", "vaapi", "qsv", "drm", "videotoolbox", "d3d11va", "vulkan"]
HardwareChoice = Literal["none", "auto", "cuda", "vaapi", "qsv", "drm", "videotoolbox", "d3d11va", "vulkan"]
NoHardware = Literal["not_built", "no_device", "codec", "failed"]
"""``not_built``: this FFmpeg knows no such device. ``no_device``: the machine has none, or it may not be opened.
``codec``: it does not decode this video's. ``failed``: it was asked to, and could not."""

_DEVICES: tuple[Device, ...] = get_args(Device)
"""In the order in which ``auto`` tries them."""
_CODECS = ("h264", "hevc")
"""A device that decodes neither is none for cameras."""


@dataclass
class Hardware:
    """What a source was told, and has learned: it stays over all readers that the source opens."""

    choice: HardwareChoice = "none"
    device: str | None = None
    """The one that decodes; None: the processor does."""
    why: NoHardware | None = None
    """Why there is none, though one was asked for."""
    _looked: bool = False

    def accelerator(self) -> Any:
        """For ``av.open``: an ``av.codec.hwaccel.HWAccel``, or None. Looks for a device at the first call."""
        if not self._looked and self.choice != "none":
            self._looked = True
            wanted = _DEVICES if self.choice == "auto" else (self.choice,)
            built = [name for name in wanted if name in built_in()]
            self.device = next((name for name in built if opens(name)), None)
            if self.device is None:
                self.why = "no_device" if built else "not_built"
        if self.device is None:
            return None
        from av.codec.hwaccel import HWAccel

        return HWAccel(self.device, allow_software_fallback=True)

    def give_up(self, why: NoHardware) -> None:
        """The processor decodes from now on."""
        self.device, self.why = None, why

    def told(self) -> tuple[str, dict[str, str]] | None:
        """A reason code and its data; None where nobody asked."""
        if self.choice == "none":
            return None
        if self.device is not None:
            return "hardware_decode", {"device": self.device}
        return "software_decode", {"why": str(self.why)}


def built_in() -> list[str]:
    """The devices that FFmpeg was built with."""
    try:
        from av.codec.hwaccel import hwdevices_available
    except ImportError:  # PyAV before 14.1
        return []
    return hwdevices_available()


def opens(name: str) -> bool:
    """Whether this machine has such a device, and it may be used."""
    from av.codec.hwaccel import HWAccel

    for codec in _CODECS:
        try:
            HWAccel(name).create(av.Codec(codec, "r"))
        except (av.error.FFmpegError, NotImplementedError, OSError, ValueError, RuntimeError):
            continue
        return True
    return False
