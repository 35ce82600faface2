"""A pipeline of GStreamer, and the ribbon camera of a Jetson, which only that reads.

They run in a child (:mod:`.child`) under the first Python of this machine that has GStreamer's bindings: an element
that hangs or crashes takes the child along, and nothing else.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.sources import child
from edgectl.pipelines.sources.base import Source, SourceType, parse_options
from edgectl.pipelines.sources.child.child_reader import ChildReader, Grabber
from edgectl.pipelines.sources.media.camera import Camera, LiveSource

__all__ = ["CSI", "GST", "CsiOptions", "csi_pipeline"]

_PROGRAM = Path(str(child.__file__)).with_name("gstreamer.py")
_PYTHONS = (sys.executable, "/usr/bin/python3")
_HAS_IT = (
    "import gi\n"
    "for n in ('Gst', 'GstApp', 'GstVideo'): gi.require_version(n, '1.0')\n"
    "from gi.repository import Gst, GstApp, GstVideo\n"
)


class CsiOptions(Config):
    width: int = Field(default=1280, ge=16, le=8192)
    """Pixels, of a mode that the sensor has."""
    height: int = Field(default=720, ge=16, le=8192)
    """The same."""
    fps: int = Field(default=30, ge=1, le=240)
    """Of that mode."""


def csi_pipeline(sensor: int, options: CsiOptions) -> str:
    """NVIDIA's capture element, its frames moved to memory of the processor (Jetson Linux Developer Guide,
    "Accelerated GStreamer")."""
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),format=NV12,width={options.width},"
        f"height={options.height},framerate={options.fps}/1 ! nvvidconv"
    )


@functools.cache
def python_with_gstreamer() -> str:
    """Raises :class:`SourceError` where no Python of this machine has GStreamer's bindings."""
    for python in _PYTHONS:
        try:
            done = subprocess.run([python, "-c", _HAS_IT], capture_output=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return python
    raise SourceError(
        "this machine has no GStreamer for Python",
        hint="apt-get install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base",
    )


def _open_gst(uri: str, patient: bool) -> Source:
    pipeline = unquote(uri.partition("://")[2]).strip().removesuffix("!").strip()
    if not pipeline:
        raise SourceError(
            "gst:// names no pipeline", hint="e.g. 'gst://videotestsrc is-live=true ! videoconvert'"
        )
    return _live(uri, "gst://…", f"{pipeline} ! videoconvert", patient)


def _open_csi(uri: str, patient: bool) -> Source:
    parts = urlsplit(uri)
    sensor = parts.netloc + parts.path
    if not (sensor.isascii() and sensor.isdigit() and len(sensor) < 3):
        raise SourceError(f"csi://{sensor[:20]} names no sensor", hint="csi://0 is the first one")
    return _live(
        uri,
        f"csi://{sensor}",
        csi_pipeline(int(sensor), parse_options(CsiOptions, parts.query, uri)),
        patient,
    )


def _live(uri: str, what: str, pipeline: str, patient: bool) -> LiveSource:
    def connect(stop: threading.Event) -> ChildReader:
        grabber = Grabber(f"{_PROGRAM}:grab", python_with_gstreamer(), open_s=20.0)
        return ChildReader(what, grabber, {"pipeline": pipeline}, stop=stop)

    # to start a child costs as much as a second of its work
    return LiveSource(what, Camera(connect, ceilings_s={"auth": 300.0}, ceiling_s=30.0), patient=patient)


GST = SourceType(
    (
        (
            "gst://v4l2src device=/dev/video0 ! jpegdec",
            "a pipeline of GStreamer, as for `gst-launch-1.0`, without its sink; it runs in a process of its own",
        ),
    ),
    video=_open_gst,
)
CSI = SourceType(
    (("csi://0?width=1280&height=720&fps=30", "the ribbon camera of a Jetson, through `nvarguscamerasrc`"),),
    video=_open_csi,
    options=(("a ribbon camera", CsiOptions),),
)
