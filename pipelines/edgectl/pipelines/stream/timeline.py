"""What the threads of a process did last, frame by frame: as a Chrome trace, which Perfetto and chrome://tracing
show, a track for each thread.

Format: "Trace Event Format" (Google, 2016): complete events ``X`` with times in microseconds, metadata events
``M`` for the names.
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path
from typing import Any

__all__ = ["Timeline"]

_SPANS = 16_384
"""Kept: about a minute of one stream, some 2 MB."""


class Timeline:
    """A ring. Usable from several threads; adding costs less than a microsecond."""

    def __init__(self, spans: int = _SPANS) -> None:
        self._spans: deque[tuple[str, str, str, int, int, int]] = deque(maxlen=spans)

    def add(self, thread: str, what: str, of: str, number: int, start_ns: int, end_ns: int) -> None:
        """``thread`` was busy with ``what`` for frame ``number`` of the stream ``of`` (of an engine: how many
        frames were in the call). Times are those of CLOCK_MONOTONIC."""
        self._spans.append((thread, what, of, number, start_ns, end_ns))

    def chrome(self) -> dict[str, Any]:
        """The trace as a JSON object."""
        spans = list(self._spans)
        tracks = {thread: i + 1 for i, thread in enumerate(sorted({s[0] for s in spans}))}
        pid = os.getpid()
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "edgectl"}}
        ]
        for thread, track in tracks.items():
            events.append(
                {"ph": "M", "name": "thread_name", "pid": pid, "tid": track, "args": {"name": thread}}
            )
        for thread, what, of, number, start, end in sorted(spans, key=lambda s: s[4]):
            events.append(
                {
                    "ph": "X",
                    "name": what,
                    "cat": of,
                    "pid": pid,
                    "tid": tracks[thread],
                    "ts": start / 1000,
                    "dur": (end - start) / 1000,
                    "args": {"frames": number} if what == "engine" else {"stream": of, "frame": number},
                }
            )
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def write(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text(json.dumps(self.chrome(), separators=(",", ":")) + "\n")
