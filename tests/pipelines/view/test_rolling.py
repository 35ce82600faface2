"""What a person is shown of a stream now, from windows as they come."""

from __future__ import annotations

import pytest

from edgectl.core.histogram import Histogram
from edgectl.core.wire import Frames, StreamStats
from edgectl.pipelines.view.rolling import FPS_S, STAGES_S, RollingStats


def window(processed: int, *, engine_ms: float = 5.0, n: int = 10, **more: object) -> StreamStats:
    histogram = Histogram()
    for _ in range(n):
        histogram.record(engine_ms * 1000)
    dropped = more.pop("dropped", {})
    frames = Frames(captured=processed, processed=processed, dropped=dropped)
    return StreamStats(
        kind="surveillance", stages={"engine": histogram.data()}, frames=frames, fps=3.0, **more
    )


def test_nothing_is_known_before_the_first_window_and_one_tells_its_own_rate() -> None:
    rolling = RollingStats()
    assert rolling.now() is None
    rolling.add(window(2), 0.0)
    now = rolling.now()
    assert now is not None
    assert now.fps == 3.0


def test_frames_a_second_are_of_the_last_seconds_and_percentiles_of_the_last_minutes() -> None:
    rolling = RollingStats()
    # slow at first, then ten frames a second
    for i in range(21):
        rolling.add(window(i, engine_ms=400, n=200), float(i))
    now = rolling.now()
    assert now is not None
    assert now.stages[0].p99 == pytest.approx(400, rel=0.05)
    at_s = 20.0
    while at_s < 20 + 2 * STAGES_S:
        at_s += 1
        rolling.add(window(20 + 10 * int(at_s - 20), engine_ms=5), at_s)
        if at_s == 20 + FPS_S + 1:
            assert rolling.now().fps == pytest.approx(10.0)  # type: ignore[union-attr]
    now = rolling.now()
    assert now is not None
    [engine] = now.stages
    assert engine.max == pytest.approx(5, rel=0.05), "what was slow is long ago"
    assert engine.n <= 10 * (STAGES_S + 11)


def test_what_was_dropped_lately_is_told_beside_all() -> None:
    rolling = RollingStats()
    rolling.add(window(1, dropped={"superseded": 5}), 0.0)
    for i in range(1, 40):
        rolling.add(window(i, dropped={"superseded": 5, "stale": i // 20}), i * 10.0)
    now = rolling.now()
    assert now is not None
    assert now.frames.dropped == {"superseded": 5, "stale": 1}
    assert now.dropped_lately == {}, "it is minutes ago"
    rolling.add(window(41, dropped={"superseded": 7, "stale": 1}), 400.0)
    assert rolling.now().dropped_lately == {"superseded": 2}  # type: ignore[union-attr]


def test_stages_come_in_the_order_of_a_frame() -> None:
    rolling = RollingStats()
    h = Histogram()
    h.record(1.0)
    stages = dict.fromkeys(("track", "engine:vad", "wait", "period", "avail_to_event", "pre"), h.data())
    rolling.add(StreamStats(kind="surveillance", stages=stages), 1.0)
    now = rolling.now()
    assert now is not None
    assert [t.stage for t in now.stages] == ["wait", "pre", "engine:vad", "track", "avail_to_event", "period"]


def test_stream_that_is_started_anew_counts_from_there() -> None:
    rolling = RollingStats()
    # for longer than drops are counted back
    for t_s in range(0, 200, 5):
        rolling.add(window(100 * t_s, dropped={"superseded": 10 * t_s}), float(t_s))
    rolling.add(window(3, dropped={"superseded": 1}), 200.0)
    rolling.add(window(7, dropped={"superseded": 2}), 201.0)
    now = rolling.now()
    assert now is not None
    assert (now.fps, now.frames.processed, now.dropped_lately) == (4.0, 7, {"superseded": 2})


def test_stream_that_does_not_run_keeps_its_numbers_and_says_why() -> None:
    rolling = RollingStats()
    rolling.mark("surveillance", "waiting", "a slot has no engine yet")
    now = rolling.now()
    assert now is not None
    assert (now.state, now.reason, now.fps) == ("waiting", "a slot has no engine yet", 0.0)
    rolling.add(window(10), 1.0)
    rolling.add(window(20), 2.0)
    rolling.mark("surveillance", "restarting", "it crashed")
    now = rolling.now()
    assert now is not None
    assert (now.state, now.frames.processed, now.fps) == ("restarting", 20, 0.0)
