"""Who shares a worker, and whose fault its end is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgectl.agent.config import StreamConfig
from edgectl.agent.streams.worker_sharing import (
    WorkerGroup,
    culprits,
    must_replace,
    needs_own_worker,
    worker_groups,
)


def stream(kind: str = "surveillance", *, isolate: bool = False, **slots: str) -> StreamConfig:
    return StreamConfig(
        kind=kind, source="synth://yard", slots=slots or {"detector": "gate"}, isolate=isolate
    )


def test_streams_of_a_kind_with_the_same_slots_share_a_worker_that_is_named_after_the_first() -> None:
    groups = worker_groups(
        {
            "gate": stream(),
            "road": stream("driving"),
            "yard": stream(),
            "dock": stream(detector="other"),
            "door": stream(isolate=True),
            "hall": stream(),
        }
    )
    assert [g.streams for g in groups] == [("gate", "yard", "hall"), ("road",), ("dock",), ("door",)]
    assert [g.name for g in groups] == ["gate+2", "road", "dock", "door"]


def test_microphones_and_kinds_of_other_packages_have_a_process_each() -> None:
    speech = stream("speech", vad="vad")
    # of a package that is not installed here
    other = stream().model_copy(update={"kind": "sorting"})
    groups = worker_groups({"desk": speech, "bar": speech, "belt": other, "chute": other})
    assert [g.streams for g in groups] == [("desk",), ("bar",), ("belt",), ("chute",)]


SLOTS = st.dictionaries(st.sampled_from(["detector", "classifier"]), st.sampled_from(["a", "b"]), min_size=1)


@given(
    st.dictionaries(
        st.sampled_from(list("klmnopq")),
        st.builds(
            lambda kind, slots, isolate: stream(kind, isolate=isolate, **slots),
            st.sampled_from(["surveillance", "driving", "speech"]),
            SLOTS,
            st.booleans(),
        ),
    )
)
def test_every_stream_is_in_one_worker_and_none_shares_one_with_a_stranger(
    pipelines: dict[str, StreamConfig],
) -> None:
    groups = worker_groups(pipelines)
    assert sorted(s for g in groups for s in g.streams) == sorted(pipelines)
    assert len({g.name for g in groups}) == len(groups)
    for group in groups:
        first = pipelines[group.streams[0]]
        for name in group.streams:
            assert (pipelines[name].kind, pipelines[name].slots) == (first.kind, first.slots)
            assert group == WorkerGroup((name,)) or not pipelines[name].isolate


def test_blame_falls_on_who_was_trying_or_on_nobody() -> None:
    assert culprits(["yard", "hall"]) == {"yard", "hall"}
    assert culprits([]) is None


def test_worker_is_replaced_when_an_engine_hangs_or_too_much_has_been_left_behind() -> None:
    assert must_replace((), 9) is None
    assert must_replace(("source",), 1) is None
    assert must_replace(("source", "sink:webhook"), 2) is None
    assert must_replace(("source",), 3) == "3 streams could not be stopped"
    assert must_replace(("source", "engine"), 1) == "a call of its engine does not come back"
    assert must_replace(("stream",), 1) is not None, "nobody knows what the others still wait for"


def test_third_crash_within_an_hour_isolates() -> None:
    assert not needs_own_worker([0.0, 10.0], 10.0, 3)
    assert needs_own_worker([0.0, 10.0, 3599.0], 3599.0, 3)
    assert not needs_own_worker([0.0, 10.0, 3601.0], 3601.0, 3)
