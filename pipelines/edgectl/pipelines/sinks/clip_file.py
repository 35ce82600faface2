"""A clip as a plain MP4 that begins at 0: the source's own packets, or its pictures encoded anew where something in them must
not be seen."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error

from edgectl.core.errors import DataError, SourceError, StorageError
from edgectl.core.files import storage
from edgectl.pipelines.sinks.encode import add_encoder, encoded_size, fitted, written_by_python
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.ring import Cut
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import Hidden, ShownFrame

__all__ = ["ClipBounds", "copied", "encoded"]

_TIME_BASE = Fraction(1, 90_000)
_ROUNDED_S = 0.001


@dataclass(frozen=True, slots=True)
class ClipBounds:
    """What is in a clip, in seconds of the source's container."""

    start_s: float
    end_s: float
    frames: int


def copied(path: Path, cut: Cut) -> ClipBounds:
    """Write ``cut`` as it came. Raises :class:`StorageError`."""
    first: int | None = None
    frames, last_s = 0, cut.start_s
    with _appearing(path) as target, av.open(io.BytesIO(cut.data)) as source:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None or packet.pts is None or packet.time_base is None:
                continue
            first = packet.pts if first is None else first
            packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, stream
            # a muxer may have moved all times
            at_s = cut.key_s + float(packet.pts * packet.time_base)
            frames += 1
            last_s = max(last_s, at_s + float((packet.duration or 0) * packet.time_base))
            target.mux(packet)
    return ClipBounds(cut.start_s, last_s, frames)


def encoded(
    path: Path,
    cut: Cut,
    hidden: Callable[[float], Hidden | None],
    *,
    start_s: float,
    end_s: float,
    max_width: int,
    go_on: Callable[[], bool],
) -> ClipBounds | None:
    """Write the pictures of ``cut`` between two times, each without what ``hidden`` says of its time (None: nothing of it may be
    seen). Returns None where there were no pictures.

    ``go_on`` is asked after each picture that was decoded, also before the first that is shown: the clip ends where it says
    no. Raises :class:`StorageError`.
    """
    reader, moved_s = _opened(cut)
    fps = reader.fps or 25.0
    with contextlib.closing(reader):
        pictures = _shown(reader, moved_s, hidden, start_s, end_s, go_on)
        first = next(pictures, None)
        if first is None:
            return None
        size = encoded_size(first[1].width, first[1].height, max_width)
        frames, began_s, at_s, last_pts = 0, first[0], first[0], -1
        with _appearing(path) as target:
            stream = add_encoder(target, size, fps, _TIME_BASE)
            if stream is None:
                raise StorageError("this FFmpeg has no MP4 video encoder", hint="leave clips out, or privacy")
            while first is not None:
                at_s, shown = first
                picture = av.VideoFrame.from_ndarray(fitted(shown.bgr(), size), format="bgr24")
                last_pts = max(round((at_s - began_s) * 90_000), last_pts + 1)
                picture.pts, picture.time_base = last_pts, _TIME_BASE
                target.mux(stream.encode(picture))
                frames += 1
                first = next(pictures, None)
            target.mux(stream.encode(None))
    return ClipBounds(began_s, at_s + 1 / fps, frames)


def _opened(cut: Cut) -> tuple[VideoReader, float]:
    """A reader, and what must be added to its times (s) to have those of the source."""
    with av.open(io.BytesIO(cut.data)) as source:
        packet = next(source.demux(source.streams.video[0]))
        assert packet.pts is not None
        assert packet.time_base is not None
        moved_s = cut.key_s - float(packet.pts * packet.time_base)
    return VideoReader("clip", "the clip", format="mp4", opener=lambda *_: io.BytesIO(cut.data)), moved_s


def _shown(
    reader: VideoReader,
    moved_s: float,
    hidden: Callable[[float], Hidden | None],
    start_s: float,
    end_s: float,
    go_on: Callable[[], bool],
) -> Iterator[tuple[float, ShownFrame]]:
    """Time and picture, one by one."""
    try:
        for picture in reader.frames():
            if picture is None or picture.pts_ns is None:
                continue
            at_s = picture.pts_ns / 1e9 + moved_s
            if at_s < start_s - _ROUNDED_S:
                if not go_on():
                    return
                continue
            if at_s >= end_s - _ROUNDED_S:
                return
            size = picture.width, picture.height
            # where nobody knows, nothing is shown
            what = hidden(at_s) or Hidden(size, masks=((0, 0, 1, 0, 1, 1, 0, 1),))
            frame = Frame(
                Stamp(0, round(at_s * 1e9), 0),
                picture.width,
                picture.height,
                picture.fmt,
                picture.planes,
                colour=picture.colour,
            )
            yield at_s, ShownFrame(frame, what)
            if not go_on():
                return
    except (DataError, SourceError):
        # damaged to its end: what came before is whole
        return


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[av.container.OutputContainer]:
    """An MP4 that has its name once it is whole."""
    hidden = path.with_name(f".{path.name}.part")
    try:
        with storage(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_by_python(hidden, "mp4", {"movflags": "faststart"}) as target:
                yield target
            hidden.replace(path)
    except av.error.FFmpegError as e:
        raise StorageError(f"cannot write {path}: {e}", hint="check the disk") from e
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
