"""Streams that start and stop side by side: one that waits keeps no other waiting."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.pipelines import BoxEngine, box_task, make_variant, write_clip

from edgectl.core.errors import EngineError, SourceError
from edgectl.pipelines.host import running_stream
from edgectl.pipelines.host.run import StreamToRun, run_streams
from edgectl.pipelines.host.running_stream import RunningStream, start_all, stop_all


class Slow:
    """A pipeline whose start waits."""

    error = None

    def __init__(self, *, can_be_interrupted: bool = True) -> None:
        self.free, self.starts, self.stopped = threading.Event(), threading.Event(), threading.Event()
        self._can_be_interrupted = can_be_interrupted
        self.fails: Exception | None = None

    def start(self) -> None:
        self.starts.set()
        assert self.free.wait(30)
        if self.fails is not None:
            raise self.fails

    def interrupt(self) -> None:
        if self._can_be_interrupted:
            self.fails = SourceError("interrupted")
            self.free.set()

    def wait(self, timeout_s: float) -> bool:
        return True

    def stop(self) -> None:
        self.stopped.set()


def streams(*slow: Any) -> list[RunningStream]:
    return [RunningStream(f"s{i}", one) for i, one in enumerate(slow)]


def test_all_start_at_once_and_a_failure_is_told_while_another_waits() -> None:
    first, second = Slow(), Slow()
    running = streams(first, second)
    second.fails = SourceError("no camera")
    second.free.set()
    seen: list[bool] = []

    def look() -> None:
        if running[1].error is not None:
            seen.append(first.starts.is_set())
            first.free.set()

    start_all(running, look=look)
    assert seen[0], "the first one waits, and the second has failed"
    assert running[0].started_s is not None
    assert running[1].started_s is None
    stop_all(running)
    assert first.stopped.is_set()


def test_a_start_that_is_given_up_is_interrupted() -> None:
    slow = Slow()
    (one,) = streams(slow)
    given_up = threading.Event()
    start_all([one], given_up.is_set, given_up.set)
    stop_all([one])
    assert str(one.error) == "interrupted"
    assert one.ran_s is None


def test_a_start_that_cannot_be_interrupted_is_left_behind_and_stops_once_it_is_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running_stream, "_GIVE_UP_S", 0.05)
    slow = Slow(can_be_interrupted=False)
    (one,) = streams(slow)
    given_up = threading.Event()
    start_all([one], given_up.is_set, given_up.set)
    stop_all([one])
    assert "its start waits for a camera or a disk" in str(one.error)
    assert not slow.stopped.is_set()
    slow.free.set()
    assert slow.stopped.wait(10)
    assert one.ran_s is None


def test_a_defect_in_one_start_is_that_streams_error() -> None:
    slow = Slow()
    slow.fails = KeyError("nobody thought of it")
    slow.free.set()
    (one,) = streams(slow)
    start_all([one])
    assert isinstance(one.error, EngineError)
    assert "KeyError" in str(one.error)
    stop_all([one])


def test_a_disk_that_hangs_at_the_start_of_one_stream_lets_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stream's files open only once the second has said something."""
    said = threading.Event()
    waited: list[bool] = []
    real = __import__("edgectl.pipelines.kinds.video_runner", fromlist=["open_sinks"]).open_sinks

    def hangs(config: Any, context: Any) -> Any:
        if context.stream == "first":
            waited.append(said.wait(30))
        return real(config, context)

    monkeypatch.setattr("edgectl.pipelines.kinds.video_runner.open_sinks", hangs)
    clip = write_clip(tmp_path / "clip.mp4", frames=20)
    results = run_streams(
        "surveillance",
        [],
        [StreamToRun(name, str(clip)) for name in ("first", "second")],
        on_event=lambda record: said.set() if record["stream"] == "second" else None,
        variants={"detector": make_variant(tmp_path / "blobs", box_task())},
        open_engine=lambda _: BoxEngine(lambda _: [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]),
    )
    assert waited == [True]
    assert [r.error for r in results] == [None, None]
    assert [r.summary.frames.processed for r in results if r.summary] == [20, 20]
