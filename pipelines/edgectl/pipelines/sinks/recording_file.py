"""One file of a recording: groups of pictures as they came, in an MP4 that begins at 0."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import av
import av.error

from edgectl.core.errors import StorageError
from edgectl.core.files import storage
from edgectl.pipelines.sinks.encode import FRAGMENTED, written_by_python
from edgectl.pipelines.sources.media.ring import Cut, PictureGroup

__all__ = ["RecordingFile"]


class RecordingFile:
    """It grows by :meth:`add`. Methods raise :class:`StorageError`."""

    def __init__(self, path: Path, first: PictureGroup) -> None:
        """``first``: the group of pictures that it will begin with."""
        self.path = path
        self.begun = first.begun
        self.start_s = self.end_s = first.cut.start_s
        """Of the container."""
        self.frames = 0
        self.bytes = 0
        """Of pictures, written so far."""
        self._held = contextlib.ExitStack()
        with self._wrapped(), av.open(io.BytesIO(first.cut.data)) as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._container = self._held.enter_context(written_by_python(path, "mp4", FRAGMENTED))
            self._stream = self._container.add_stream_from_template(source.streams.video[0])

    def add(self, cut: Cut) -> None:
        with self._wrapped(), av.open(io.BytesIO(cut.data)) as source:
            moved: float | None = None
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                if moved is None:
                    # a muxer may have moved all times
                    moved = cut.key_s - self.start_s - float(packet.pts * packet.time_base)
                shift = round(moved / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, self._stream
                self.frames += 1
                self.bytes += packet.size
                self._container.mux(packet)
        self.end_s = max(self.end_s, cut.end_s)

    def close(self) -> None:
        """Complete it; twice does no harm."""
        with self._wrapped():
            self._held.close()

    @contextlib.contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            with storage(str(self.path)):
                yield
        except av.error.FFmpegError as e:  # those that are no OSError
            raise StorageError(f"cannot write {self.path}: {e}", hint="check the disk") from e
