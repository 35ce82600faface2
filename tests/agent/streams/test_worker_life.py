"""A worker's life as a value: random orders of events, and what ends a process at each point of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgectl.agent.streams.worker_life import (
    Timing,
    WorkerLife,
    advance,
    back_off_s,
    blames_engine,
    is_crash_loop,
    is_forgiven,
    left_with,
    overdue,
    receive,
)
from edgectl.agent.streams.worker_states import IN_WORKER, WORKER_TABLE, WorkerEvent, WorkerState
from edgectl.core.errors import ProtocolError
from edgectl.core.wire import Failure, Frames, StreamStats
from edgectl.pipelines.host.protocol import EngineRef, Fault, FromWorker, Ready, Stats, SwapFailed, Swapped

TIMING = Timing(start_s=100, steady_s=30, disagrees_s=5, backoff_s=(1.0, 60.0), crashes=3)
STALL_S = 10.0
ENGINES = {n: EngineRef(blobs=Path("/b"), manifest=f"m{n}", bundle=f"b{n}") for n in range(3)}
CRASH = Failure(code="crash", detail="it crashed")
CAMERA = Failure(code="source", detail="the camera is gone")


def stats(processed: int, **slots: str) -> Stats:
    told = StreamStats(kind="surveillance", slots=slots, frames=Frames(processed=processed))
    return Stats(stream="yard", window_s=1.0, stats=told, rss_mb=1.0, cpu_s=0.1)


def loading(now_s: float = 0.0, life: WorkerLife | None = None) -> WorkerLife:
    life = advance(life or WorkerLife(), WorkerEvent.ENGINES, now_s, TIMING, engines={"detector": ENGINES[0]})
    return advance(life, WorkerEvent.LAUNCHED, now_s, TIMING)


def running(now_s: float = 0.0, life: WorkerLife | None = None) -> WorkerLife:
    return receive(loading(now_s, life), Ready(stream="yard", seconds=1), now_s, TIMING)


def failed(life: WorkerLife, event: WorkerEvent, now_s: float, fault: Failure | None = CRASH) -> WorkerLife:
    return advance(advance(life, event, now_s, TIMING, fault=fault), WorkerEvent.EXITED, now_s, TIMING)


# ---- state × (error | kill | hang)


@pytest.mark.parametrize("at", [WorkerState.LOADING, WorkerState.RUNNING])
@pytest.mark.parametrize("how", ["error", "kill", "hang", "lie"])
def test_a_process_that_fails_is_ended_and_started_again_after_a_back_off(at: WorkerState, how: str) -> None:
    life = loading() if at is WorkerState.LOADING else running()
    if how == "error":
        life = receive(life, Fault(stream="yard", error=CAMERA), 1, TIMING)
        assert life.state is at, "it exits by itself"
        life = advance(life, WorkerEvent.ENDED, 1, TIMING)
        why = "the camera is gone"
    elif how == "kill":
        life, why = advance(life, WorkerEvent.ENDED, 1, TIMING, fault=CRASH), "it crashed"
    elif how == "hang":
        late = overdue(life, 101, TIMING, STALL_S)
        assert late is not None
        assert (late.code, late.retryable) == ("stalled", True)
        life, why = advance(life, WorkerEvent.NO_PROGRESS, 101, TIMING, fault=late), late.detail
    else:
        with pytest.raises(ProtocolError):
            receive(life, Swapped(stream="yard", part="detector", manifest="m1", gap_ms=1), 1, TIMING)
        bad = Failure(code="protocol", detail="it lied")
        life, why = advance(life, WorkerEvent.VIOLATION, 1, TIMING, fault=bad), "it lied"
    assert life.state is WorkerState.ENDING
    assert not life.parts.serving, "nothing serves once it is given up"
    assert is_forgiven(life) is (how == "error"), "only a fault from outside blames no engine"
    life = advance(life, WorkerEvent.EXITED, 102, TIMING)
    assert (life.state, life.reason, life.attempt) == (WorkerState.BACKING_OFF, why, 1)
    assert life.retry_s > 102
    assert advance(life, WorkerEvent.BACK_OFF_OVER, life.retry_s, TIMING).state is WorkerState.WAITING


@pytest.mark.parametrize("at", sorted(set(WorkerState) - {WorkerState.CLOSED, WorkerState.CLOSING}))
def test_close_ends_every_state_without_another_start(at: WorkerState) -> None:
    life = advance(replace(running(), state=at), WorkerEvent.CLOSE, 0, TIMING)
    if at in IN_WORKER:
        assert life.state is WorkerState.CLOSING
        assert is_forgiven(life)
        life = advance(life, WorkerEvent.EXITED, 0, TIMING)
    assert life.state is WorkerState.CLOSED


# ---- the values


def test_each_failure_doubles_the_back_off_up_to_the_limit_and_steady_progress_ends_it() -> None:
    life, waits = WorkerLife(), []
    for now_s in range(0, 8000, 1000):
        life = failed(running(now_s, life), WorkerEvent.ENDED, now_s)
        waits.append(life.retry_s - now_s)
        life = advance(life, WorkerEvent.BACK_OFF_OVER, life.retry_s, TIMING)
    assert [round(2 * w - 0.5) for w in waits] == [2, 4, 8, 16, 32, 60, 60, 60]
    life = receive(running(9000, life), stats(1), 9031, TIMING)
    life = failed(life, WorkerEvent.ENDED, 9040)
    assert (life.attempt, round(2 * (life.retry_s - 9040) - 0.5)) == (0, 1)


def test_an_empty_slot_and_a_wanted_restart_leave_no_back_off_behind() -> None:
    life = replace(WorkerLife(), attempt=5)
    assert advance(life, WorkerEvent.NO_ENGINES, 0, TIMING, reason="empty").attempt == 0
    life = advance(replace(running(), attempt=5), WorkerEvent.RESTART, 0, TIMING)
    life = advance(life, WorkerEvent.EXITED, 0, TIMING)
    assert (life.state, life.attempt) == (WorkerState.WAITING, 0)


def test_progress_is_frames_and_neither_talk_nor_loading() -> None:
    life = receive(loading(0), Ready(stream="yard", seconds=90), 90, TIMING)
    assert not receive(life, stats(1), 100, TIMING).steady, "90 s of loading are no progress"
    life = receive(receive(life, stats(5), 95, TIMING), stats(5), 104, TIMING)
    assert life.progress_s == 95
    assert overdue(life, 105, TIMING, STALL_S) is None
    assert overdue(life, 105.1, TIMING, STALL_S) is not None
    assert receive(life, stats(6), 121, TIMING).steady


def test_a_start_that_the_machine_refuses_blames_no_engine() -> None:
    life = advance(WorkerLife(), WorkerEvent.ENGINES, 0, TIMING, engines={"detector": ENGINES[0]})
    full = Failure(code="storage", detail="no memory")
    life = advance(life, WorkerEvent.NOT_LAUNCHED, 0, TIMING, fault=full)
    assert (life.state, life.attempt, life.reason) == (WorkerState.BACKING_OFF, 1, "no memory")
    assert is_forgiven(life)


def test_the_start_above_the_limit_is_a_crash_loop() -> None:
    assert [is_crash_loop(n, TIMING) for n in (1, 3, 4)] == [False, False, True]


def test_worker_that_names_another_engine_for_too_long_breaks_the_protocol() -> None:
    life = receive(running(), stats(1, detector="b1"), 1, TIMING)
    life = receive(life, stats(2, detector="b0"), 4, TIMING)
    life = receive(life, stats(3, detector="b1"), 7, TIMING)
    life = receive(life, stats(4, detector="b1"), 12, TIMING)
    with pytest.raises(ProtocolError, match="another engine of detector"):
        receive(life, stats(5, detector="b1"), 12.1, TIMING)


def test_camera_that_is_away_is_waited_for_and_one_that_hangs_is_not_the_engines_fault() -> None:
    def outage(reason: str, *stuck: str) -> Stats:
        told = StreamStats(kind="surveillance", state="outage", reason=reason)
        return Stats(stream="yard", window_s=1, stats=told, rss_mb=1, cpu_s=0, stuck=stuck)

    life = receive(running(), outage("refused"), 1, TIMING)
    life = receive(life, outage("refused"), 9, TIMING)
    assert overdue(life, 18, TIMING, STALL_S) is None
    life = receive(life, outage("stalled", "source"), 18, TIMING)
    late = overdue(life, 20, TIMING, STALL_S)
    assert late is not None
    assert late.code == "source"
    life = advance(life, WorkerEvent.NO_PROGRESS, 20, TIMING, fault=late)
    assert is_forgiven(left_with(life, ("source",), None))


@pytest.mark.parametrize(
    ("cause", "stalls"), [("gated", False), ("paused", False), ("degraded", False), ("deadline", True)]
)
def test_a_stream_that_leaves_frames_out_by_choice_has_not_stalled(cause: str, stalls: bool) -> None:
    life = running()
    for now in range(1, 60):
        told = stats(5, detector="b0")
        frames = Frames(processed=5, dropped={cause: 15 * now})
        told = told.model_copy(update={"stats": told.stats.model_copy(update={"frames": frames})})
        life = receive(life, told, now, TIMING)
    assert (overdue(life, 60, TIMING, STALL_S) is not None) == stalls


def test_engine_that_hangs_is_seen_before_the_stream_has_stalled() -> None:
    def hanging(now_s: float, life: WorkerLife) -> WorkerLife:
        return receive(life, stats(1).model_copy(update={"stuck": ("engine",)}), now_s, TIMING)

    life = hanging(5, hanging(1, running()))
    assert overdue(life, 11, TIMING, 60) is None
    late = overdue(life, 11.1, TIMING, 60)
    assert late is not None
    assert (late.code, late.detail) == ("engine_stuck", "a call of its engine does not come back")
    assert blames_engine(late)
    assert overdue(receive(life, stats(1), 12, TIMING), 20, TIMING, 60) is None, "it came back"


def test_end_that_a_neighbour_brought_about_costs_no_time_and_no_blame() -> None:
    life = replace(running(), attempt=2)
    life = left_with(
        advance(life, WorkerEvent.ENDED, 5, TIMING), (), Failure(code="neighbour", detail="yard")
    )
    assert is_forgiven(life)
    life = advance(life, WorkerEvent.EXITED, 5, TIMING)
    assert (life.state, life.retry_s, life.attempt) == (WorkerState.BACKING_OFF, 5, 2)


@pytest.mark.parametrize(
    ("stuck", "code", "outside"),
    [
        (("source",), "source", True),
        (("sink:webhook",), "sink_stuck", True),
        (("source", "engine"), "engine_stuck", False),
    ],
)
def test_what_a_stream_left_behind_says_whose_fault_it_was(
    stuck: tuple[str, ...], code: str, outside: bool
) -> None:
    fault = left_with(running(), stuck, None).fault
    assert fault is not None
    assert (fault.code, not blames_engine(fault)) == (code, outside)


def test_worker_that_is_ready_twice_breaks_the_protocol() -> None:
    with pytest.raises(ProtocolError, match="was already"):
        receive(running(), Ready(stream="yard", seconds=1), 1, TIMING)


def test_why_a_swap_was_refused_is_known_when_the_process_has_ended() -> None:
    """A worker that cannot open the new engine and then loses the old one, too, says both in one breath: who
    asked for the swap may look only afterwards."""
    life = running()
    parts, _ = life.parts.swap("yard", "detector", ENGINES[1])
    life = receive(
        replace(life, parts=parts),
        SwapFailed(stream="yard", part="detector", manifest="m1", error=CRASH),
        1,
        TIMING,
    )
    life = failed(life, WorkerEvent.ENDED, 2)
    assert life.parts.heard("detector")[1] == CRASH
    life = advance(life, WorkerEvent.BACK_OFF_OVER, 3, TIMING)
    assert running(3, life).parts.heard("detector")[1] is None, "a new process has refused nothing"


# ---- any order


class AnyOrder(RuleBasedStateMachine):
    """Any events that the shell and a worker can cause, in any order, at any time, beside a model of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.life = WorkerLife()
        self.processes = 0
        self.runs: EngineRef | None = None
        """What the worker of this model runs."""
        self.warm: EngineRef | None = None
        self.inbox: list[EngineRef] = []
        """Swaps that the worker has not answered."""

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(data=st.data(), jitter=st.floats(0, 1))
    def something_happens(self, data: st.DataObject, jitter: float) -> None:
        # the worker itself says READY; CLOSE is tried in every state by an invariant
        others = (WorkerEvent.READY, WorkerEvent.CLOSE)
        possible = sorted(e for s, e in WORKER_TABLE if s is self.life.state and e not in others)
        event = data.draw(st.sampled_from(possible))
        engine = data.draw(st.sampled_from(sorted(ENGINES)))
        fault = data.draw(st.sampled_from([None, CRASH, CAMERA]))
        self.life = advance(
            self.life,
            event,
            self.now_s,
            TIMING,
            engines={"detector": ENGINES[engine]},
            fault=fault,
            jitter=jitter,
        )
        if event is WorkerEvent.LAUNCHED:
            self.processes += 1
        elif event is WorkerEvent.EXITED:
            self.processes -= 1
            self.runs, self.warm, self.inbox = None, None, []

    @precondition(lambda self: self.life.state in (WorkerState.WAITING, WorkerState.LAUNCHING))
    @rule(engine=st.sampled_from(sorted(ENGINES)))
    def worker_starts(self, engine: int) -> None:
        if self.life.state is WorkerState.WAITING:
            self.life = advance(
                self.life, WorkerEvent.ENGINES, self.now_s, TIMING, engines={"detector": ENGINES[engine]}
            )
        self.life = advance(self.life, WorkerEvent.LAUNCHED, self.now_s, TIMING)
        self.processes += 1

    @precondition(lambda self: self.life.state is WorkerState.LOADING)
    @rule()
    def worker_is_ready(self) -> None:
        self.runs = self.life.launched["detector"]
        self.hear(Ready(stream="yard", seconds=1))

    @precondition(lambda self: self.life.state is WorkerState.RUNNING and not self.life.parts.asked)
    @rule(engine=st.sampled_from(sorted(ENGINES)))
    def switch(self, engine: int) -> None:
        parts, message = self.life.parts.switch("yard", "detector", ENGINES[engine])
        self.life = replace(self.life, parts=parts)
        if message.op == "revert":
            assert self.warm is not None, "only an engine that is still warm can be gone back to"
            self.runs, self.warm = self.warm, None
        else:
            self.inbox.append(ENGINES[engine])

    @precondition(lambda self: self.life.state is WorkerState.RUNNING and self.inbox)
    @rule(takes=st.booleans())
    def worker_answers(self, takes: bool) -> None:
        ref = self.inbox.pop(0)
        if takes:
            self.runs, self.warm = ref, self.runs
            self.hear(Swapped(stream="yard", part="detector", manifest=ref.manifest, gap_ms=1))
        else:
            self.hear(SwapFailed(stream="yard", part="detector", manifest=ref.manifest, error=CRASH))

    @precondition(lambda self: self.life.state is WorkerState.RUNNING)
    @rule()
    def commit(self) -> None:
        self.life = replace(self.life, parts=self.life.parts.committed("detector"))
        self.warm = None

    @precondition(lambda self: self.life.state is WorkerState.RUNNING)
    @rule(engine=st.sampled_from(sorted(ENGINES)))
    def worker_answers_what_nobody_asked(self, engine: int) -> None:
        asked = self.life.parts.asked.get("detector")
        if asked is None or asked.manifest != ENGINES[engine].manifest:
            with pytest.raises(ProtocolError):
                self.hear(
                    Swapped(stream="yard", part="detector", manifest=ENGINES[engine].manifest, gap_ms=1)
                )

    @precondition(lambda self: self.life.state in (WorkerState.LOADING, WorkerState.RUNNING))
    @rule(frames=st.integers(0, 3))
    def worker_counts_frames(self, frames: int) -> None:
        self.hear(stats(max(0, self.life.processed) + frames))

    def hear(self, message: FromWorker) -> None:
        self.life = receive(self.life, message, self.now_s, TIMING)

    @invariant()
    def there_are_never_two_processes(self) -> None:
        assert self.processes == (self.life.state in IN_WORKER)

    @invariant()
    def what_it_is_said_to_run_is_what_it_runs(self) -> None:
        serving = self.life.parts.serving.get("detector")
        if self.life.state is WorkerState.RUNNING:
            assert serving == self.runs
            assert self.life.parts.standby.get("detector") in (None, self.warm)
        else:
            assert serving is None
            assert not self.life.parts.asked

    @invariant()
    def the_back_off_is_bounded(self) -> None:
        low, high = TIMING.backoff_s
        assert low / 2 <= back_off_s(self.life.attempt, TIMING, 0.0)
        assert back_off_s(self.life.attempt, TIMING, 1.0) <= high
        if self.life.state is WorkerState.BACKING_OFF:
            assert self.life.retry_s <= self.now_s + high

    @invariant()
    def the_agent_can_always_close_it(self) -> None:
        life = self.life
        for event in (WorkerEvent.CLOSE, WorkerEvent.EXITED):
            if (life.state, event) in WORKER_TABLE:
                life = advance(life, event, self.now_s, TIMING)
        assert life.state is WorkerState.CLOSED

    @invariant()
    def a_process_that_makes_no_progress_is_given_up_in_bounded_time(self) -> None:
        if self.life.state in (WorkerState.LOADING, WorkerState.RUNNING):
            assert overdue(self.life, self.now_s + TIMING.start_s + STALL_S + 1, TIMING, STALL_S) is not None


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
