"""Events as lines of JSON, in a file or handed to a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from edgectl.core.files import storage
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.lines import LineFile

__all__ = ["SINK", "CallbackSink", "EventsConfig", "JsonlSink"]


class EventsConfig(SinkOptions):
    max_mib: int = Field(default=64, ge=1, le=100_000)
    """Of a camera or microphone: a file with so much becomes `events.1.jsonl`, in the place of the one before it, and
    another one begins."""


class JsonlSink(Sink):
    """One line per event; it is with the kernel when ``write`` returns. The file ``goes_on``, and is bounded then, or begins
    anew."""

    name = "events"
    path: Path

    def __init__(self, path: Path, *, goes_on: bool = False, max_bytes: int = 64 << 20) -> None:
        self.path = path
        self._max_bytes = max_bytes if goes_on else None
        self._file = LineFile(path, goes_on=goes_on)

    def write(self, output: StreamOutput) -> None:
        for record in output.records:
            if self._max_bytes is not None and self._file.size >= self._max_bytes:
                self._begin_another()
            self._file.write(json.dumps(record, separators=(",", ":")))

    def close(self) -> None:
        self._file.close()

    def _begin_another(self) -> None:
        self._file.close()
        with storage(str(self.path)):
            self.path.replace(self.path.with_suffix(".1.jsonl"))
        self._file = LineFile(self.path)


def _open(options: EventsConfig, context: SinkContext) -> JsonlSink | None:
    if context.out is None:
        return None
    path = context.out / "events.jsonl"
    return JsonlSink(path, goes_on=context.endless, max_bytes=options.max_mib << 20)


SINK = SinkType(
    _open,
    "every event as a line of JSON: `events.jsonl`",
    EventsConfig,
    default=True,
    files=True,
    begins_anew=True,
)


class CallbackSink(Sink):
    """Each record to a function: the worker's pipe, a progress display, a test."""

    name = "callback"
    stuck_s = None

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit

    def write(self, output: StreamOutput) -> None:
        for record in output.records:
            self._emit(record)
