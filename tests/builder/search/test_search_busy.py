"""The search on a machine that has other things to do: what it waits for, and what it leaves undecided."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.builder.fakes import Behaviour, FakeMachine
from support.builder.searching import FLOAT, INT8, Zoo, name, run

from edgectl.builder.search.candidates import Candidate, Cause
from edgectl.core.bundle import Precision
from edgectl.core.measured import Standing
from edgectl.engines.measure.processes import ProcessTimes

CLOSE = {FLOAT: Behaviour(10), INT8: Behaviour(8)}


def test_a_verdict_from_a_busy_machine_is_confirmed_when_it_is_quiet() -> None:
    machine = FakeMachine(CLOSE, busy=1.8, quiet_comes=True)
    choice = run(CLOSE, threads=(), machine=machine, wait_s=30)
    assert name(choice.winner).startswith("full/")
    assert (machine.waited_s, machine.fresh_calls, choice.busy) == (30, 2, ())


@pytest.mark.parametrize(("left", "waited"), [(12.0, 12.0), (0.0, 0.0)])
def test_a_quiet_moment_is_waited_for_only_while_there_is_time(left: float, waited: float) -> None:
    machine = FakeMachine(CLOSE, busy=1.8)
    run(CLOSE, threads=(), machine=machine, wait_s=30, left=lambda: 0.0 if machine.waited_s else left)
    assert machine.waited_s == pytest.approx(waited, abs=1.0)


def test_no_quiet_moment_is_waited_for_if_measuring_again_takes_longer_than_is_left() -> None:
    class Slow(FakeMachine):
        def fresh(self, candidates: Sequence[Candidate]) -> dict[str, ProcessTimes]:
            self.now += 20_000_000_000
            return super().fresh(candidates)

    machine = Slow(CLOSE, busy=1.8)
    run(CLOSE, threads=(), machine=machine, wait_s=30, left=lambda: 12.0)
    assert machine.waited_s == 0


def test_where_it_stays_busy_float_ships_first_and_the_other_behind_it_undecided() -> None:
    machine = FakeMachine(CLOSE, busy=1.8)
    choice = run(CLOSE, threads=(), machine=machine, wait_s=30)
    assert choice.winner.candidate.is_float
    assert machine.waited_s == 30
    last = choice.picks[-1]
    assert (last.preferences, last.outcome.cause, last.outcome.standing) == (
        (),
        Cause.UNDECIDED,
        Standing.UNDECIDED,
    )
    assert choice.busy == ("other processes took 1.8 of 2 cores",)
    assert choice.reason.startswith("undecided: the machine was busy (other processes took 1.8 of 2 cores)")
    assert "edgectl bench DIR --decide" in choice.reason


def test_what_is_clear_by_more_than_a_neighbour_can_do_is_decided_on_a_busy_machine_too() -> None:
    zoo = {FLOAT: Behaviour(10), INT8: Behaviour(5)}
    machine = FakeMachine(zoo, busy=1.8)
    assert name(run(zoo, threads=(), machine=machine, wait_s=30).winner).startswith("full/")
    assert machine.waited_s == 0
    short = {k: Behaviour(b.ms / 20) for k, b in zoo.items()}  # 0.5 and 0.25 ms: that may be the caches
    assert run(short, threads=(), machine=FakeMachine(short, busy=1.8)).winner.candidate.is_float


@pytest.mark.parametrize(("left_s", "judged"), [(1000.0, 5), (40.0, 2)])
def test_where_measuring_needs_the_time_that_is_left_only_the_first_in_int8_is_judged(
    left_s: float, judged: int
) -> None:
    zoo: Zoo = {
        FLOAT: Behaviour(10),
        ("conv-only", "onnxruntime"): Behaviour(5),
        ("conv-only", "openvino"): Behaviour(5),
        ("full", "onnxruntime"): Behaviour(6),
        ("full", "openvino"): Behaviour(6),
    }
    choice = run(zoo, threads=(), left=lambda: left_s, measuring_s=50.0)
    late = {name(o) for o in choice.outcomes if o.cause is Cause.OUT_OF_TIME}
    assert len(zoo) - len(late) == judged
    assert "full/onnxruntime/1" not in late, "all of it in int8 comes before parts of it"
    assert not any(n.startswith("float/") for n in late)


def test_where_measuring_needs_the_time_that_is_left_the_first_of_each_precision_is_still_judged() -> None:
    zoo: Zoo = {
        FLOAT: Behaviour(10),
        ("float", "openvino"): Behaviour(9),
        ("float", "openvino", "bf16"): Behaviour(8),
        ("float", "openvino", "f16"): Behaviour(8),
        ("full", "onnxruntime"): Behaviour(5),
        ("full", "openvino"): Behaviour(6),
        ("no-head", "onnxruntime"): Behaviour(5),
    }
    choice = run(zoo, threads=(), left=lambda: 40.0, measuring_s=50.0)
    late = {name(o) for o in choice.outcomes if o.cause is Cause.OUT_OF_TIME}
    assert late == {"full/openvino/1", "no-head/onnxruntime/1"}
    assert name(choice.winner).startswith("full/onnxruntime/1")


@pytest.mark.parametrize("received", ["float32", "int8"])
def test_where_measuring_needs_the_time_that_is_left_one_that_loses_too_much_stands_for_no_other(
    received: Precision,
) -> None:
    zoo: Zoo = {
        FLOAT: Behaviour(10),
        INT8: Behaviour(5, searched=0.5),
        ("no-head", "onnxruntime"): Behaviour(6),
    }
    choice = run(zoo, threads=(), left=lambda: 40.0, measuring_s=50.0, received=received)
    assert name(choice.winner).startswith("no-head/")


@pytest.mark.parametrize(("left_s", "again"), [(1000.0, True), (0.0, False)])
def test_without_time_no_float_is_measured_again_that_an_early_round_left_out(
    left_s: float, again: bool
) -> None:
    """Two threads are faster and int8 does not hold: of those that take one thread, only that float is left."""
    zoo = {FLOAT: Behaviour(20, scaling=0.4), INT8: Behaviour(5, confirmed=0.5)}
    choice = run(zoo, left=lambda: left_s)
    one_thread = next(o for o in choice.outcomes if name(o) == "float/onnxruntime/1")
    assert [r.index for r in one_thread.rounds] == [0, 1, *([2] if again else [])]
    assert name(choice.winner) == "float/onnxruntime/2/no-arena"
