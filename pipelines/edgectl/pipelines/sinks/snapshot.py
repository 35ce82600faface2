"""A JPEG of the frame for events of chosen rules and zones."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgectl.core.files import atomic_write
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.files import OutFiles

__all__ = ["SINK", "SnapshotConfig", "SnapshotSink"]


class SnapshotConfig(SinkOptions):
    on: tuple[str, ...] = ()
    """Ids of rules and zones."""
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

    def file_of(self, record: Record) -> dict[str, str]:
        wanted = record.get("rule") in self._config.on
        return {"snapshot": f"snapshots/{record['id']}.jpg"} if wanted else {}

    def write(self, output: StreamOutput) -> None:
        names = [file["snapshot"] for file in map(self.file_of, output.records) if file]
        if not names or output.frame is None:
            return
        data = output.frame.jpeg(self._config.quality)
        for name in names:
            atomic_write(self._out / name, data)
            self._files.wrote(self._out / name)
        self._files.keep(self._config.limit, "snapshots")


def _open(options: SnapshotConfig, context: SinkContext) -> SnapshotSink | None:
    return (
        None if context.out is None or not options.on else SnapshotSink(context.out, options, context.files)
    )


SINK = SinkType(
    _open,
    "a picture of the frame for events of chosen rules and zones: `snapshots/<event id>.jpg`",
    SnapshotConfig,
    files=True,
    pictures=True,
)
