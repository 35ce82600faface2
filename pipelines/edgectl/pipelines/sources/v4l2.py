"""A local camera (Video4Linux), which is opened again whenever it fails.

Its calls wait in the kernel and cannot be interrupted, so it is read in a child (:mod:`.child`).
"""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import urlsplit

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.sources.base import Source, SourceType, parse_options
from edgectl.pipelines.sources.child.child_reader import ChildReader, Grabber
from edgectl.pipelines.sources.media.camera import Camera, LiveSource
from edgectl.pipelines.sources.media.reader import Away

__all__ = ["SOURCE"]

_GRABBER = Grabber("edgectl.pipelines.sources.child.ffmpeg:grab")


def _open(uri: str, patient: bool) -> Source:
    parts = urlsplit(uri)
    parse_options(Config, parts.query, uri)
    return LiveSource(uri, _camera(uri, Path(parts.path)), patient=patient)


def _camera(what: str, path: Path) -> Camera:
    argument = {"url": str(path), "what": what, "format": "v4l2", "options": {}}

    def look() -> None:
        if not path.exists():
            raise SourceError(
                f"cannot open {what}: there is no such device",
                hint="`v4l2-ctl --list-devices` lists the cameras of this machine",
                retryable=True,
            ) from Away("not_found")

    def connect(stop: threading.Event) -> ChildReader:
        look()
        return ChildReader(what, _GRABBER, argument, stop=stop)

    # The device's file comes and goes with the plug; to start a child costs as much as a second of its work.
    return Camera(connect, look, {"auth": 300.0, "not_found": 1.0}, ceiling_s=30.0)


SOURCE = SourceType(
    (("v4l2:///dev/video0", "a local camera, read in a process of its own: if it hangs, that is killed"),),
    video=_open,
)
