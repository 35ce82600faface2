"""A synthetic scene as a camera (``paced=1``, the default) or as a film that waits (``paced=0``)."""

from __future__ import annotations

import time

from edgectl.pipelines.sources.base import EndOfStream, SourceInfo, SynthOptions
from edgectl.pipelines.sources.media.pace import Pacer
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp
from edgectl.pipelines.synth import Scene, open_scene

__all__ = ["SynthSource"]


class SynthSource:
    """``scene`` gives the ground truth: ``scene.truth(tick)``, where the tick of a frame is ``round(pts_s
    * scene.fps)``."""

    def __init__(self, uri: str, name: str, options: SynthOptions) -> None:
        self._uri = uri
        self._options = options
        own = {
            k: v for k, v in (("markings", options.markings), ("clutter", options.clutter)) if v is not None
        }
        size = {"width": options.width, "height": options.height}
        self.scene: Scene = open_scene(name, seed=options.seed, fps=options.fps, **size, own=own)
        self._limit = None if options.seconds is None else max(1, round(options.seconds * self.scene.fps))
        self._pacer = Pacer(self.scene.fps) if options.paced else None
        self._tick = 0
        self._seq = 0
        self.decode_errors = self.corrupt_frames = 0
        self.outage: str | None = None

    def open(self) -> SourceInfo:
        s = self.scene
        return SourceInfo(self._uri, "synth", s.width, s.height, s.fps, self._options.paced, self._limit)

    def read(self, timeout_s: float) -> Frame | None:
        if self._limit is not None and self._tick >= self._limit:
            raise EndOfStream(Notice("source", "ended", False, "start"))
        if self._pacer is None:
            t_ns, tick = round(self._tick * 1e9 / self.scene.fps), self._tick
            image = self.scene.render(tick)
            stamp = Stamp(self._seq, t_ns, time.monotonic_ns(), tick / self.scene.fps, None, "synthetic")
        else:
            due_ns = self._pacer.wait(self._tick, timeout_s)
            if due_ns is None:
                return None
            tick = self._tick
            image = self.scene.render(tick)
            now = time.monotonic_ns()
            stamp = Stamp(self._seq, due_ns, now, tick / self.scene.fps, time.time_ns() - now, "synthetic")
        self._seq += 1
        self._tick = tick + 1
        # too slow to render them all: a camera would not wait either
        if self._pacer is not None:
            self._tick = max(self._tick, self._pacer.due_tick())
        speed = self.scene.truth(tick).values.get("speed_mps")
        return Frame.of_bgr(image, stamp, {} if speed is None else {"speed_mps": speed})

    def interrupt(self) -> None:
        if self._pacer is not None:
            self._pacer.interrupt()

    def close(self) -> None:
        self.interrupt()
