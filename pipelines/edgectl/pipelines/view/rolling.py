"""What a person is shown of a stream now: percentiles of the last minute, frames a second of the last seconds, and
where the frames went. Pure: windows and times come as arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, StreamStats

__all__ = ["LiveStats", "RollingStats", "StageTimes"]

STAGES_S = 120.0
"""The stretch that percentiles are of: at 10 frames a second it has enough of them for a 99th percentile."""
_BUCKET_S = 10.0
"""Windows are put together to stretches of so many seconds, which are kept and go one by one."""
FPS_S = 5.0
"""The stretch that frames a second are of."""


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Of one stage, milliseconds. A percentile is None where there are too few samples for it."""

    stage: str
    n: int
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class LiveStats:
    """One stream now."""

    state: str
    """``running``, ``outage``, ``ended``, ``failed``."""
    reason: str | None
    detail: str | None
    """Of an outage: what went wrong last."""
    retry_s: float | None
    """Seconds until the source is tried again, at the end of the last window."""
    fps: float
    """Frames that were processed in a second, over :data:`FPS_S`."""
    frames: Frames
    """Since the start."""
    dropped_lately: dict[str, int]
    """Cause → frames within :data:`STAGES_S`."""
    stages: tuple[StageTimes, ...]
    """Over :data:`STAGES_S`, in the order in which a frame goes through them."""
    errors: int
    budget_ms: float | None
    releases: dict[str, str]
    counters: dict[str, int]


_ORDER = (
    "wait",
    "pre",
    "engine",
    "decode",
    "track",
    "rules",
    "publish",
    "avail_to_event",
    "glass_to_event",
    "avail_to_vote",
)


@dataclass(slots=True)
class _Bucket:
    start_s: float
    dropped_before: dict[str, int]
    stages: dict[str, Histogram] = field(default_factory=dict)


class RollingStats:
    """Takes the windows of one stream (:meth:`~edgectl.pipelines.kinds.base.Pipeline.stats`) as they come."""

    def __init__(self) -> None:
        self._last: StreamStats | None = None
        self._buckets: deque[_Bucket] = deque()
        self._processed: deque[tuple[float, int]] = deque()

    def add(self, stats: StreamStats, t_s: float) -> None:
        """``t_s``: the end of the window, seconds of a clock that never goes back. Fewer frames than before: the stream was
        started anew, and counts from there."""
        if self._last is not None and stats.frames.processed < self._last.frames.processed:
            self._processed.clear()
            for bucket in self._buckets:
                bucket.dropped_before = {}
            self._last = None
        if not self._buckets or t_s - self._buckets[-1].start_s >= _BUCKET_S:
            self._buckets.append(_Bucket(t_s, {} if self._last is None else self._last.frames.dropped))
            while t_s - self._buckets[0].start_s > STAGES_S:
                self._buckets.popleft()
        _merge(self._buckets[-1].stages, {stage: Histogram.of(d) for stage, d in stats.stages.items()})
        self._processed.append((t_s, stats.frames.processed))
        while t_s - self._processed[0][0] > FPS_S:
            self._processed.popleft()
        self._last = stats

    def mark(self, kind: str, state: str, reason: str | None) -> None:
        """The stream does not run, and ``state`` says what it does instead; numbers stay, until it runs again."""
        last = self._last or StreamStats(kind=kind)
        self._processed.clear()
        self._last = last.model_copy(
            update={"state": state, "reason": reason, "detail": None, "retry_s": None, "fps": 0.0}
        )

    def now(self) -> LiveStats | None:
        """None before the first window."""
        last = self._last
        if last is None:
            return None
        stages: dict[str, Histogram] = {}
        for bucket in self._buckets:
            _merge(stages, bucket.stages)
        before = self._buckets[0].dropped_before if self._buckets else {}
        lately = {cause: n - before.get(cause, 0) for cause, n in last.frames.dropped.items()}
        return LiveStats(
            state=last.state,
            reason=last.reason,
            detail=last.detail,
            retry_s=last.retry_s,
            fps=self._fps(last),
            frames=last.frames,
            dropped_lately={cause: n for cause, n in lately.items() if n},
            stages=tuple(_times(stage, stages[stage]) for stage in sorted(stages, key=_place)),
            errors=last.errors,
            budget_ms=last.budget_ms,
            releases=last.releases,
            counters=last.counters,
        )

    def _fps(self, last: StreamStats) -> float:
        if not self._processed:
            return last.fps
        (then_s, then), (now_s, now) = self._processed[0], self._processed[-1]
        # a single window tells its own rate
        return (now - then) / (now_s - then_s) if now_s > then_s else last.fps


def _merge(into: dict[str, Histogram], more: dict[str, Histogram]) -> None:
    for stage, histogram in more.items():
        into.setdefault(stage, Histogram()).merge(histogram)


def _place(stage: str) -> tuple[int, str]:
    base = stage.partition(":")[0]
    return (_ORDER.index(base) if base in _ORDER else len(_ORDER), stage)


def _times(stage: str, h: Histogram) -> StageTimes:
    return StageTimes(
        stage,
        h.n,
        h.percentile_ms(50),
        h.percentile_ms(95),
        h.percentile_ms(99),
        None if h.max_us is None else h.max_us / 1000,
    )
