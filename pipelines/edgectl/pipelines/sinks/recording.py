"""The recording: all that the camera sent, without decoding or encoding, in one file after the other.

A file begins with a key frame and grows by whole groups of pictures, in fragments of a second: what is written plays at
any time, also after a kill.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgectl.core.errors import StorageError
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sinks.recording_file import RecordingFile
from edgectl.pipelines.sources.media.ring import PacketRing, PictureGroup
from edgectl.pipelines.stream.events import Event

__all__ = ["SINK", "RecordingConfig", "RecordingSink"]

_FOLDER = "recording"
_KEPT_S = 30.0
"""So long a disk may take for a write before something is missing."""
_SWEEP_S = 30.0
_AROUND_S = 5.0
"""What was seen so shortly before or after a file keeps it, too."""
_MOST_SEEN = 4096


class RecordingConfig(SinkOptions):
    file_s: float = Field(default=600.0, ge=1, le=86_400)
    """How long a file is. The first ends where a multiple of it is reached, so that files begin at full hours."""
    keep: Literal["all", "tracks", "events"] = "all"
    """Which files stay: ``tracks``: those in which somebody was seen; ``events``: those in which a rule or zone said
    something."""
    days: float | None = Field(default=None, gt=0, le=36_500)
    """Recordings older than this go. What ``retention`` says holds for them, too."""
    mib: int | None = Field(default=None, ge=1)
    """So much of recordings stays; the oldest go first."""
    free_mib: int = Field(default=1024, ge=0)
    """The oldest recordings go while the disk has less room than that."""

    def packet_seconds(self) -> float:
        return _KEPT_S


class RecordingSink(Sink):
    """Writes ``out/recording/<UTC>.mp4``. An event ``recording`` tells of each file when it is complete."""

    name = "recording"
    pictures = True
    beat_s = 0.5

    def __init__(
        self,
        out: Path,
        config: RecordingConfig,
        files: OutFiles,
        ring: PacketRing,
        say: Callable[[Callable[[float], Event]], None],
        *,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._out = out
        self._config = config
        self._files = files
        self._ring = ring
        self._say = say
        self._free_bytes = free_bytes
        self._wall_s = wall_s
        self._taken = 0
        """Number of the last group that was written."""
        self._lost = 0
        """Groups that went before they were written."""
        self._file: RecordingFile | None = None
        self._begun = 0
        """Beginning of the source that the file belongs to."""
        self._wall_offset_s: float | None = None
        """From the container's time to UTC."""
        self._is_live = True
        self._ended: deque[tuple[RecordingFile, int]] = deque()
        """Files that are complete, and what was lost in each, until it is known whether they stay."""
        self._looked_s = float("-inf")
        """Container's time of the last picture that was looked at."""
        self._seen_s: deque[float] = deque(maxlen=_MOST_SEEN)
        """When there was what keeps a file; about one a second."""
        self._swept_s = float("-inf")

    def write(self, output: StreamOutput) -> None:
        stamp = output.stamp
        if stamp is not None and stamp.pts_s is not None:
            self._is_live = stamp.wall_offset_ns is not None
            if stamp.wall_offset_ns is not None:
                self._wall_offset_s = (stamp.t_ns + stamp.wall_offset_ns) / 1e9 - stamp.pts_s
            self._look(stamp.pts_s, output)
        self._take()

    def beat(self) -> None:
        self._take()

    def trouble(self) -> str | None:
        return None if self._ring.trouble is None else f"nothing is recorded: {self._ring.trouble}"

    def finish(self) -> Sequence[Callable[[float], Event]]:
        self._take()
        self._end()
        return self._decided(all_of_them=True)

    def close(self) -> None:
        self._take()
        self._end()
        self._decided(all_of_them=True)

    def _look(self, pts_s: float, output: StreamOutput) -> None:
        if pts_s < self._looked_s:
            self._seen_s.clear()
        self._looked_s = pts_s
        tracks = output.tracks is not None and len(output.tracks) > 0
        seen = any(r.get("rule") for r in output.records) if self._config.keep == "events" else tracks
        if seen and (not self._seen_s or pts_s - self._seen_s[-1] >= 1):
            self._seen_s.append(pts_s)

    def _take(self) -> None:
        """Write what is new, and see to the room."""
        for group in self._ring.since(self._taken):
            if self._file is not None and (group.begun != self._begun or self._is_full(group)):
                self._end()
            self._lost += group.number - self._taken - 1
            self._taken = group.number
            self._add(group)
        for told in self._decided():
            self._say(told)
        if time.monotonic() - self._swept_s >= _SWEEP_S:
            self._swept_s = time.monotonic()
            self._make_room()

    def _add(self, group: PictureGroup) -> None:
        try:
            if self._file is None:
                self._begun = group.begun
                path = self._out / _FOLDER / f"{self._named(group.cut.start_s)}.mp4"
                self._files.wrote(path, still=True)
                self._file = RecordingFile(path, group)
            self._file.add(group.cut)
        except StorageError as e:
            # on a full disk; the next group begins another file
            self._lost += 1
            with contextlib.suppress(StorageError):
                self._end()
            self._make_room()
            e.retryable = True
            raise

    def _is_full(self, group: PictureGroup) -> bool:
        """Whether a multiple of the length lies between the file's beginning and the group's."""
        assert self._file is not None
        length = self._config.file_s
        begin, now = (self._clock_s(s) for s in (self._file.start_s, group.cut.start_s))
        return now // length > begin // length

    def _clock_s(self, container_s: float) -> float:
        """UTC, or the time in a recorded file."""
        if not self._is_live:
            return container_s
        if self._wall_offset_s is None:
            newest = self._ring.newest_s(self._ring.begun)
            # nobody has looked at a picture yet
            self._wall_offset_s = self._wall_s() - (container_s if newest is None else newest)
        return container_s + self._wall_offset_s

    def _named(self, container_s: float) -> str:
        clock_s = self._clock_s(container_s)
        if not self._is_live:
            return f"{max(0.0, clock_s):010.3f}"
        return time.strftime("%Y%m%dT%H%M%S", time.gmtime(clock_s)) + f"{int(clock_s % 1 * 1000):03d}Z"

    def _end(self) -> None:
        """Complete the file."""
        file, self._file = self._file, None
        if file is not None:
            self._ended.append((file, self._lost))
            self._lost = 0
            file.close()

    def _decided(self, *, all_of_them: bool = False) -> list[Callable[[float], Event]]:
        """What is to be said of complete files, once it is known whether they stay. Where nobody has looked they do."""
        told = []
        while self._ended:
            file, lost = self._ended[0]
            looked = self._looked_s >= file.end_s + _AROUND_S
            if not (looked or all_of_them or self._config.keep == "all" or file.begun != self._begun):
                break
            self._ended.popleft()
            unseen = self._looked_s >= file.end_s - _AROUND_S and not any(
                file.start_s - _AROUND_S <= t <= file.end_s + _AROUND_S for t in self._seen_s
            )
            told.append(self._said(file, lost, kept=self._config.keep == "all" or not unseen))
        return told

    def _said(self, file: RecordingFile, lost: int, *, kept: bool) -> Callable[[float], Event]:
        self._files.wrote(file.path)
        if not kept:
            self._files.remove(file.path)
        data: dict[str, Any] = {
            "recording": file.path.relative_to(self._out).as_posix(),
            "kept": kept,
            "start_pts_s": round(file.start_s, 3),
            "seconds": round(file.end_s - file.start_s, 3),
            "frames": file.frames,
            "bytes": file.bytes,
            "lost_groups": lost,
        }
        return lambda t_s: Event("recording", t_s, None, None, data)

    def _make_room(self) -> None:
        c = self._config
        max_bytes = None if c.mib is None else c.mib << 20
        self._files.sweep(self._wall_s(), days=c.days, max_bytes=max_bytes, within=_FOLDER)
        missing = (c.free_mib << 20) - self._free_bytes(self._out)
        if missing > 0:
            self._files.free(missing, within=_FOLDER)


def _open(options: RecordingConfig, context: SinkContext) -> RecordingSink | None:
    if context.out is None or context.files is None or context.packets is None or context.say is None:
        return None
    return RecordingSink(context.out, options, context.files, context.packets, context.say)


SINK = SinkType(
    _open,
    "all that the camera sent, day and night, without encoding it anew: `recording/<UTC>.mp4`; an event `recording` tells of "
    "each file",
    RecordingConfig,
    files=True,
    pictures=True,
)
