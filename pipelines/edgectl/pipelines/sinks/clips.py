"""Clips of events, with seconds before and after, cut from the source's own packets: nothing is encoded anew.

A clip begins with the key frame before the time that was asked for, because nothing else can be decoded.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import av.error
from pydantic import Field

from edgectl.core.errors import StorageError
from edgectl.core.files import storage
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.encode import written_by_python
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sources.media.ring import Cut, PacketRing
from edgectl.pipelines.stream.events import Event

__all__ = ["SINK", "ClipSink", "ClipsConfig"]

_MAX_OPEN = 64
"""Clips that wait for their end."""
_PATIENCE_S = 60.0
"""How long after its end a clip waits for the group of pictures that holds it to be complete."""


class ClipsConfig(SinkOptions):
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

    def event_names(self) -> tuple[str, ...]:
        return self.on

    def packet_seconds(self) -> float:
        return self.before_s + self.max_s + _PATIENCE_S


@dataclass
class _Clip:
    name: str
    events: list[str]
    start_s: float
    end_s: float
    """Of the container."""


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
    ) -> None:
        self._out = out
        self._config = config
        self._ring = ring
        self._say = say
        self._open: deque[_Clip] = deque()
        self._files = files
        self._running: tuple[str, float, float] | None = None
        """Name, start and end (s of capture time) of the clip that an event may still become a part of. Of the stream's
        thread."""

    def file_of(self, record: Record) -> dict[str, str]:
        if record.get("rule") not in self._config.on:
            return {}
        t, running = float(record["t_s"]), self._running
        if running is not None and running[1] <= t <= running[2]:
            name, start = running[0], running[1]
        else:
            name, start = f"clips/{record['id']}.mp4", t
        self._running = (name, start, min(t + self._config.after_s, start + self._config.max_s))
        return {"clip": name}

    def write(self, output: StreamOutput) -> None:
        stamp = output.frame.stamp if output.frame is not None else None
        for record in output.records:
            if (name := record.get("clip")) and stamp is not None and stamp.pts_s is not None:
                # capture time to the container's
                self._ask(name, record["id"], float(record["t_s"]) - stamp.t_s + stamp.pts_s)
        newest = self._ring.newest_s()
        while (
            self._open
            and newest is not None
            and (newest >= self._open[0].end_s or len(self._open) > _MAX_OPEN)
        ):
            self._finish(self._open.popleft())
        if self._open and stamp is not None and stamp.pts_s is not None:
            clip = self._open[0]
            # the source began anew, or a group of pictures has no end
            if stamp.pts_s < clip.start_s - 1 or stamp.pts_s > clip.end_s + _PATIENCE_S:
                self._finish(self._open.popleft())

    def trouble(self) -> str | None:
        return None if self._ring.trouble is None else f"no clips can be cut: {self._ring.trouble}"

    def close(self) -> None:
        while self._open:
            self._finish(self._open.popleft())

    def _ask(self, name: str, event: str, at_s: float) -> None:
        for clip in self._open:
            if clip.name == name:
                clip.events.append(event)
                clip.end_s = max(clip.end_s, at_s + self._config.after_s)
                return
        config = self._config
        self._open.append(_Clip(name, [event], at_s - config.before_s, at_s + config.after_s))

    def _finish(self, clip: _Clip) -> None:
        cut = self._ring.cut(clip.start_s, clip.end_s)
        data = {"clip": clip.name, "events": clip.events, "written": False}
        if cut is not None:
            path = self._out / clip.name
            start_s, end_s, frames = _write(path, cut)
            self._files.wrote(path)
            self._files.keep(self._config.limit, "clips")
            data |= {
                "written": True,
                "start_pts_s": round(start_s, 3),
                "end_pts_s": round(end_s, 3),
                "before_s": round(clip.start_s + self._config.before_s - start_s, 3),
                "seconds": round(end_s - start_s, 3),
                "frames": frames,
            }
        self._say(lambda t_s: Event("clip", t_s, None, None, data))


def _write(path: Path, cut: Cut) -> tuple[float, float, int]:
    """A plain MP4 that begins at 0. Returns its bounds in the source's time, and the frames in it."""
    with storage(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.part")
    first: int | None = None
    frames = 0
    last_s = cut.start_s
    try:
        with (
            storage(str(path)),
            av.open(io.BytesIO(cut.data)) as source,
            written_by_python(hidden, "mp4", {"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                first = packet.pts if first is None else first
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
                # A muxer may have moved all times; the first is the key frame at which the cut begins.
                at_s = cut.start_s + float(packet.pts * packet.time_base)
                frames += 1
                last_s = max(last_s, at_s + float((packet.duration or 0) * packet.time_base))
                target.mux(packet)
        with storage(str(path)):
            hidden.replace(path)
    except av.error.FFmpegError as e:
        raise StorageError(f"cannot write {path}: {e}", hint="check the disk") from e
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
    return cut.start_s, last_s, frames


def _open(options: ClipsConfig, context: SinkContext) -> ClipSink | None:
    if context.out is None or context.files is None or context.packets is None or context.say is None:
        return None
    return ClipSink(context.out, options, context.files, context.packets, context.say)


SINK = SinkType(
    _open,
    "a clip for events of chosen rules and zones, with seconds before and after, as the camera sent it: "
    "`clips/<event id>.mp4`; an event `clip` says its bounds",
    ClipsConfig,
    files=True,
    pictures=True,
)
