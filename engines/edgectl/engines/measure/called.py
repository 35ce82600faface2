"""An engine in a process of its own that is called with the same few inputs in turn: the other side of what measures."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import BundleError
from edgectl.core.tensors import read_npz
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.open import open_model

__all__ = ["CalledEngine", "FramePacer", "next_frame", "read_feeds"]

_MAX_FEED_BYTES = 1 << 30
_MAX_FEEDS = 1024
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")


class CalledEngine:
    """``model``, ``feeds``: files; ``settings``: :class:`SessionSettings` as JSON. Opened by :meth:`open`."""

    def __init__(self, model: str, runtime: str, settings: str, feeds: str) -> None:
        self.runtime = runtime
        self._model = Path(model)
        self._settings = SessionSettings.model_validate_json(settings)
        self._feeds = read_feeds(Path(feeds))
        self._engine: Engine | None = None
        self._turn = 0

    def open(self) -> None:
        """Raises :class:`EngineError`."""
        self._engine = open_model(self._model, self._settings, runtime=self.runtime)

    def call_ms(self) -> float:
        """One inference on the next inputs; milliseconds."""
        assert self._engine is not None
        self._turn += 1
        feeds = self._feeds[self._turn % len(self._feeds)]
        start = time.perf_counter_ns()
        self._engine.run(feeds)
        return (time.perf_counter_ns() - start) / 1e6


class FramePacer:
    """Frames of a camera, ``period_s`` apart, from now on."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._start, self._frame = time.monotonic(), 0

    def wait(self) -> None:
        """Until the next frame comes; those that came meanwhile are dropped."""
        self._frame = next_frame(self._frame, time.monotonic() - self._start, self._period_s)
        time.sleep(max(0.0, self._start + self._frame * self._period_s - time.monotonic()))


def next_frame(last: int, now_s: float, period_s: float) -> int:
    """Which frame comes next, after the ``last`` one that was used: those that came while the engine ran
    are dropped, as a live stream does. Frame k comes at ``k × period_s``. Pure."""
    return max(last + 1, math.ceil(now_s / period_s))


def read_feeds(path: Path) -> list[Feeds]:
    """An ``.npz`` whose names are ``NUMBER/INPUT``, numbers from 0 on. Raises :class:`BundleError`."""
    found: dict[int, dict[str, NDArray[np.generic]]] = {}
    for name, array in read_npz(path, max_bytes=_MAX_FEED_BYTES, max_arrays=_MAX_FEEDS).items():
        number, _, tensor = name.partition("/")
        if not _NUMBER.fullmatch(number) or not tensor:
            raise BundleError(f"{path.name} has an array {name[:80]!r}, which is no input of a number")
        found.setdefault(int(number), {})[tensor] = array
    if not found or sorted(found) != list(range(len(found))):
        raise BundleError(f"{path.name} has no inputs, or some are missing in between")
    return [found[i] for i in range(len(found))]
