"""Frigate's messages of a stream, field by field."""

from __future__ import annotations

import json
import re
from typing import Any

import cv2
import numpy as np
import pytest
from support.pipelines import tracks

from edgectl.pipelines.sinks.base import SinkContext, StreamControl, StreamOutput
from edgectl.pipelines.sinks.mqtt.connection import Said
from edgectl.pipelines.sinks.mqtt.frigate import FrigateConfig, FrigateVoice
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.video.tracker import Tracks

DOCUMENTED: dict[str, Any] = {
    "id": "1607123955.475377-mxklsc",
    "camera": "front_door",
    "frame_time": 1607123961.837752,
    "snapshot_time": 1607123961.837752,
    "label": "person",
    "top_score": 0.958984375,
    "false_positive": False,
    "start_time": 1607123955.475377,
    "end_time": None,
    "score": 0.7890625,
    "box": [424, 500, 536, 712],
    "area": 23744,
    "region": [264, 450, 667, 853],
    "current_zones": ["driveway"],
    "entered_zones": ["yard", "driveway"],
    "thumbnail": None,
    "has_snapshot": False,
    "has_clip": False,
    "stationary": False,
    "motionless_count": 0,
    "position_changes": 2,
}
"""The object of an event in Frigate's documentation."""


def record(phase: str, t_s: float, track: int = 7, **more: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "type": "tracked_object",
        "phase": phase,
        "t_s": t_s,
        "time": 1607123945.0 + t_s,
        "track": track,
        "label": "person",
        "score": 0.79,
        "top_score": 0.96,
        "box": [424.2, 500.1, 536.4, 711.8],
        "frame_size": [1280, 720],
        "start_s": 10.475377,
        "age_s": 0.0,
        "zones": ["driveway"],
        "entered_zones": ["yard", "driveway"],
        **more,
    }


def voice(**kw: Any) -> FrigateVoice:
    context = SinkContext("front_door", None, 10.0, ("person", "car"), ("yard",), (), StreamControl())
    return FrigateVoice(FrigateConfig(**kw), context, 0.0)


def of(said: Any, topic: str) -> list[Said]:
    return [s for s in said if s.topic == topic]


def test_an_event_has_every_field_that_frigate_documents_in_its_form() -> None:
    v = voice()
    [new] = of(v.hear(StreamOutput((record("new", 10.475377),)), 10.0), "frigate/events")
    [update] = of(
        v.hear(StreamOutput((record("update", 16.8, zones=[], score=0.88),)), 16.0), "frigate/events"
    )
    [end] = of(v.hear(StreamOutput((record("end", 20.0),)), 20.0), "frigate/events")
    assert (new.kind, update.kind, end.kind) == ("event", "update", "event")
    values = [json.loads(s.payload) for s in (new, update, end)]
    assert [value["type"] for value in values] == ["new", "update", "end"]
    for value in values:
        assert set(value) == {"type", "before", "after"}
        for side in (value["before"], value["after"]):
            assert set(DOCUMENTED) <= set(side)
            for name, example in DOCUMENTED.items():
                kinds = {"end_time": (float, type(None))}.get(name, (type(example),))
                assert isinstance(side[name], kinds), name
            assert re.fullmatch(r"\d+\.\d{6}-[a-z]{6}", side["id"])
    after = values[0]["after"]
    assert after["id"].startswith("1607123955.475377-")
    same = (
        "camera",
        "label",
        "false_positive",
        "start_time",
        "end_time",
        "box",
        "area",
        "current_zones",
        "entered_zones",
    )
    assert {k: after[k] for k in same} == {k: DOCUMENTED[k] for k in same}
    assert values[1]["before"] == after
    assert values[1]["after"]["current_zones"] == []
    assert values[2]["before"] == values[1]["after"]
    assert values[2]["after"]["end_time"] == 1607123965.0
    assert len({side["id"] for value in values for side in (value["before"], value["after"])}) == 1


def test_the_box_of_what_lies_in_a_mask_is_no_place() -> None:
    [said] = of(voice().hear(StreamOutput((record("new", 10.0, box=None),)), 10.0), "frigate/events")
    after = json.loads(said.payload)["after"]
    assert (after["box"], after["area"]) == ([0, 0, 0, 0], 0)


def one(x: float, score: float = 0.9) -> Tracks:
    found = tracks((7, x, 300))
    return Tracks(found.ids, found.xyxy, np.array([score], np.float32), found.cls, found.seen, 1000, 1000)


def test_who_stands_still_is_stationary_and_his_next_move_is_counted() -> None:
    v = voice()
    v.hear(StreamOutput((record("new", 0.0),)), 0.0)
    for i in range(1, 120):
        v.hear(StreamOutput((), None, one(300)), i / 10)
    [said] = of(v.hear(StreamOutput((record("update", 12.0),)), 12.0), "frigate/events")
    still = json.loads(said.payload)["after"]
    assert (still["stationary"], still["active"], still["motionless_count"]) == (True, False, 118)
    v.hear(StreamOutput((), None, one(500)), 12.1)
    [said] = of(v.hear(StreamOutput((record("update", 12.2),)), 12.2), "frigate/events")
    moved = json.loads(said.payload)["after"]
    assert (moved["stationary"], moved["motionless_count"], moved["position_changes"]) == (False, 0, 1)


def test_counts_are_told_when_they_change_for_camera_and_zone() -> None:
    v = voice()
    enter = {"type": "zone", "rule": "yard", "phase": "enter", "track": 7, "label": "person"}

    def counts(said: Any) -> dict[str, bytes]:
        return {s.topic: s.payload for s in said if s.topic.rsplit("/", 1)[1] in ("person", "car", "all")}

    first = v.hear(StreamOutput((enter,), None, one(300)), 0.0)
    assert counts(first) == {
        "frigate/front_door/person": b"1",
        "frigate/front_door/all": b"1",
        "frigate/yard/person": b"1",
        "frigate/yard/all": b"1",
    }
    assert counts(v.hear(StreamOutput((), None, one(301)), 0.1)) == {}
    leave = {**enter, "phase": "leave"}
    assert counts(v.hear(StreamOutput((leave,)), 0.2)) == {
        "frigate/yard/person": b"0",
        "frigate/yard/all": b"0",
    }
    gone = v.hear(StreamOutput((), None, tracks()), 0.3)
    assert counts(gone) == {"frigate/front_door/person": b"0", "frigate/front_door/all": b"0"}
    assert {s.topic for s in v.birth()} >= {"frigate/yard/all", "frigate/front_door/person"}


def test_motion_is_off_half_a_minute_after_the_last_object() -> None:
    v = voice()
    topic = "frigate/front_door/motion"
    assert [s.payload for s in of(v.hear(StreamOutput((), None, one(1)), 0.0), topic)] == [b"ON"]
    assert of(v.hear(StreamOutput((), None, one(1)), 5.0), topic) == []
    assert of(v.hear(StreamOutput((), None, tracks()), 34.9), topic) == []
    assert [s.payload for s in of(v.hear(StreamOutput((), None, tracks()), 35.0), topic)] == [b"OFF"]
    assert of(v.hear(StreamOutput((), None, tracks()), 36.0), topic) == []


def test_a_snapshot_is_a_crop_of_the_best_and_sent_again_only_when_there_is_a_better_one() -> None:
    v = voice()
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[200:320, 260:340] = 200
    shown = ShownFrame(Frame.of_bgr(image, Stamp(0, 0, 0)))
    topic = "frigate/front_door/person/snapshot"
    [said] = of(v.hear(StreamOutput((), shown, one(300, 0.6)), 0.0), topic)
    assert said.retain
    picture = cv2.imdecode(np.frombuffer(said.payload, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    assert picture.mean() > 180  # the person fills it
    assert of(v.hear(StreamOutput((), shown, one(300, 0.6)), 2.0), topic) == []
    assert of(v.hear(StreamOutput((), shown, one(300, 0.8)), 3.0), topic)
    assert of(v.hear(StreamOutput((), shown, one(300, 0.9)), 3.5), topic) == []  # at most once a second


@pytest.mark.parametrize("box", [(-50, -50, -10, -10), (2000, 2000, 2100, 2100), (10, 10, 10, 10)])
def test_a_box_at_or_beyond_the_edge_gives_a_picture_all_the_same(box: tuple[float, ...]) -> None:
    shown = ShownFrame(Frame.of_bgr(np.zeros((40, 40, 3), np.uint8), Stamp(0, 0, 0)))
    found = one(300)
    off = Tracks(found.ids, np.array([box], np.float32), found.score, found.cls, found.seen, 40, 40)
    assert of(voice().hear(StreamOutput((), shown, off), 0.0), "frigate/front_door/person/snapshot")


def test_stats_and_the_switch_speak_frigates_words() -> None:
    v = voice(topic="nvr", camera="door")
    for i in range(600):
        assert not of(v.hear(StreamOutput((), None, tracks()), i / 10), "nvr/stats")
    [stats] = of(v.hear(StreamOutput((), None, tracks()), 60.0), "nvr/stats")
    value = json.loads(stats.payload)
    assert value["cameras"]["door"]["process_fps"] == pytest.approx(10, abs=0.1)
    assert {"camera_fps", "detection_fps", "detection_enabled"} <= set(value["cameras"]["door"])
    assert {"uptime", "version", "last_updated"} <= set(value["service"])
    [said] = v.commands()["nvr/door/detect/set"](b"OFF")
    assert (said.topic, said.payload, said.retain) == ("nvr/door/detect/state", b"OFF", True)
    assert v.availability == "nvr/available"


DOCUMENTED_ATTRIBUTE = {
    "type": "classification",
    "id": "1607123955.475377-mxklsc",
    "camera": "front_door_cam",
    "timestamp": 1607123958.748393,
    "model": "helmet_detector",
    "attribute": "yes",
    "score": 0.92,
}
DOCUMENTED_SUB_LABEL = {
    **{k: v for k, v in DOCUMENTED_ATTRIBUTE.items() if k != "attribute"},
    "sub_label": "Leo",
}
"""``frigate/tracked_object_update`` in Frigate's documentation."""


def gear(value: str, score: float = 0.92) -> dict[str, Any]:
    return {"attributes": {"gear": {"value": value, "score": score}}}


def test_what_a_second_stage_decides_is_told_once_as_frigate_tells_an_attribute() -> None:
    v = voice()
    said = []
    for phase, t, more in (
        ("new", 10.0, {}),
        ("update", 11.0, gear("yes")),
        ("update", 12.0, gear("yes", 0.95)),
        ("update", 13.0, gear("no")),
        ("end", 14.0, gear("no")),
    ):
        output = v.hear(StreamOutput((record(phase, t, **more),)), t)
        said += [json.loads(s.payload) for s in of(output, "frigate/tracked_object_update")]
    assert [(s["attribute"], s["timestamp"]) for s in said] == [("yes", 1607123956.0), ("no", 1607123958.0)]
    assert said[0].keys() == DOCUMENTED_ATTRIBUTE.keys()
    assert {k: type(x) for k, x in said[0].items()} == {k: type(x) for k, x in DOCUMENTED_ATTRIBUTE.items()}
    assert (said[0]["model"], said[0]["camera"], said[0]["score"]) == ("gear", "front_door", 0.92)


def test_one_part_can_be_the_sub_label() -> None:
    v = voice(sub_label="gear")
    v.hear(StreamOutput((record("new", 10.0),)), 10.0)
    more = {
        "attributes": {
            **gear("Leo")["attributes"],
            "label": {"value": "x", "score": 0.5},
            "collar": {"value": "red", "score": 0.7},
        }
    }
    output = v.hear(StreamOutput((record("update", 11.0, **more),)), 11.0)
    update = json.loads(of(output, "frigate/tracked_object_update")[0].payload)
    assert update.keys() == DOCUMENTED_SUB_LABEL.keys()
    assert update["sub_label"] == "Leo"
    [event] = of(output, "frigate/events")
    before, after = (json.loads(event.payload)[side] for side in ("before", "after"))
    assert (before["sub_label"], after["sub_label"]) == (None, ["Leo", 0.92])
    # another part is a field of its own, and none takes the place of one of Frigate's
    assert (after["collar"], after["label"]) == ("red", "person")
