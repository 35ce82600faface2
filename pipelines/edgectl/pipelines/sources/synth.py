"""Synthetic scenes and sounds with known ground truth: as a camera or microphone (``paced=1``, the default) or as a
film or recording that waits (``paced=0``)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from edgectl.core.errors import SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.audio.blocks import BLOCK, RATE
from edgectl.pipelines.audio.channels import Mixed
from edgectl.pipelines.sources.base import EndOfStream, Source, SourceInfo, SourceType, parse_options
from edgectl.pipelines.sources.media.pace import Pacer
from edgectl.pipelines.sources.media.recording import PieceSource
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp
from edgectl.pipelines.synth import Scene, open_scene
from edgectl.pipelines.synth.kiosk import KioskScene

__all__ = ["SOURCE", "SynthSource"]


class SynthOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Another one is another scene."""
    fps: float | None = Field(default=None, gt=0, le=240)
    """None: the scene's own, as with the size."""
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    """It ends after so many; None: never."""
    paced: bool = True
    """False: it waits for its reader."""
    width: int | None = Field(default=None, ge=64, le=4096)
    """Pixels."""
    height: int | None = Field(default=None, ge=64, le=4096)
    """Pixels."""
    markings: Literal["lanes", "none", "left", "right"] | None = None
    """Of ``road``: which lines are painted."""
    clutter: bool | None = None
    """Of ``road``: seams, kerbs, rails and shadows, too."""


class KioskOptions(Config):
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Another one is another scene."""
    seconds: float | None = Field(default=None, gt=0, le=1e9)
    """It ends after so many; None: never."""
    paced: bool = True
    """False: it waits for its reader."""


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


class KioskSource(PieceSource):
    def __init__(self, uri: str, options: KioskOptions) -> None:
        self.scene = KioskScene(seed=options.seed)
        limit = None if options.seconds is None else round(options.seconds * RATE)
        super().__init__(uri, self._render(limit), paced=options.paced, seconds=options.seconds)

    def _render(self, limit: int | None) -> Iterator[Mixed]:
        at = 0
        while limit is None or at < limit:
            n = BLOCK if limit is None else min(BLOCK, limit - at)
            yield Mixed(self.scene.render(at, n), None, 0, 0)
            at += n


def _open_video(uri: str, patient: bool) -> Source:
    parts = urlsplit(uri)
    return SynthSource(uri, parts.netloc, parse_options(SynthOptions, parts.query, uri))


def _open_sound(uri: str, patient: bool) -> KioskSource:
    parts = urlsplit(uri)
    if parts.netloc != "kiosk":
        raise SourceError(f"there is no synthetic sound {parts.netloc!r}", hint="synth://kiosk is one")
    return KioskSource(uri, parse_options(KioskOptions, parts.query, uri))


SOURCE = SourceType(
    (
        ("synth://yard?seed=1&fps=15&seconds=20&paced=0", "people and vehicles with known ground truth"),
        ("synth://road?markings=left&clutter=1", "a dash camera"),
        ("synth://kiosk?seed=1", "spoken words with known times, for speech pipelines"),
    ),
    video=_open_video,
    sound=_open_sound,
    options=(("yard and road", SynthOptions), ("kiosk", KioskOptions)),
)
