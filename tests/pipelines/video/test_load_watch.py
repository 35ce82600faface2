"""What the governor is told of a stream, its engine and its machine."""

from __future__ import annotations

import itertools

import pytest

from edgectl.pipelines.stream.governor import Change, GovernorConfig, ladder
from edgectl.pipelines.stream.ledger import Ledger
from edgectl.pipelines.stream.machine import MachineState
from edgectl.pipelines.video.engine_pool import EngineWork
from edgectl.pipelines.video.load_watch import LoadWatch

FPS = 30


class Simulated:
    """A stream of 30 frames a second, on an engine that takes ``call_ms``, shared with others that offer it
    ``others`` frames a second."""

    def __init__(self, call_ms: float, *, others: float = 0) -> None:
        self.call_ms, self.others = call_ms, others
        self.machine = MachineState()
        self.asked = 0
        self.cause = "superseded"
        self.now_s = 0.0
        self.ledger = Ledger()
        self.engine = object()
        self.changes: list[tuple[float, Change, float]] = []
        config = GovernorConfig(power_modes=("MODE_7W",))
        self.watch = LoadWatch(config, ladder(config), self.ledger.frames, self.work, self.state)
        self._every = 1
        self._offered = self._ran = self._busy_ns = 0
        self._credit_ms = self._theirs = 0.0
        self._n = 0

    def work(self) -> EngineWork:
        return EngineWork(self.engine, self._offered, self._ran, self._busy_ns)

    def state(self) -> MachineState:
        self.asked += 1
        return self.machine

    def another_engine(self) -> None:
        self.engine = object()
        self._offered = self._ran = self._busy_ns = 0

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * FPS)):
            self.now_s += 1 / FPS
            self._frame()
            if (changed := self.watch.look(self.now_s)) is not None:
                self.changes.append((self.now_s, *changed))
                self._every = changed[0].rung.detect_every

    def _frame(self) -> None:
        self._credit_ms = min(self._credit_ms + 1000 / FPS, 2 * max(self.call_ms, 1000 / FPS))
        self._theirs += self.others / FPS
        while self._theirs >= 1:
            self._theirs -= 1
            self._call()
        self.ledger.capture()
        self._n += 1
        if self._n % self._every:
            self.ledger.drop("degraded")
        elif self._call():
            self.ledger.process()
        else:
            self.ledger.drop(self.cause)  # type: ignore[arg-type]

    def _call(self) -> bool:
        self._offered += 1
        if self._credit_ms < self.call_ms:
            return False
        self._credit_ms -= self.call_ms
        self._ran += 1
        self._busy_ns += round(self.call_ms * 1e6)
        return True


@pytest.mark.parametrize("cause", ["superseded", "stale", "deadline"])
def test_an_engine_that_is_twice_too_slow_takes_one_change_and_five_seconds(cause: str) -> None:
    stream = Simulated(10)
    stream.cause = cause
    stream.run(10)
    assert stream.changes == []
    stream.call_ms = 2000 / FPS
    stream.run(5)
    ((when_s, change, after_s),) = stream.changes
    assert (change.rung.detect_every, change.reason, stream.watch.level) == (3, "overload", 2)
    assert when_s < 12
    assert after_s == pytest.approx(when_s - 1 / FPS)
    lost = stream.ledger.frames().dropped[cause]
    stream.run(5)
    assert stream.ledger.frames().dropped[cause] == lost
    assert len(stream.changes) == 1


def test_it_comes_back_when_the_load_has_gone() -> None:
    stream = Simulated(2000 / FPS)
    stream.run(10)
    stream.call_ms = 5
    stream.run(60)
    assert stream.watch.level == 0
    assert [change.reason for _, change, _ in stream.changes][1:] == ["calm", "calm"]
    times = [when_s for when_s, _, _ in stream.changes]
    assert [after for _, _, after in stream.changes][1:] == pytest.approx(
        [b - a for a, b in itertools.pairwise(times)]
    )


def test_the_frames_of_other_streams_are_demand_too() -> None:
    """A third of this engine's time would be enough for this stream alone: it would come back at once."""
    stream = Simulated(2000 / FPS)
    stream.run(10)
    assert stream.watch.level == 2
    stream.call_ms, stream.others = 20, 35
    stream.run(60)
    assert stream.watch.level == 2


def test_frames_that_are_left_out_by_choice_are_neither_due_nor_lost() -> None:
    for cause in ("gated", "paused", "corrupt", "decode_error"):
        stream = Simulated(2000 / FPS)
        stream.cause = cause
        stream.run(30)
        assert stream.changes == []


def test_a_burst_when_the_camera_is_connected_is_no_overload() -> None:
    stream = Simulated(10)
    stream.run(0.1)
    stream.ledger.capture(60)
    stream.ledger.drop("superseded", 60)
    stream.run(20)
    assert stream.changes == []


def test_before_the_first_frame_is_through_nothing_is_judged() -> None:
    stream = Simulated(1e6)
    stream.run(30)
    assert stream.changes == []
    assert stream.asked == 0


def test_a_swapped_engine_begins_anew() -> None:
    stream = Simulated(10)
    stream.run(10)
    stream.another_engine()
    stream.run(10)
    assert stream.changes == []


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (MachineState(temperature_c=95.0), "temperature"),
        (MachineState(memory_mb=10.0), "memory"),
        (MachineState(on_battery=True), "power"),
        (MachineState(power_mode="MODE_7W"), "power"),
    ],
)
def test_heat_little_memory_and_a_battery_are_told_to_the_governor(
    machine: MachineState, reason: str
) -> None:
    stream = Simulated(10)
    stream.run(5)
    assert stream.changes == []
    stream.machine = machine
    stream.run(5)
    ((_, change, _),) = stream.changes
    assert (change.level, change.reason) == (1, reason)
    assert stream.asked <= 5, "sensors are slow: not at every look"


def test_demand_is_what_is_offered_times_what_a_frame_takes() -> None:
    engine = object()
    before = EngineWork(engine, 100, 50, 500_000_000)
    assert EngineWork(engine, 160, 60, 700_000_000).demand_since(before, 1.0) == pytest.approx(1.2)
    # no call has ended meanwhile: the mean of all before
    assert EngineWork(engine, 160, 50, 500_000_000).demand_since(before, 0.5) == pytest.approx(1.2)
    # it has become slower at the end of this time
    now_slower = EngineWork(engine, 160, 60, 700_000_000, recent_ns=40_000_000)
    assert now_slower.demand_since(before, 1.0) == pytest.approx(2.4)
    assert EngineWork(object(), 160, 60, 700_000_000).demand_since(before, 1.0) == 0
    assert EngineWork(engine, 100, 50, 500_000_000).demand_since(before, 1.0) == 0


@pytest.mark.parametrize("left_out", ["gated", "degraded", "paused", "corrupt"])
def test_one_of_six_wanted_frames_lost_is_overload_however_many_are_left_out(left_out: str) -> None:
    stream = Simulated(1)
    stream.run(5)
    for second in range(5, 9):
        stream.ledger.capture(30)
        stream.ledger.drop(left_out, 24)  # type: ignore[arg-type]
        stream.ledger.process(5)
        stream.ledger.drop("superseded")
        if stream.watch.look(second + 1.0) is not None:
            break
    assert stream.watch.level == 1
