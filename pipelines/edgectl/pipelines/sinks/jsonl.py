"""Events as lines of JSON, in a file or handed to a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edgectl.core.files import storage
from edgectl.pipelines.sinks.base import Output, Record

__all__ = ["CallbackSink", "JsonlSink"]


class JsonlSink:
    """Appends to ``path``; a line is on its way to the disk when ``write`` returns."""

    name = "jsonl"
    pictures = False

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

    def write(self, output: Output) -> None:
        with storage(str(self.path)):
            for record in output.records:
                self._file.write(json.dumps(record, separators=(",", ":")) + "\n")
            self._file.flush()

    def close(self) -> None:
        with storage(str(self.path)):
            self._file.close()


class CallbackSink:
    """Each record to a function: the worker's pipe, a progress display, a test."""

    name = "callback"
    pictures = False

    def __init__(self, emit: Callable[[Record], None]) -> None:
        self._emit = emit

    def write(self, output: Output) -> None:
        for record in output.records:
            self._emit(record)

    def close(self) -> None:
        pass
