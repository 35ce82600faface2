"""One change of a running stream's configuration, between two frames."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["ConfigChange", "Reconfigured"]


@dataclass(frozen=True)
class Reconfigured:
    """What came of it."""

    changed: tuple[str, ...]
    """Settings, as people read them; none: it is the same configuration."""
    in_force: bool
    """False: the camera gives no frames; it holds from the next one on."""


@dataclass(frozen=True)
class ConfigChange:
    """See :class:`~edgectl.pipelines.video.frame_path.Between`."""

    at_capture: Callable[[], None]
    then: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)

    def at_analysis(self) -> None:
        self.then()
        self.done.set()
