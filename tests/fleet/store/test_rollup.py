from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from edgectl.core.histogram import Histogram
from edgectl.core.wire import ENGINE_STAGE, Frames, StreamStats, Telemetry
from edgectl.fleet.store.rollup import DAY_S, HOUR_S, Key, Totals, measured, merge, packed, start_of, unpacked

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
_WITHIN = 1.011
"""A bucket is 2.2 % wide, and its middle is told."""


def histogram(*us: float) -> Histogram:
    h = Histogram()
    for value in us:
        h.record(value)
    return h


def _of(stages: dict[str, Histogram], **changes: object) -> Telemetry:
    stats = StreamStats(kind="surveillance", stages={n: h.data() for n, h in stages.items()}).model_copy(
        update=changes
    )
    return Telemetry(epoch=1, seq=1, window_s=60.0, streams={"gate": stats})


@given(
    values=st.lists(st.tuples(st.floats(2, 1e7), st.integers(0, 3 * DAY_S)), min_size=1, max_size=200),
    q=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
)
def test_days_merged_from_hours_hold_every_sample_and_its_percentiles(
    values: list[tuple[float, int]], q: float
) -> None:
    key, hours, days = Key("gate", A, "infer"), Totals(), Totals()
    merge(hours, ((key, start_of(at, HOUR_S), histogram(us)) for us, at in values))
    merge(days, ((k, start_of(s, DAY_S), unpacked(packed(h))) for (k, s), h in hours.items()))
    assert sum(h.n for h in days.values()) == len(values)
    for (_, start_s), h in days.items():
        mine = sorted(us for us, at in values if start_of(at, DAY_S) == start_s)
        exact, told = mine[int(q * (len(mine) - 1))], h.quantile_us(q)
        assert told is not None
        assert exact / _WITHIN <= told <= exact * _WITHIN


def test_engine_of_a_slot_is_told_apart_from_others_and_other_stages_are_the_streams_own() -> None:
    stages = {
        ENGINE_STAGE: histogram(1000),
        f"{ENGINE_STAGE}:plates": histogram(2000, 2000),
        "capture": histogram(3000),
    }
    found = measured(_of(stages, slots={"plates": B, "gate": A}, crops={"plates": Frames()}))
    assert {k: h.n for k, h in found.items()} == {
        Key("gate", A, ENGINE_STAGE): 1,
        Key("plates", B, ENGINE_STAGE): 2,
        Key("gate", A, "capture"): 1,
    }


def test_streams_that_share_an_engine_add_up() -> None:
    one = _of({ENGINE_STAGE: histogram(1000)}, slots={"gate": A}).streams["gate"]
    both = Telemetry(epoch=1, seq=1, window_s=60.0, streams={"a": one, "b": one})
    assert {k: h.n for k, h in measured(both).items()} == {Key("gate", A, ENGINE_STAGE): 2}


def test_lighter_variant_says_nothing_of_the_engine_in_whose_place_it_ran() -> None:
    stages = {ENGINE_STAGE: histogram(1000), "capture": histogram(3000)}
    found = measured(_of(stages, slots={"gate": A}, stand_ins={"gate": "low-power"}))
    assert list(found) == [Key("gate", A, "capture")]


def test_stream_without_an_engine_is_kept_under_no_slot() -> None:
    assert list(measured(_of({"capture": histogram(1.0)}))) == [Key("", "", "capture")]
    assert list(measured(_of({"infer:first": histogram(1.0)}, slots={"gate": A}))) == [
        Key("gate", A, "infer:first")
    ]
