"""Events as lines of JSON, in a file or handed to a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.lines import LineFile

__all__ = ["SINK", "CallbackSink", "JsonlSink"]


class JsonlSink(Sink):
    """One line per event; it is with the kernel when ``write`` returns. The file ``goes_on``, or begins anew."""

    name = "events"

    def __init__(self, path: Path, *, goes_on: bool = False) -> None:
        self.path = path
        self._file = LineFile(path, goes_on=goes_on)

    def write(self, output: StreamOutput) -> None:
        for record in output.records:
            self._file.write(json.dumps(record, separators=(",", ":")))

    def close(self) -> None:
        self._file.close()


def _open(options: SinkOptions, context: SinkContext) -> JsonlSink | None:
    if context.out is None:
        return None
    return JsonlSink(context.out / "events.jsonl", goes_on=context.endless)


SINK = SinkType(
    _open, "every event as a line of JSON: `events.jsonl`", default=True, files=True, begins_anew=True
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
