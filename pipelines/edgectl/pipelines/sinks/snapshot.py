"""A JPEG of the frame for events of chosen rules and zones."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import cv2

from edgectl.core.errors import StorageError
from edgectl.core.files import atomic_write
from edgectl.pipelines.config import SnapshotConfig
from edgectl.pipelines.sinks.base import Output, Record

__all__ = ["SnapshotSink", "snapshot_name"]


def snapshot_name(record: Record, config: SnapshotConfig) -> str | None:
    """File name (below the output folder) of an event's snapshot, or None if it gets none."""
    return f"snapshots/{record['id']}.jpg" if record.get("rule") in config.on else None


class SnapshotSink:
    """Writes ``out/snapshots/<event id>.jpg`` with the objects drawn; at most ``limit`` files of this run."""

    name = "snapshot"
    pictures = True

    def __init__(self, out: Path, config: SnapshotConfig) -> None:
        self._out = out
        self._config = config
        self._files: deque[Path] = deque()

    def write(self, output: Output) -> None:
        names = [n for n in (snapshot_name(r, self._config) for r in output.records) if n]
        if not names or output.frame is None:
            return
        image = output.frame.bgr().copy()
        if output.draw is not None:
            output.draw(image)
        ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self._config.quality])
        if not ok:
            raise StorageError("OpenCV could not encode a JPEG")
        for name in names:
            atomic_write(self._out / name, data.tobytes())
            self._files.append(self._out / name)
            if len(self._files) > self._config.limit:
                self._files.popleft().unlink(missing_ok=True)

    def close(self) -> None:
        pass
