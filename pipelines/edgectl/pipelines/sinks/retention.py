"""Old files go: what sinks have written below the folder for files, by age and by size. Nothing else is touched."""

from __future__ import annotations

import time

from pydantic import Field, model_validator

from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.files import OutFiles

__all__ = ["SINK", "RetentionConfig", "RetentionSink"]

_EVERY_S = 30.0


class RetentionConfig(SinkOptions):
    days: float | None = Field(default=None, gt=0, le=36500)
    """Files older than this go."""
    mib: int | None = Field(default=None, ge=1)
    """So much stays; the oldest files go first."""

    @model_validator(mode="after")
    def _keeps_something_off(self) -> RetentionConfig:
        if self.days is None and self.mib is None:
            raise ValueError("it needs days, mib or both")
        return self


class RetentionSink(Sink):
    name = "retention"
    tracks = True

    def __init__(self, files: OutFiles, config: RetentionConfig) -> None:
        self._files = files
        self._config = config
        self._next_s = 0.0

    def write(self, output: StreamOutput) -> None:
        if time.monotonic() >= self._next_s:
            self._sweep()
            self._next_s = time.monotonic() + _EVERY_S

    def close(self) -> None:
        self._sweep()

    def _sweep(self) -> None:
        mib = self._config.mib
        self._files.sweep(time.time(), days=self._config.days, max_bytes=None if mib is None else mib << 20)


def _open(options: RetentionConfig, context: SinkContext) -> RetentionSink | None:
    return None if context.files is None else RetentionSink(context.files, options)


SINK = SinkType(
    _open,
    "nothing: snapshots, clips, recordings and parts of the video that are too old or too many are deleted, oldest first",
    RetentionConfig,
    files=True,
)
