"""A search whose candidates are timed on a device chooses what it would choose where they are timed here."""

from __future__ import annotations

import pytest
from support.builder.devices import FakeDevice, FakeElsewhere
from support.builder.fakes import Behaviour, FakeJudge, FakeMachine, base

from edgectl.builder.search.candidates import Choice
from edgectl.builder.search.elsewhere import DeviceMachine
from edgectl.builder.search.machine import TimingMachine
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.errors import LinkError, ProtocolError
from edgectl.engines.measure.job_child import MeasureResult

Zoo = dict[tuple[str, ...], Behaviour]
ZOOS: dict[str, Zoo] = {
    "int8 is faster": {
        ("float", "onnxruntime"): Behaviour(10.0),
        ("full", "onnxruntime"): Behaviour(4.0),
        ("no-head", "openvino"): Behaviour(3.0, confirmed=0.5),
        ("float", "openvino"): Behaviour(8.0),
    },
    "int8 is slower where a camera paces it": {
        ("float", "onnxruntime"): Behaviour(10.0),
        ("full", "onnxruntime"): Behaviour(9.0, paced_factor=1.4),
    },
    "one does not open, one dies in a process of its own": {
        ("float", "onnxruntime"): Behaviour(10.0),
        ("full", "onnxruntime"): Behaviour(2.0, fresh_fails=True),
        ("no-head", "onnxruntime"): Behaviour(5.0),
    },
    "twenty": {
        ("float", "onnxruntime"): Behaviour(10.0),
        ("float", "openvino"): Behaviour(9.0),
        **{(f"keep-{i}", r): Behaviour(4.0 + 0.7 * i) for i in range(9) for r in ("onnxruntime", "openvino")},
    },
}


def chosen(zoo: Zoo, machine: TimingMachine, fake: FakeMachine) -> Choice:
    return search(
        [base(*key) for key in zoo],
        FakeJudge(fake, "searched"),
        lambda: FakeJudge(fake, "confirmed"),
        Goal(max_drop=0.01, min_speedup=1.02, max_rss_mb=200),
        machine,
        TuningLog(None, {}),
        threads=(2,),
        seconds=5,
    )


def told(choice: Choice) -> list[tuple[str, tuple[str, ...]]]:
    return [(p.outcome.candidate.name, p.preferences) for p in choice.picks]


@pytest.mark.parametrize("name", ZOOS)
def test_choice_on_a_device_is_that_of_a_machine_that_is_like_it(name: str) -> None:
    zoo = ZOOS[name]
    here, there = FakeMachine(zoo), FakeMachine(zoo)
    device = FakeDevice(there)
    found = chosen(zoo, FakeElsewhere(device), there)
    assert told(found) == told(chosen(zoo, here, here))
    assert [j.kind for j in device.jobs][:3] == ["rounds"] * 3
    winner = found.winner.measured
    assert winner is not None
    assert winner.machine == device.machine.summary
    assert winner.conditions.load == 0.1
    assert winner.runtime_version == "fake 1"
    files = {d.digest for d in device.jobs[0].files}
    assert len(files) == 1 + len({key[0] for key in zoo}), "candidates that share a graph share its file"


def test_candidate_that_opens_here_and_not_there_is_left_out_with_the_words_of_the_device() -> None:
    zoo: Zoo = {("float", "onnxruntime"): Behaviour(10.0), ("full", "onnxruntime"): Behaviour(4.0)}
    here = FakeMachine(zoo)
    there = FakeMachine({**zoo, ("full", "onnxruntime"): Behaviour(4.0, opens=False)})
    elsewhere = FakeElsewhere(FakeDevice(there))
    elsewhere._fake = here
    found = chosen(zoo, elsewhere, here)
    assert found.winner.candidate.is_float
    rejected = next(o.rejected for o in found.outcomes if o.candidate.graph.recipe == "full")
    assert rejected == "does not run: full/onnxruntime/1 does not open"


def test_busy_device_is_waited_for_there() -> None:
    zoo: Zoo = {("float", "onnxruntime"): Behaviour(10.0), ("full", "onnxruntime"): Behaviour(8.5)}
    there = FakeMachine(zoo, busy=1.5, quiet_comes=True)
    device = FakeDevice(there)
    goal = Goal(max_drop=0.01, min_speedup=1.02, max_rss_mb=200, wait_s=20)
    found = search(
        [base(*key) for key in zoo],
        FakeJudge(there, "searched"),
        lambda: FakeJudge(there, "confirmed"),
        goal,
        FakeElsewhere(device),
        TuningLog(None, {}),
        seconds=5,
    )
    assert "quiet" in [j.kind for j in device.jobs]
    assert there.waited_s == 20
    assert not found.busy


def test_device_that_is_lost_ends_the_search_with_its_own_words() -> None:
    zoo = ZOOS["int8 is faster"]
    fake = FakeMachine(zoo)
    device = FakeDevice(fake, lost={2: LinkError("bench-1 is not connected")})
    with pytest.raises(LinkError, match="bench-1 is not connected"):
        chosen(zoo, FakeElsewhere(device), fake)


def _without_one(r: MeasureResult) -> MeasureResult:
    return r.model_copy(update={"rounds": dict(list(r.rounds.items())[1:])})


def _uneven(r: MeasureResult) -> MeasureResult:
    first = next(iter(r.rounds))
    short = r.rounds[first].model_copy(update={"ms": r.rounds[first].ms[1:]})
    return r.model_copy(update={"rounds": {**r.rounds, first: short}})


@pytest.mark.parametrize(
    ("changed", "words"), [(_without_one, "not about what it was asked"), (_uneven, "equally often")]
)
def test_answer_that_is_not_whole_is_not_used(changed: object, words: str) -> None:
    zoo = ZOOS["int8 is faster"]
    fake = FakeMachine(zoo)
    device = FakeDevice(fake, changed=changed)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match=words):
        chosen(zoo, FakeElsewhere(device), fake)


def test_job_of_a_build_that_may_take_a_day_is_one_that_a_device_takes() -> None:
    fake = FakeMachine({("float", "onnxruntime"): Behaviour(10.0)})
    device = FakeDevice(fake)
    FakeElsewhere(device).timed([base("float", "onnxruntime")], 36_000.0, 20, 20)
    assert device.jobs[0].timeout_s == 86_400.0


def test_job_has_time_for_as_many_calls_as_it_asks_for_on_a_device_that_is_slow() -> None:
    """So slow that what a call is taken for before the device has said it is too little for all but the first round."""
    zoo: Zoo = {
        ("float", "onnxruntime"): Behaviour(24_000.0),
        ("full", "onnxruntime"): Behaviour(16_000.0),
    }
    both_s = 40.0
    device = FakeDevice(FakeMachine(zoo))
    elsewhere = FakeElsewhere(device)
    candidates = [base(*key) for key in zoo]
    for _ in range(2):
        elsewhere.timed(candidates, 1.0, 20, 20)
    elsewhere.timed(candidates, 0.0, 200, 200)
    elsewhere.fresh(candidates)
    unknown, again, runoff, fresh = device.jobs
    assert unknown.timeout_s > (4 + 3) * both_s, "three rounds, which a device measures whatever its time is"
    assert again.timeout_s > (4 + 20) * both_s
    assert runoff.timeout_s > (4 + 200) * both_s
    assert fresh.timeout_s > fresh.runs * (4 + 3 * 4 * 2) * both_s
    assert runoff.seconds == 0, "as often as the finalists, however long that takes"
    assert again.seconds > 0


@pytest.mark.parametrize(("left_s", "runs"), [(1e9, 5), (1200.0, 3), (-1.0, 2)])
def test_slow_device_starts_as_many_processes_as_the_build_has_time_for(left_s: float, runs: int) -> None:
    fake = FakeMachine({("float", "onnxruntime"): Behaviour(12_000.0)})
    device = FakeDevice(fake)
    elsewhere = DeviceMachine(device, device.machine, FakeMachine.feeds, left=lambda: left_s)
    elsewhere.timed([base("float", "onnxruntime")], 1.0, 20, 20)
    elsewhere.fresh([base("float", "onnxruntime")])
    assert device.jobs[-1].runs == runs
