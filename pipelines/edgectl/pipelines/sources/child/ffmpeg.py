"""A grabber of what FFmpeg reads without a way to be interrupted: Video4Linux, which waits in the kernel."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.sources.child.grabber import FrameOut
from edgectl.pipelines.sources.media.picture import Picture
from edgectl.pipelines.sources.media.reader import VideoReader, reason_of

__all__ = ["grab"]


def grab(argument: dict[str, Any], out: FrameOut) -> None:
    """``argument``: ``url``, ``what`` (its name in messages), ``format`` of FFmpeg or None, ``options``."""
    try:
        reader = VideoReader(
            argument["url"],
            argument["what"],
            format=argument["format"],
            options=argument["options"],
            low_delay=True,
        )
        out.opened(reader.width, reader.height, reader.fps)
        for picture in reader.frames():
            counted = {"errors": reader.errors, "corrupt": reader.corrupt}
            if picture is None:
                out.alive(counted)
            elif not _hand_over(picture, counted | {"deinterlaced": reader.deinterlaced}, out):
                return
    except (DataError, SourceError) as e:
        out.failed(reason_of(e.__cause__ or e), e.message)


def _hand_over(picture: Picture, counted: dict[str, Any], out: FrameOut) -> bool:
    planes = [p.reshape(p.shape[0], -1) for p in picture.planes]

    def fill(view: memoryview) -> None:
        at, target = 0, np.frombuffer(view, np.uint8)
        for plane in planes:
            target[at : at + plane.size].reshape(plane.shape)[:] = plane
            at += plane.size

    facts = {
        "fmt": picture.fmt,
        "colour": [picture.colour.matrix, picture.colour.full],
        "pts_ns": picture.pts_ns,
        "tilted": picture.tilted,
    }
    return out.frame([(p.shape[0], p.shape[1]) for p in planes], fill, facts | counted)
