"""A live page with streams that a test feeds by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgectl.core.wire import Frames, StreamStats
from edgectl.pipelines.host.config import load_config, parse_config
from edgectl.pipelines.host.live import shape_editor
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.view.live_view import LiveView

__all__ = ["CONFIG", "FedPage", "event", "fed_page"]

CONFIG = """\
# the yard behind the gate
zones:
  yard: {polygon: [0.1, 0.4, 0.6, 0.4, 0.6, 0.9, 0.1, 0.9], classes: [person]}  # people only
rules:
  - {id: gate-in, line: [0.8, 1.0, 0.8, 0.0]}
  - {id: lurk, loiter: {zone: yard, seconds: 20}}
"""


class FedPage:
    """``gate`` (and more) with pictures, ``door`` with sound alone."""

    def __init__(self, view: LiveView, file: Path, streams: tuple[str, ...]) -> None:
        self.view = view
        self.file = file
        self.url = view.url.rstrip("/")
        file.write_text(CONFIG)
        editor = shape_editor("surveillance", load_config("surveillance", file), file)
        self.taps: dict[str, Sink] = {}
        for name in streams:
            [self.taps[name]] = view.add(
                name,
                "surveillance",
                "rtsp://me:secret@cam7/sub",
                pictures=True,
                editor=editor
                if name == "gate"
                else shape_editor("surveillance", parse_config("surveillance", None)),
            )
        assert view.add("door", "speech", "mic://default", pictures=False) == ()
        self.seq = 0

    def frame(
        self, stream: str = "gate", *records: dict[str, Any], size: tuple[int, int] = (640, 360)
    ) -> int:
        """Show one frame, grey as its number; returns that."""
        self.seq += 1
        now = time.monotonic_ns()
        stamp = Stamp(self.seq, now, now, wall_offset_ns=time.time_ns() - now)
        image = np.full((size[1], size[0], 3), self.seq % 250, np.uint8)
        for record in records:
            self.view.heard(record)
        self.taps[stream].write(StreamOutput(records, ShownFrame(Frame.of_bgr(image, stamp))))
        return self.seq

    def stats(self, stream: str = "gate", **more: Any) -> None:
        frames = Frames(captured=12, processed=9, dropped={"superseded": 3})
        self.view.update(stream, StreamStats(kind="surveillance", frames=frames, fps=9.5, **more))


def event(id_: str, stream: str = "gate", **more: Any) -> dict[str, Any]:
    about = {
        "schema": "edgectl.event/1",
        "type": "zone",
        "seq": 1,
        "t_s": 5.0,
        "time": 1.7e9,
        "clock": "rtcp",
    }
    return {**about, "id": id_, "stream": stream, "phase": "enter", "rule": "yard", "track": 4, **more}


@contextmanager
def fed_page(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    streams: tuple[str, ...] = ("gate",),
    **more: Any,
) -> Iterator[FedPage]:
    with LiveView(host, 0, token=token, **{"fps": 1000.0, **more}) as view:
        yield FedPage(view, folder / "gate.yaml", streams)
