"""Engines of a running stream: swapped between two frames, compared, shared, and one that hangs."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from support.video_rig import Rig, middle

from edgectl.core.errors import EngineError, ModelError, UsageError
from edgectl.pipelines.kinds import analysis
from edgectl.pipelines.video import engine_pool
from edgectl.pipelines.video.engine_pool import EnginePool


def test_a_swap_happens_between_two_frames_of_a_running_stream(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(10)
    gap_ms = rig.pipeline.swap("detector", rig.variant("v2"))
    assert 0 < gap_ms < 1000
    old, new = rig.engines
    assert not old.closed.is_set()
    assert rig.pipeline.stats().releases == {"detector": "v2@2"}
    before = new.runs
    rig.wait_processed(rig.frames().processed + 5)
    # two may have been run before and not been counted as processed
    assert new.runs >= before + 3
    rig.pipeline.revert("detector")
    assert new.closed.is_set()
    assert rig.pipeline.stats().releases == {"detector": "yard@1"}
    runs = old.runs
    rig.wait_processed(rig.frames().processed + 5)
    assert old.runs > runs
    rig.pipeline.swap("detector", rig.variant("v3"))
    rig.pipeline.commit("detector")
    assert old.closed.is_set()
    rig.pipeline.revert("detector")  # nothing to go back to
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)
    assert set(rig.frames().dropped) <= {"superseded", "shutdown"}
    assert rig.frames().in_flight == 0


def test_a_swap_to_a_broken_engine_leaves_the_old_one_running(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(3)

    def fails(_: NDArray[Any]) -> Any:
        raise EngineError("no")

    good = rig.boxes_at
    rig.boxes_at = fails
    with pytest.raises(EngineError):
        rig.pipeline.swap("detector", rig.variant("v2"))
    assert rig.engines[1].closed.is_set()
    rig.boxes_at, rig.classes = good, 3
    with pytest.raises(ModelError, match="shape"):
        rig.pipeline.swap("detector", rig.variant("v3"))
    rig.classes = 2
    with pytest.raises(ModelError, match="labels"):
        rig.pipeline.swap("detector", rig.variant("v4", ("person", "cat")))
    with pytest.raises(UsageError, match="part"):
        rig.pipeline.swap("vad", rig.variant("v5"))
    rig.wait_processed(rig.frames().processed + 5)
    assert rig.pipeline.stats().releases == {"detector": "yard@1"}
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)


def test_a_swap_after_the_end_of_the_stream_is_refused(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    rig.pipeline.start()
    assert rig.pipeline.wait(30)
    with pytest.raises(EngineError, match="not running"):
        rig.pipeline.swap("detector", rig.variant("v2"))
    rig.pipeline.stop()
    assert all(e.closed.is_set() for e in rig.engines)


def test_streams_with_one_pool_share_one_engine(tmp_path: Path) -> None:
    pool = EnginePool()
    rigs = [
        Rig(tmp_path, f"synth://yard?fps=60&seconds={seconds}&width=160&height=96", pool=pool)
        for seconds in (0.5, 60)
    ]
    rigs[1].open = rigs[0].open  # type: ignore[method-assign]
    for rig in rigs:
        rig.pipeline.start()
    (engine,) = rigs[0].engines
    assert rigs[0].pipeline.wait(30)
    rigs[0].pipeline.stop()
    rigs[1].wait_processed(rigs[1].frames().processed + 3)
    assert not engine.closed.is_set()
    rigs[1].pipeline.stop()
    assert engine.closed.is_set()
    assert not rigs[1].engines


def test_an_engine_that_hangs_is_told_and_so_is_its_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 0.0)
    monkeypatch.setattr(engine_pool, "_RUN_LIMIT_RUNS", 0)
    monkeypatch.setattr(analysis, "_POLL_S", 0.01)
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    inside, go_on = threading.Event(), threading.Event()

    def hang(image: NDArray[Any]) -> Any:
        if rig.engines[0].runs == 5:
            inside.set()
            assert go_on.wait(30)
            monkeypatch.setattr(engine_pool, "_RUN_LIMIT_S", 60.0)
        return middle(image)

    rig.boxes_at = hang
    rig.pipeline.start()
    assert inside.wait(10)

    def told() -> list[tuple[str, bool]]:
        return [(e["reason"], e["available"]) for e in list(rig.events) if e.get("name") == "engine"]

    with rig.heard:
        assert rig.heard.wait_for(lambda: told() == [("engine_stuck", False)], 10)
    stats = rig.pipeline.stats()
    assert (stats.state, stats.reason) == ("outage", "engine_stuck")
    go_on.set()
    with rig.heard:
        assert rig.heard.wait_for(lambda: told() == [("engine_stuck", False), ("engine_stuck", True)], 10)
    rig.pipeline.stop()
    assert rig.frames().in_flight == 0


def test_the_first_call_after_a_pause_is_apart_from_the_others(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_pool, "_IDLE_NS", 20_000_000)
    monkeypatch.setattr(engine_pool, "_IDLE_RATIO", 0)
    rig = Rig(tmp_path, str(clip))

    def pause(image: NDArray[Any]) -> Any:
        if rig.engines[0].runs in (10, 20):
            gone.append(rig.engines[0].runs)
        return middle(image)

    gone: list[int] = []
    rig.boxes_at = pause
    schedule = engine_pool.PooledEngine._next

    def late(self: Any) -> Any:
        jobs = schedule(self)
        if rig.engines[0].runs in (9, 19):
            time.sleep(0.05)
        return jobs

    monkeypatch.setattr(engine_pool.PooledEngine, "_next", late)
    rig.run_to_the_end()
    totals = rig.pipeline.totals()
    assert gone == [10, 20]
    assert totals["first_after_idle"].n >= 2
    assert totals["first_after_idle"].n + totals["engine"].n == 40


def test_a_shadow_that_breaks_does_not_break_the_stream(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    rig.wait_processed(3)

    def breaks(image: NDArray[Any]) -> Any:
        if rig.engines[1].runs > 2:
            raise RuntimeError("a defect")
        return middle(image)

    rig.boxes_at = breaks
    heard: list[Any] = []
    told = threading.Event()

    def done(result: Any) -> None:
        heard.append(result)
        told.set()

    rig.pipeline.shadow("detector", rig.variant("v2"), 100, 5, done)
    assert told.wait(10)
    assert "RuntimeError: a defect" in str(heard[0])
    assert rig.engines[1].closed.is_set()
    rig.wait_processed(rig.frames().processed + 5)
    rig.pipeline.stop()
    assert rig.frames().in_flight == 0
    assert len(heard) == 1


def test_a_shadow_counts_what_both_engines_found_on_the_same_frames(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "synth://yard?fps=60&width=160&height=96")
    rig.pipeline.start()
    heard: list[Any] = []
    told = threading.Event()

    def done(result: Any) -> None:
        heard.append(result)
        told.set()

    rig.pipeline.shadow("detector", rig.variant("v2"), 50, 4, done)
    assert told.wait(20)
    (result,) = heard
    assert (result.frames, result.matched, result.found, result.errors) == (4, 4, 8, 0)
    assert rig.engines[1].runs == 2 + 4
    rig.pipeline.stop()
