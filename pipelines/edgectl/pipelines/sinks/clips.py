"""Clips of events, with seconds before and after, cut from the source's own packets: nothing is encoded anew, and a clip
begins with the key frame before the time that was asked for, because nothing else can be decoded.

With privacy the packets are decoded and each picture is encoded anew, without what must not be seen. That takes a while of
the sink's thread, which then runs behind the others of the machine.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.clip_file import ClipBounds, copied, encoded
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sources.media.ring import Cut, PacketRing
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.video.hidden_log import HiddenLog

__all__ = ["SINK", "ClipSink", "ClipsConfig"]

_MAX_OPEN = 64
"""Clips that wait for their end."""
_NICE = 10
_HURRIED_S = 1.0
"""So long clips are encoded yet when the stream is to stop; they end where they have come to."""
_PATIENCE_S = 60.0
"""How long after its end a clip waits for the group of pictures that holds it to be complete."""


class ClipsConfig(SinkOptions):
    hides: ClassVar[bool] = True

    on: tuple[str, ...] = Field(min_length=1)
    """Ids of rules and zones."""
    before_s: float = Field(default=5.0, ge=0, le=60)
    """What the clip shows of the time before the event, at least."""
    after_s: float = Field(default=5.0, ge=0, le=300)
    """And after it. Another event in this time makes the clip longer."""
    max_s: float = Field(default=120.0, gt=0, le=600)
    """A clip is not made longer than that."""
    limit: int = Field(default=200, ge=1, le=100_000)
    """At most this many files; the oldest goes first."""
    max_width: int = Field(default=1920, ge=64, le=4096)
    """With privacy, a wider clip is made smaller. Without, it is as the camera sent it."""

    def event_names(self) -> tuple[str, ...]:
        return self.on

    def packet_seconds(self) -> float:
        return self.before_s + self.max_s + _PATIENCE_S


@dataclass
class _Clip:
    name: str
    events: list[str]
    first_s: float
    """Capture time of its first event."""
    until_s: float
    """An event up to this capture time is a part of it."""
    start_s: float
    end_s: float
    """Of the container."""
    begun: int
    """The how-manieth beginning of the source it belongs to."""
    seq: int
    """Of the frame of its first event."""


class ClipSink(Sink):
    """Writes ``out/clips/<event id>.mp4``, named in the event as ``clip``. When it is written, an event ``clip`` says its exact
    bounds."""

    name = "clips"
    pictures = True

    def __init__(
        self,
        out: Path,
        config: ClipsConfig,
        files: OutFiles,
        ring: PacketRing,
        say: Callable[[Callable[[float], Event]], None],
        hidden: HiddenLog | None = None,
    ) -> None:
        """``hidden``: what must not be seen; None: everything may."""
        self._out = out
        self._config = config
        self._ring = ring
        self._say = say
        self._hidden = hidden
        self._frames = 0
        """Decoded so far."""
        self._nice = False
        self._hurried_at: float | None = None
        self._heard: deque[Record] = deque(maxlen=_MAX_OPEN)
        """Events whose place in the container is not known yet."""
        self._open: deque[_Clip] = deque()
        self._files = files
        self._running: tuple[str, float, float, int] | None = None
        """Name, start and end (s of capture time) and beginning of the source of the clip that an event may still become a
        part of. Of the stream's thread."""
        self._begun: dict[str, int] = {}
        """Name → beginning of the source, of clips that :meth:`write` has not heard of yet."""

    def file_of(self, record: Record) -> dict[str, str]:
        if record.get("rule") not in self._config.on:
            return {}
        t, begun, running = float(record["t_s"]), self._ring.begun, self._running
        if running is not None and running[1] <= t <= running[2] and running[3] == begun:
            name, start = running[0], running[1]
        else:
            name, start = f"clips/{record['id']}.mp4", t
            self._begun[name] = begun
            # of events that the sink had no room for
            for lost in list(self._begun)[:-_MAX_OPEN]:
                self._begun.pop(lost, None)
        self._running = (name, start, self._end_s(t, start), begun)
        return {"clip": name}

    def write(self, output: StreamOutput) -> None:
        stamp = output.stamp
        self._heard += (r for r in output.records if "clip" in r and r.get("rule") in self._config.on)
        if stamp is not None and stamp.pts_s is not None:
            # capture time to the container's; of an RTSP source it is not known yet in the first frame
            ahead_s = stamp.pts_s - stamp.t_s
            while self._heard:
                self._ask(self._heard.popleft(), ahead_s)
        while self._open and (len(self._open) > _MAX_OPEN or self._is_complete(self._open[0], stamp)):
            self._tell(self._open.popleft())

    def _is_complete(self, clip: _Clip, stamp: Stamp | None) -> bool:
        """Whether every event of it was heard and every packet is there. ``stamp``: of a frame behind those that were heard;
        None: something else was told."""
        over = self._ring.is_over(clip.begun)
        if stamp is None or stamp.pts_s is None:
            # what becomes of a source is told behind its last frame: it may not come back
            return over
        newest = self._ring.newest_s(clip.begun)
        if stamp.t_s >= clip.until_s and (over or (newest is not None and newest >= clip.end_s)):
            return True
        # the source began anew, or a group of pictures has no end
        return stamp.pts_s < clip.start_s - 1 or stamp.pts_s > clip.end_s + _PATIENCE_S

    def progress(self) -> int:
        return self._frames

    def trouble(self) -> str | None:
        return None if self._ring.trouble is None else f"no clips can be cut: {self._ring.trouble}"

    def finish(self) -> Sequence[Callable[[float], Event]]:
        while self._heard:
            # of a source without times
            self._ask(self._heard.popleft(), 0.0)
        ended = []
        while self._open:
            ended.append(self._written(self._open.popleft()))
        return ended

    def _ask(self, record: Record, ahead_s: float) -> None:
        """``ahead_s``: what the container's time is ahead of capture time."""
        config, name, t_s = self._config, record["clip"], float(record["t_s"])
        clip = next((clip for clip in self._open if clip.name == name), None)
        if clip is None:
            at_s = t_s + ahead_s
            begun = self._begun.pop(name, self._ring.begun)
            clip = _Clip(name, [], t_s, t_s, at_s - config.before_s, at_s, begun, record["seq"])
            self._open.append(clip)
        clip.events.append(record["id"])
        more_s = self._end_s(t_s, clip.first_s) - clip.until_s
        clip.until_s, clip.end_s = clip.until_s + more_s, clip.end_s + more_s

    def _end_s(self, t_s: float, first_s: float) -> float:
        """Where a clip ends that has an event at ``t_s`` and its first one at ``first_s``."""
        return min(t_s + self._config.after_s, first_s + self._config.max_s)

    def _tell(self, clip: _Clip) -> None:
        self._say(self._written(clip))

    def _written(self, clip: _Clip) -> Callable[[float], Event]:
        """Write it, and what is to be said of it."""
        data: dict[str, Any] = {"clip": clip.name, "events": clip.events, "written": False}
        cut = self._ring.cut(clip.start_s, clip.end_s, clip.begun)
        path = self._out / clip.name
        bounds = None if cut is None else self._write(path, cut, clip)
        if bounds is not None:
            self._files.wrote(path)
            self._files.keep(self._config.limit, "clips")
            data |= {
                "written": True,
                "start_pts_s": round(bounds.start_s, 3),
                "end_pts_s": round(bounds.end_s, 3),
                "before_s": round(clip.start_s + self._config.before_s - bounds.start_s, 3),
                "seconds": round(bounds.end_s - bounds.start_s, 3),
                "frames": bounds.frames,
            }
        return lambda t_s: Event("clip", t_s, None, None, data)

    def _write(self, path: Path, cut: Cut, clip: _Clip) -> ClipBounds | None:
        hidden = self._hidden
        if hidden is None:
            return copied(path, cut)
        if not self._nice:
            # for this thread alone (setpriority(2)): the frames of the streams come first
            self._nice = True
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        return encoded(
            path,
            cut,
            lambda at_s: hidden.at(at_s, clip.seq),
            start_s=clip.start_s,
            end_s=clip.end_s,
            max_width=self._config.max_width,
            go_on=self._goes_on,
        )

    def _goes_on(self) -> bool:
        """One picture more is decoded."""
        self._frames += 1
        if not self.hurried:
            return True
        self._hurried_at = self._hurried_at or time.monotonic()
        return time.monotonic() - self._hurried_at < _HURRIED_S


def _open(options: ClipsConfig, context: SinkContext) -> ClipSink | None:
    if context.out is None or context.files is None or context.packets is None or context.say is None:
        return None
    return ClipSink(context.out, options, context.files, context.packets, context.say, context.hidden)


SINK = SinkType(
    _open,
    "a clip for events of chosen rules and zones, with seconds before and after, as the camera sent it, or encoded anew "
    "without what `privacy` hides: "
    "`clips/<event id>.mp4`; an event `clip` says its bounds",
    ClipsConfig,
    files=True,
    pictures=True,
)
