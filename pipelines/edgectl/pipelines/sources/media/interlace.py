"""Whole pictures out of interlaced ones: each frame of those shows two moments, one in its even rows and one in its
odd rows, so whatever moves is torn into combs."""

from __future__ import annotations

from collections import deque
from typing import Any

import av.filter

__all__ = ["Deinterlacer"]


class Deinterlacer:
    """FFmpeg's ``bwdif`` (BBC R&D, "w3fdif" and "yadif" in one): one picture for each that goes in.

    It looks at the next picture, too, so each comes one period later. What is not flagged as interlaced passes as it
    is.
    """

    def __init__(self) -> None:
        self._graph: Any = None
        self._form: tuple[Any, ...] | None = None
        self._times: deque[tuple[int | None, Any]] = deque()

    def feed(self, frame: Any, pts: int | None) -> list[tuple[Any, int | None, Any]]:
        """An ``av.VideoFrame`` and its time → frames, each with its own time and the base of that."""
        form = (frame.format.name, frame.width, frame.height, frame.time_base)
        done = []
        if form != self._form:
            done = self.rest()
            self._open(frame, form)
        self._times.append((pts, frame.time_base))
        self._graph.push(frame)
        return done + self._pulled()

    def rest(self) -> list[tuple[Any, int | None, Any]]:
        """What is held back, at the end or at a change of size."""
        if self._graph is None:
            return []
        self._graph.push(None)
        done = self._pulled()
        self._graph = self._form = None
        self._times.clear()
        return done

    def _open(self, frame: Any, form: tuple[Any, ...]) -> None:
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
        )
        bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        graph.configure()
        self._graph, self._form = graph, form

    def _pulled(self) -> list[tuple[Any, int | None, Any]]:
        done = []
        while self._times:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
            done.append((frame, *self._times.popleft()))
        return done
