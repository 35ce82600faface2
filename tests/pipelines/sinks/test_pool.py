"""The sinks' threads: bounded queues, events before pictures; one that hangs or fails, alone."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from edgectl.core.errors import LinkError, StorageError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.sinks.jsonl import CallbackSink
from edgectl.pipelines.sinks.pool import SinkPool, SinkState
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame


def frame(seq: int) -> ShownFrame:
    image = np.full((48, 64, 3), seq % 256, np.uint8)
    return ShownFrame(Frame.of_bgr(image, Stamp(seq, seq * 100_000_000, 0)))


def record(i: int) -> dict[str, Any]:
    return {"id": str(i)}


class Blocked(Sink):
    """A sink that waits until it is let go."""

    def __init__(self, name: str, pictures: bool) -> None:
        self.name, self.pictures = name, pictures
        self.go, self.started = threading.Event(), threading.Event()
        self.got: list[StreamOutput] = []
        self.closed = 0

    def write(self, output: StreamOutput) -> None:
        self.started.set()
        assert self.go.wait(10)
        self.got.append(output)

    def close(self) -> None:
        self.closed += 1


def test_a_camera_never_waits_for_a_slow_video_and_the_loss_is_counted() -> None:
    video, events = Blocked("video", True), []
    pool = SinkPool("s", [CallbackSink(events.append), video], wait=False)
    for i in range(50):
        pool.offer(StreamOutput((record(i),), frame(i)))
    assert pool.counters["sink_full:video"] > 30
    video.go.set()
    assert pool.close(10)
    assert events == [record(i) for i in range(50)]  # not one event was lost
    assert [r["id"] for o in video.got for r in o.records] == [str(i) for i in range(50)]
    pictures = sum(o.frame is not None for o in video.got)
    assert pictures == 50 - pool.counters["sink_full:video"] < 20
    assert video.closed == 1


def test_a_file_waits_and_loses_nothing() -> None:
    video = Blocked("video", True)
    video.go.set()
    pool = SinkPool("s", [video], wait=True)
    for i in range(200):
        pool.offer(StreamOutput((), frame(i)))
    assert pool.close(10)
    assert len(video.got) == 200
    assert pool.counters == {}


def test_the_record_queue_is_bounded_too() -> None:
    sink = Blocked("x", False)
    pool = SinkPool("s", [sink], wait=False)
    for i in range(5000):
        pool.offer(StreamOutput((record(i),)))
    assert pool.counters["sink_full:x"] >= 5000 - 4096 - 2
    sink.go.set()
    assert pool.close(10)


def test_a_broken_sink_is_closed_and_the_others_go_on() -> None:
    class Broken(CallbackSink):
        name = "broken"

    def publish(record: dict[str, Any]) -> None:
        raise LinkError("the broker is gone")

    got: list[Any] = []
    pool = SinkPool("s", [Broken(publish), CallbackSink(got.append)], wait=True)
    for i in range(3):
        pool.offer(StreamOutput((record(i),)))
    assert pool.close(10)
    assert len(got) == 3
    assert isinstance(pool.errors["broken"], LinkError)


def test_what_waits_for_room_in_a_sink_that_fails_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(Blocked):
        def write(self, output: StreamOutput) -> None:
            super().write(output)
            raise StorageError("the disk is full")

    video = Breaks("video", True)
    pool = SinkPool("s", [video], wait=True)
    (feeder,) = pool._feeders
    waits, room = threading.Event(), feeder._room
    monkeypatch.setattr(feeder, "_room", lambda picture: room(picture) or bool(waits.set()))
    full = threading.Thread(target=lambda: [pool.offer(StreamOutput((), frame(i))) for i in range(200)])
    full.start()
    assert waits.wait(10)
    video.go.set()
    full.join(10)
    assert pool.close(10)
    assert set(pool.errors) == {"video"}


def test_after_closing_nothing_is_taken() -> None:
    pool = SinkPool("s", [], wait=True)
    assert pool.close(5)
    pool.offer(StreamOutput((record(1),)))


@pytest.mark.parametrize("error", [StorageError("the disk is full"), ValueError("a defect")])
def test_a_sink_that_fails_is_closed_and_counted_and_the_others_go_on(error: Exception) -> None:
    class Failing(Blocked):
        def write(self, output: StreamOutput) -> None:
            raise error

    bad, heard = Failing("bad", False), []
    pool = SinkPool("s", [bad, CallbackSink(heard.append)], wait=True)
    # more than the queue holds: a dead thread would block here for ever
    for i in range(5000):
        pool.offer(StreamOutput((record(i),)))
    assert pool.close(20)
    assert len(heard) == 5000
    assert bad.closed == 1
    assert str(error) in str(pool.errors["bad"])
    assert pool.counters == {"sink_failed:bad": 1}


class Told:
    """What a pool says of its sinks."""

    def __init__(self) -> None:
        self.states: list[SinkState] = []
        self.change = threading.Condition()

    def __call__(self, state: SinkState) -> None:
        with self.change:
            self.states.append(state)
            self.change.notify_all()

    def wait_for(self, *reasons: str) -> None:
        with self.change:
            assert self.change.wait_for(lambda: [s.reason for s in self.states] == list(reasons), 10), (
                self.states
            )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr("edgectl.pipelines.sinks.pool._WATCH_S", 0.01)
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._BACKOFF_S", (0.02, 0.02))
    return Told()


@pytest.mark.parametrize("wait", [True, False])
def test_a_sink_that_hangs_is_told_of_and_holds_up_neither_the_stream_nor_the_others(
    told: Told, wait: bool
) -> None:
    stuck, got = Blocked("nas", True), []
    stuck.stuck_s = 0.05
    pool = SinkPool("s", [stuck, CallbackSink(got.append)], wait=wait, tell=told)
    for i in range(100):
        pool.offer(StreamOutput((record(i),), frame(i)))
    told.wait_for("stuck")
    assert told.states[0].sink == "nas"
    event = told.states[0].event(7.0)
    assert (event.type, event.phase, event.t_s) == ("capability", "start", 7.0)
    assert event.data["name"] == "sink"
    assert event.data["available"] is False
    for i in range(100, 150):
        pool.offer(StreamOutput((record(i),), frame(i)))
    assert pool.counters["sink_stuck:nas"] == 1
    stuck.go.set()
    told.wait_for("stuck", "back")
    assert told.states[1].event(8.0).phase == "end"
    assert pool.close(10)
    assert got == [record(i) for i in range(150)]
    assert not pool.errors


def test_a_sink_that_may_take_its_time_is_waited_for(told: Told) -> None:
    slow = Blocked("loop", False)
    slow.stuck_s = None
    pool = SinkPool("s", [slow], wait=True, tell=told)
    pool.offer(StreamOutput((record(0),)))
    assert slow.started.wait(10)
    pool._feeders[0].watch(time.monotonic() + 3600)
    slow.go.set()
    assert pool.close(10)
    assert told.states == []


def test_closing_waits_for_a_sink_that_hangs_no_longer_than_it_was_given(told: Told) -> None:
    stuck, got = Blocked("nas", True), []
    stuck.stuck_s = 0.05
    pool = SinkPool("s", [stuck, CallbackSink(got.append)], wait=False, tell=told)
    pool.offer(StreamOutput((record(0),), frame(0)))
    told.wait_for("stuck")
    assert not pool.close(3600)
    assert got == [record(0)]
    stuck.go.set()


def test_who_is_in_a_hurry_leaves_a_sink_behind_that_gets_on_no_further(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._HURRY_S", 0.05)
    hangs, got = Blocked("nas", True), []
    hangs.stuck_s = None
    pool = SinkPool("s", [hangs, CallbackSink(got.append)], wait=True, tell=told)
    pool.offer(StreamOutput((record(0),), frame(0)))
    assert hangs.started.wait(10)
    pool.hurry()
    assert hangs.hurried
    # nobody waits for room, either
    for i in range(1, 10):
        pool.offer(StreamOutput((record(i),), frame(i)))
    assert not pool.close(3600)
    assert got == [record(i) for i in range(10)]
    hangs.go.set()


class Busy(Blocked):
    """Its call takes long and gets on all the time."""

    n = 0

    def progress(self) -> int:
        self.n += 1
        return self.n


def test_a_call_that_takes_long_and_gets_on_is_neither_stuck_nor_left_behind(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.feeder._HURRY_S", 0.0)
    busy = Busy("encoder", True)
    busy.stuck_s = 0.0
    pool = SinkPool("s", [busy], wait=False, tell=told)
    pool.offer(StreamOutput((record(0),), frame(0)))
    assert busy.started.wait(10)
    looked = busy.n
    while busy.n < looked + 5:
        time.sleep(0.001)
    assert told.states == []
    pool.hurry()
    threading.Timer(0.3, busy.go.set).start()
    assert pool.close(3600)
    assert len(busy.got) == 1


def test_a_sink_that_can_recover_is_tried_again_and_told_of_once_each_way(told: Told) -> None:
    class Away(Sink):
        name = "push"
        fails = True
        tries = 0

        def write(self, output: StreamOutput) -> None:
            Away.tries += 1
            if self.fails:
                raise LinkError("the server is away", retryable=True)
            done.set()

    done, sink = threading.Event(), Away()
    pool = SinkPool("s", [sink], wait=False, tell=told)
    while Away.tries < 3:
        pool.offer(StreamOutput((record(0),)))
        time.sleep(0.001)
    sink.fails = False
    while not done.wait(0.001):
        pool.offer(StreamOutput((record(1),)))
    told.wait_for("away", "back")
    assert told.states[0].detail == "the server is away"
    assert pool.counters["sink_failed:push"] == 1
    assert pool.counters["sink_lost:push"] > 0  # it is not tried for each
    assert pool.close(10)
    assert pool.errors == {}
    told.wait_for("away", "back")


def test_events_are_timed_until_the_last_sink_for_events_has_them() -> None:
    slow, times = Blocked("slow", False), []
    pool = SinkPool("s", [CallbackSink(lambda _: None), slow], wait=False, written=times.append)
    began = time.monotonic_ns()
    pool.offer(StreamOutput((record(0),)))
    assert slow.started.wait(10)
    assert times == []
    slow.go.set()
    assert pool.close(10)
    assert 0 < times[0] <= time.monotonic_ns() - began


def test_of_a_full_queue_the_pictures_go_and_the_events_stay_in_order() -> None:
    video = Blocked("video", True)
    pool = SinkPool("s", [video], wait=False)
    for i in range(40):
        pool.offer(StreamOutput((record(i),) if i % 2 else (), frame(i)))
    video.go.set()
    assert pool.close(10)
    assert [r["id"] for o in video.got for r in o.records] == [str(i) for i in range(1, 40, 2)]
    assert sum(o.frame is not None for o in video.got) <= 5
