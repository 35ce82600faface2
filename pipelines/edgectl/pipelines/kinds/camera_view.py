"""The watch over a stream's view, and the file in which what is usual outlasts the process."""

from __future__ import annotations

from pathlib import Path

from edgectl.pipelines.kinds.kept import KeptState
from edgectl.pipelines.video.health.judge import HealthConfig
from edgectl.pipelines.video.health.watch import HealthWatch

__all__ = ["CameraView"]


class CameraView:
    def __init__(self, config: HealthConfig | None, out: Path | None, stream: str) -> None:
        """``config`` None: nobody watches. ``out``: folder for ``view.json``; None: it is learned anew each time. Raises
        :class:`~edgectl.core.errors.StorageError` for a file that cannot be read."""
        self.watch: HealthWatch | None = None
        self._kept = None if out is None or config is None else KeptState(out / "view.json", stream)
        if config is not None:
            kept = None if self._kept is None else self._kept.read()
            self.watch = HealthWatch(config, None if self._kept is None else self._kept.keep, kept)

    def adopt(self, config: HealthConfig | None) -> None:
        """Other settings. From the thread that looks."""
        if self.watch is not None and config is not None:
            self.watch.adopt(config)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
