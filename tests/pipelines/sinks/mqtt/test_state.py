"""What a stream is like now."""

from __future__ import annotations

import dataclasses
from typing import Any

from support.pipelines import tracks

from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.mqtt.state import StreamState
from edgectl.pipelines.video.attribute import Attribute


def zone(phase: str, track: int, label: str = "person") -> dict[str, Any]:
    return {"type": "zone", "rule": "yard", "phase": phase, "track": track, "label": label}


def state() -> StreamState:
    return StreamState(("person", "car"), ("yard",), ("gate",), 100.0)


def test_who_is_where_is_counted_by_label() -> None:
    s = state()
    assert s.hear(
        StreamOutput((zone("enter", 1), zone("enter", 2, "car")), None, tracks((1, 5, 5), (2, 9, 9)))
    )
    assert s.value()["objects"] == {"all": 2, "person": 2, "car": 0}
    assert s.value()["zones"] == {"yard": {"all": 2, "person": 1, "car": 1}}
    assert s.hear(StreamOutput((zone("leave", 1),)))
    assert s.value()["zones"] == {"yard": {"all": 1, "car": 1}}
    assert s.hear(StreamOutput(({"type": "tracked_object", "phase": "end", "track": 2},)))
    assert s.value()["zones"] == {"yard": {"all": 0}}


def test_a_frame_that_changes_nothing_is_no_other_state() -> None:
    s = state()
    assert s.hear(StreamOutput((), None, tracks((1, 5, 5)), 0.0, 7.0))
    assert not s.hear(StreamOutput((), None, tracks((1, 6, 5)), 0.1, 7.0))


def test_lines_tell_what_they_counted_and_a_camera_what_is_wrong_with_it() -> None:
    s = state()
    counts = {"in": {"person": 3, "car": 1}, "out": {}}
    assert s.hear(StreamOutput(({"type": "line_crossing", "rule": "gate", "counts": counts},)))
    assert s.value()["lines"] == {"gate": {"in": 4, "out": 0}}
    away = {"type": "capability", "name": "source", "available": False, "reason": "timeout"}
    assert s.hear(StreamOutput((away,)))
    assert s.value()["source"] == "timeout"
    assert s.hear(StreamOutput(({**away, "available": True},)))
    assert s.value()["source"] == "ok"
    assert not s.hear(StreamOutput(({**away, "name": "sink"},)))


def test_speed_is_measured_between_two_calls_and_a_percentile_needs_samples() -> None:
    s = state()
    for i in range(50):
        s.hear(StreamOutput((), None, tracks(), i / 10, float(i)))
    assert s.value()["fps"] is None
    s.measure(105.0)
    assert (s.value()["fps"], s.value()["age_p95_ms"]) == (10.0, 46.0)
    s.hear(StreamOutput((), None, tracks(), 5.0, 1.0))
    s.measure(110.0)
    assert (s.value()["fps"], s.value()["age_p95_ms"]) == (0.2, None)


def test_what_is_wrong_with_a_camera_stays_until_all_of_it_is_over() -> None:
    state = StreamState((), (), (), 0)

    def hear(name: str, reason: str, *, over: bool) -> tuple[str, str | None]:
        record = {"type": "capability", "name": name, "reason": reason, "available": over}
        state.hear(StreamOutput((record,)))
        return state.value()["source"], state.value()["blind"]

    assert hear("picture", "frozen", over=False) == ("frozen", None)
    assert hear("picture", "dark", over=False) == ("dark", None)
    assert hear("rules", "dark", over=False) == ("dark", "dark")
    assert hear("picture", "dark", over=True) == ("frozen", "dark")
    assert hear("rules", "dark", over=True) == ("frozen", None)
    assert hear("source", "timeout", over=False) == ("timeout", None)
    assert hear("source", "timeout", over=True) == ("frozen", None)
    assert hear("picture", "frozen", over=True) == ("ok", None)


def test_a_state_that_begins_in_the_middle_knows_who_is_there() -> None:
    state = StreamState(
        ("person",),
        ("yard",),
        ("gate",),
        0,
        inside={"yard": {3: "person"}, "gone": {4: "x"}},
        counted={"gate": {"in": 7}},
    )
    assert state.value()["zones"] == {"yard": {"all": 1, "person": 1}}
    assert state.value()["lines"] == {"gate": {"in": 7, "out": 0}}


def test_what_is_decided_is_counted_by_value() -> None:
    of = StreamState(("person",), (), (), 0.0, {"gear": ("helmet", "no-helmet"), "plate": ()})
    assert of.value()["attributes"] == {"gear": {"helmet": 0, "no-helmet": 0}, "plate": {}}
    found = {
        1: {"gear": Attribute("helmet", 0.9)},
        2: {"gear": Attribute("helmet", 0.7), "plate": Attribute("AB1", 0.8)},
    }
    two = dataclasses.replace(tracks((1, 100, 100), (2, 300, 300)), attributes=found)
    assert of.hear(StreamOutput((), tracks=two))
    assert of.value()["attributes"] == {"gear": {"helmet": 2, "no-helmet": 0}, "plate": {"AB1": 1}}
    assert not of.hear(StreamOutput((), tracks=two))
    assert of.hear(StreamOutput((), tracks=tracks((1, 100, 100), (2, 300, 300))))
    assert of.value()["attributes"]["plate"] == {}


def test_a_stream_without_second_stage_says_nothing_of_attributes() -> None:
    assert "attributes" not in state().value()
