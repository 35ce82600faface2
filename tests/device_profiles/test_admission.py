"""Whether an engine fits beside what runs: the sum, the reserve, the numbers. Pure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.memory import MIB, EngineMemory
from edgectl.device_profiles.admission import (
    Admission,
    Demand,
    MemoryBound,
    MemoryRoom,
    admit,
    larger,
    opening,
    warming,
)

BYTES = st.integers(0, 1 << 36)


def taking(resident: int, peak: int | None = None, **more: int) -> EngineMemory:
    """In MiB."""
    peak = resident if peak is None else peak
    sizes = {name: n * MIB for name, n in more.items()}
    return EngineMemory(source="measured", resident_bytes=resident * MIB, peak_bytes=peak * MIB, **sizes)


def machine(free: int, total: int = 2048) -> MemoryRoom:
    return MemoryRoom((MemoryBound(free * MIB, total * MIB, "this machine"),))


memories = st.builds(
    lambda resident, above, process, device: EngineMemory(
        source="measured",
        resident_bytes=resident,
        peak_bytes=resident + above,
        process_bytes=process,
        device_bytes=device,
    ),
    BYTES,
    BYTES,
    st.none() | BYTES,
    st.none() | BYTES,
)
bounds = st.builds(MemoryBound, BYTES, BYTES, st.just("here"))
rooms = st.builds(MemoryRoom, st.lists(bounds, max_size=3).map(tuple), st.none() | bounds, st.booleans())
demands = st.builds(Demand, st.none() | BYTES, st.none() | BYTES)


def test_a_refusal_says_what_is_needed_what_is_free_and_what_is_kept() -> None:
    room = MemoryRoom(
        (
            MemoryBound(9000 * MIB, 16000 * MIB, "this machine"),
            MemoryBound(180 * MIB, 2048 * MIB, "the cgroup /edgectl.slice"),
        )
    )
    assert admit(opening(taking(300, 412)), room, 64 * MIB) == Admission(
        False,
        "needs 412 MiB beside what runs; 180 MiB of 2048 are free (the cgroup /edgectl.slice), "
        "of which 64 MiB are kept in reserve",
    )


def test_every_process_opens_it_and_one_of_them_at_a_time_is_at_its_peak() -> None:
    engine = taking(100, 130, process_bytes=60)
    assert opening(engine, running=3) == Demand(330 * MIB, None)
    assert opening(engine, running=1, new=2) == Demand((330 + 2 * 128) * MIB, None), (
        "a worker that has yet to start takes more than the process of the measurement"
    )
    assert opening(engine, running=0, new=0) == Demand(0, None), "nothing runs it"
    assert opening(taking(1, device_bytes=5), running=0, new=0) == Demand(0, 0)
    large = taking(100, 130, process_bytes=500)
    assert opening(large, running=0, new=1) == Demand(630 * MIB, None)


def test_one_lighter_engine_may_be_open_beside_it() -> None:
    engine = taking(100, 130)
    assert opening(engine, [taking(40, 90), taking(50)], running=2) == Demand((2 * 150 + 50) * MIB, None)
    assert opening(engine, [None]) == Demand(230 * MIB, None), "one that nobody knows is like the engine"


def test_processes_share_the_engine_that_they_have_already() -> None:
    engine = taking(100, 130, device_bytes=7)
    assert opening(engine, running=2, again=2) == Demand(0, 0)
    assert opening(engine, [taking(40, 45)], running=2, again=2) == Demand(85 * MIB, 0)
    assert opening(engine, running=2, new=1, again=2) == Demand((130 + 128) * MIB, 7 * MIB)


def test_a_warm_up_takes_a_process_with_the_engine() -> None:
    assert warming(taking(100, 130, process_bytes=60)) == Demand(190 * MIB, None)
    assert larger(Demand(1, None), Demand(None, 5)) == Demand(1, 5)
    assert larger(Demand(1, 9), Demand(3, 5)) == Demand(3, 9)


def test_what_nobody_knows_is_not_refused_and_said() -> None:
    assert opening(None) == warming(None) == Demand()
    found = admit(Demand(), machine(0), 64 * MIB)
    assert (found.fits, found.sentence) == (None, "what it needs is not known")
    assert admit(Demand(MIB), MemoryRoom(), 0).fits is None


def test_the_gpu_has_its_own_memory_or_the_machines() -> None:
    compiled = EngineMemory(source="compiler", device_bytes=500 * MIB)
    gpu = MemoryBound(400 * MIB, 8000 * MIB, "the GPU")
    beside = MemoryRoom(machine(9000).host, gpu)
    assert "needs 500 MiB of the GPU" in admit(opening(compiled), beside, 0).sentence
    assert admit(opening(compiled), beside, 0).fits is False
    shared = MemoryRoom(machine(1000).host, None, unified=True)
    assert admit(opening(compiled), shared, 0).fits is True
    both = compiled.model_copy(update={"resident_bytes": 600 * MIB, "peak_bytes": 600 * MIB})
    assert "needs 1100 MiB beside" in admit(opening(both), shared, 0).sentence


def test_what_others_were_promised_is_waited_for_only_where_that_can_help() -> None:
    needed, others = Demand(100 * MIB), [Demand(150 * MIB)]
    found = admit(needed, machine(200), 0, others)
    assert (found.fits, found.waits) == (False, True)
    assert "and 150 MiB promised to others" in found.sentence
    hopeless = admit(needed, machine(50), 0, others)
    assert (hopeless.fits, hopeless.waits) == (False, False)
    assert admit(needed, machine(250), 0, others).fits is True


@given(demands, rooms, BYTES, st.lists(demands, max_size=2))
def test_less_memory_never_turns_a_refusal_into_a_yes(
    demand: Demand, room: MemoryRoom, reserve: int, promised: list[Demand]
) -> None:
    before = admit(demand, room, reserve, promised)
    for worse in (
        admit(demand, room, reserve + MIB, promised),
        admit(demand, room, reserve, [*promised, Demand(MIB, MIB)]),
        admit(larger(demand, Demand((demand.resident or 0) + 1, None)), room, reserve, promised),
    ):
        assert not (before.fits is False and worse.fits is not False)


@given(memories, rooms, BYTES)
def test_what_is_admitted_fits_every_bound_with_the_reserve_to_spare(
    memory: EngineMemory, room: MemoryRoom, reserve: int
) -> None:
    demand = opening(memory)
    if admit(demand, room, reserve).fits:
        assert demand.resident is not None
        for bound in room.host:
            needed = demand.resident + ((demand.device or 0) if room.unified else 0)
            assert needed + reserve <= bound.free


@given(memories, st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_a_sentence_never_refuses_what_it_calls_free(memory: EngineMemory, free: int, reserve: int) -> None:
    room = MemoryRoom((MemoryBound(free, 1 << 31, "this machine"),))
    found = admit(opening(memory.model_copy(update={"device_bytes": None})), room, reserve)
    needed, has, _ = map(int, re.findall(r"\d+", found.sentence)[:3])
    if found.fits is False:
        assert needed + -(-reserve // MIB) > has
    else:
        assert needed <= has + 1


@pytest.mark.parametrize("wrong", [{"resident_bytes": 5}, {"resident_bytes": 5, "peak_bytes": 4}])
def test_a_peak_below_what_stays_is_no_measurement(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="less than resident_bytes 5"):
        EngineMemory.model_validate({"source": "measured", **wrong})


def test_what_needs_nothing_fits_however_full_it_is() -> None:
    full = MemoryRoom(machine(40).host, MemoryBound(40 * MIB, 8000 * MIB, "the GPU"))
    assert admit(Demand(0, 0), full, 64 * MIB, [Demand(MIB, MIB)]).fits is True
    on_the_processor = larger(warming(taking(100)), opening(taking(100), running=0, new=0))
    beside = MemoryRoom(machine(1000).host, full.gpu)
    assert admit(on_the_processor, beside, 64 * MIB).fits is True, "it asks nothing of the GPU"
