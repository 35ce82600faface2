"""A JPEG of the frame for events of chosen rules and zones, and the best one of each object."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgectl.core.files import atomic_write
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.best_picture import BestPictures
from edgectl.pipelines.sinks.files import OutFiles

__all__ = ["SINK", "SnapshotConfig", "SnapshotSink"]


class SnapshotConfig(SinkOptions):
    on: tuple[str, ...] = ()
    """Ids of rules and zones."""
    best: bool = False
    """Whether an object that has gone leaves its best picture: large, sharp, surely what it is. Its `tracked_object` with
    phase `end` names it."""
    quality: int = Field(default=80, ge=10, le=100)
    """Of the JPEG."""
    limit: int = Field(default=1000, ge=1, le=1_000_000)
    """At most this many files; the oldest goes first."""

    def event_names(self) -> tuple[str, ...]:
        return self.on


class SnapshotSink(Sink):
    """Writes ``out/snapshots/<event id>.jpg`` with the objects drawn; at most ``limit`` files."""

    name = "snapshots"
    pictures = True

    def __init__(self, out: Path, config: SnapshotConfig, files: OutFiles | None = None) -> None:
        self._out = out
        self._config = config
        self._files = files or OutFiles(out)
        self._best = BestPictures(config.quality)

    def file_of(self, record: Record) -> dict[str, str]:
        wanted = record.get("rule") in self._config.on or self._is_gone(record)
        return {"snapshot": f"snapshots/{record['id']}.jpg"} if wanted else {}

    def write(self, output: StreamOutput) -> None:
        if self._config.best and output.frame is not None and output.tracks is not None:
            self._best.see(output.tracks, output.frame)
        whole: bytes | None = None
        for record in output.records:
            data = None
            if self._is_gone(record):
                data = self._best.take(int(record["track"]))
            elif self.file_of(record) and output.frame is not None:
                data = whole = whole or output.frame.jpeg(self._config.quality)
            if data is not None:
                path = self._out / self.file_of(record)["snapshot"]
                atomic_write(path, data)
                self._files.wrote(path)
                self._files.keep(self._config.limit, "snapshots")

    def _is_gone(self, record: Record) -> bool:
        """Whether an event ends an object whose best picture is wanted."""
        return self._config.best and record["type"] == "tracked_object" and record.get("phase") == "end"


def _open(options: SnapshotConfig, context: SinkContext) -> SnapshotSink | None:
    return (
        None
        if context.out is None or not (options.on or options.best)
        else SnapshotSink(context.out, options, context.files)
    )


SINK = SinkType(
    _open,
    "a picture of the frame for events of chosen rules and zones, and the best one of each object: "
    "`snapshots/<event id>.jpg`",
    SnapshotConfig,
    files=True,
    pictures=True,
)
