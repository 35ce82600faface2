"""The second stage of a stream: what crops decide, in recordings and from cameras."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import Broker
from numpy.typing import NDArray
from support.fleet import wait_until
from support.pipelines import BoxEngine, ClassEngine, box_task, class_task, make_variant
from support.second_stage import ASKED, Boxes, Rig, two

from edgectl.core.bundle import TensorSpec, Variant
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.core.task import TaskSpec
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.replay import open_track_log, recorded_config, replay
from edgectl.pipelines.host.why import Moment, why
from edgectl.pipelines.stream.part import PartVariant

ALL = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}


def test_what_the_votes_decide_is_told_with_the_object_and_follows_a_change(
    tmp_path: Path, clip: Path
) -> None:
    rig = Rig(tmp_path, str(clip), {"second_stage": [{**ASKED, "again_s": 0, "classes": ["person"]}]}).run()
    assert rig.values(1) == [None, "helmet", "no-helmet"]
    assert rig.values(2) == [None]
    told = next(e for e in rig.of("tracked_object") if "attributes" in e)
    # the first sighting, and two more
    assert told["phase"] == "update"
    assert told["attributes"] == {"gear": {"value": "helmet", "score": pytest.approx(0.982, abs=1e-3)}}
    assert told["releases"] == {"detector": "yard@1", "gear": "gear@1"}
    assert rig.pipeline.error is None
    assert rig.crops.captured == rig.crops.processed == rig.second[0].runs - 2
    assert {"engine:gear", "avail_to_vote"} <= set(rig.pipeline.totals())


def test_the_crop_is_the_box_at_full_resolution_and_nothing_else(tmp_path: Path) -> None:
    image = np.full((480, 640, 3), 30, np.uint8)
    image[144:432, 64:192] = (10, 200, 90)
    (tmp_path / "stills").mkdir()
    cv2.imwrite(str(tmp_path / "stills" / "a.png"), image)
    seen = []

    def look(crop: NDArray[Any]) -> list[float]:
        seen.append(crop[0].copy())
        return [1.0, 0.0]

    Rig(
        tmp_path,
        str(tmp_path / "stills"),
        {"second_stage": [{**ASKED, "classes": ["person"]}]},
        logits_at=look,
    ).run()
    expected = np.array([90, 200, 10], np.float32)[:, None, None] / 255
    np.testing.assert_allclose(seen[-1], np.broadcast_to(expected, (3, 16, 16)), atol=2 / 255)


def test_of_still_pictures_one_answer_decides(tmp_path: Path) -> None:
    (tmp_path / "stills").mkdir()
    for i, level in enumerate((20, 220)):
        cv2.imwrite(str(tmp_path / "stills" / f"{i}.png"), np.full((96, 128, 3), level, np.uint8))
    rig = Rig(tmp_path, str(tmp_path / "stills")).run()
    first, second = (e["objects"] for e in rig.of("detections"))
    assert [o["attributes"]["gear"]["value"] for o in first + second] == ["helmet"] * 2 + ["no-helmet"] * 2


def test_a_value_of_the_background_is_no_attribute(tmp_path: Path, clip: Path) -> None:
    rig = Rig(
        tmp_path, str(clip), background=("helmet",), config={"second_stage": [{**ASKED, "again_s": 0}]}
    ).run()
    assert rig.values(1) == [None, "no-helmet"]


def test_an_answer_that_is_not_sure_is_no_vote(tmp_path: Path, clip: Path) -> None:
    config = {"second_stage": [{**ASKED, "score": 0.99}]}
    rig = Rig(tmp_path, str(clip), config).run()
    assert rig.values(1) == [None]
    assert rig.crops.processed == rig.crops.captured > 0


def test_parts_are_attributes_of_their_own(tmp_path: Path, clip: Path) -> None:
    stages = [ASKED, {**ASKED, "part": "vest", "classes": ["vehicle"]}]
    rig = Rig(tmp_path, str(clip), {"second_stage": stages}, parts=("gear", "vest")).run()
    said = {e["track"]: sorted(e["attributes"]) for e in rig.of("tracked_object") if "attributes" in e}
    assert said == {1: ["gear"], 2: ["gear", "vest"]}


def test_what_lies_in_a_mask_is_not_looked_at(tmp_path: Path, clip: Path) -> None:
    mask = {"polygon": [0, 0, 0.5, 0, 0.5, 1, 0, 1]}
    rig = Rig(tmp_path, str(clip), {"privacy": {"masks": [mask]}}).run()
    assert rig.values(1) == [None]
    assert rig.values(2)[:2] == [None, "helmet"]


def test_a_crop_that_reaches_into_a_mask_is_black_there(tmp_path: Path, clip: Path) -> None:
    seen = []

    def look(crop: NDArray[Any]) -> list[float]:
        seen.append(crop[0].copy())
        return [1.0, 0.0]

    # the vehicle's middle is at 0.75
    mask = {"polygon": [0.8, 0, 1, 0, 1, 1, 0.8, 1]}
    config = {"second_stage": [{**ASKED, "classes": ["vehicle"]}], "privacy": {"masks": [mask]}}
    Rig(tmp_path, str(clip), config, logits_at=look).run()
    # the last pictures are white
    assert seen[-1][:, :, :8].min() > 0.9
    assert seen[-1][:, :, 12:].max() < 0.1


def test_a_zone_and_a_rule_see_only_whom_they_ask_for(tmp_path: Path, clip: Path) -> None:
    config = {
        "second_stage": [{**ASKED, "again_s": 0}],
        "zones": {"all": ALL, "bare": {**ALL, "enter_s": 0, "attributes": {"gear": ["no-helmet"]}}},
        "rules": [{"id": "safe", "intrusion": {"zone": "all"}, "attributes": {"gear": "helmet"}}],
    }
    rig = Rig(tmp_path, str(clip), config).run()
    changed = next(
        e
        for e in rig.of("tracked_object")
        if e.get("attributes", {}).get("gear", {}).get("value") == "no-helmet"
    )
    entered = [e for e in rig.of("zone") if e["rule"] == "bare"]
    assert {e["t_s"] for e in entered} == {changed["t_s"]}
    assert {e["attributes"]["gear"]["value"] for e in entered} == {"no-helmet"}
    alarms = [(e["phase"], e["track"], e.get("reason")) for e in rig.of("intrusion")]
    assert alarms == [
        ("start", 1, None),
        ("start", 2, None),
        ("end", 1, "attribute"),
        ("end", 2, "attribute"),
    ]


def _said(path: Path) -> list[dict[str, Any]]:
    lines = (path / "events.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "latency_ms"} for line in lines]


RULES: dict[str, Any] = {
    "second_stage": [{**ASKED, "again_s": 0}],
    "zones": {"all": ALL},
    "rules": [
        {"id": "bare", "loiter": {"zone": "all", "seconds": 0.2}, "attributes": {"gear": ["no-helmet"]}}
    ],
    "tracklog": True,
}


def test_a_recording_gives_the_same_events_and_tracks_each_time(tmp_path: Path, clip: Path) -> None:
    first, second = (Rig(tmp_path / name, str(clip), RULES, out=True).run() for name in ("a", "b"))
    assert first.out is not None
    assert second.out is not None
    assert _said(first.out) == _said(second.out)
    assert (first.out / "tracks.jsonl").read_bytes() == (second.out / "tracks.jsonl").read_bytes()
    assert {e["type"] for e in first.events} >= {"loitering"}


@pytest.mark.parametrize("paced", [False, True])
def test_the_track_log_replays_what_was_said_byte_for_byte(tmp_path: Path, clip: Path, paced: bool) -> None:
    """Also of a camera, whose answers come when they come."""
    rig = Rig(tmp_path, f"{clip}?paced=1" if paced else str(clip), RULES, out=True).run()
    assert rig.out is not None
    with open_track_log(rig.out) as log:
        assert log.header.attributes == {"gear": ("helmet", "no-helmet")}
        _, (again,) = replay(log, [recorded_config(log.header)])
    rules = {"tracked_object", "zone", "loitering"}
    live = [
        {k: v for k, v in e.items() if k not in ("latency_ms", "releases", "seq")}
        for e in rig.events
        if e["type"] in rules
    ]
    replayed = [{k: v for k, v in e.items() if k != "seq"} for e in again.records]
    assert [{**e, "id": ""} for e in live] == [{**e, "id": ""} for e in replayed]
    assert any(e["type"] == "loitering" for e in live)


def test_why_says_that_it_was_undecided_or_something_else(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip), RULES, out=True).run()
    assert rig.out is not None
    asked = {}
    for t in (0.13, 1.0, 2.5):
        with open_track_log(rig.out) as log:
            found = why(log, recorded_config(log.header), Moment(t, 0.05), rule="bare", track=1)
        (one,) = found.explanations
        asked[t] = one.explained.asked[0]
    assert (asked[0.13].what, asked[0.13].holds) == ("gear is no-helmet (it is undecided)", False)
    assert (asked[1.0].what, asked[1.0].holds) == ("gear is no-helmet (it is helmet)", False)
    assert (asked[2.5].what, asked[2.5].holds) == ("gear is no-helmet", True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"second_stage": [ASKED, ASKED]}, "name the part 'gear' twice"),
        (
            {
                "rules": [{"id": "x", "loiter": {"zone": "z", "seconds": 1}, "attributes": {"vest": ["a"]}}],
                "zones": {"z": ALL},
            },
            "rule 'x' asks for the attribute 'vest'",
        ),
        ({"zones": {"z": {**ALL, "attributes": {"vest": ["a"]}}}}, "zone 'z' asks for the attribute 'vest'"),
        ({"second_stage": [{**ASKED, "agree": 0.5}]}, "agree"),
    ],
)
def test_a_wrong_configuration_is_one_sentence(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_config("surveillance", {"second_stage": [ASKED], **config})


@pytest.mark.parametrize(
    ("config", "parts", "words"),
    [
        ({}, (), "names the part 'gear', and there is no engine for it"),
        ({"second_stage": []}, ("gear",), "has no part 'gear'"),
        (
            {"second_stage": [{"part": "detector"}]},
            (),
            "'detector', which a surveillance pipeline has for itself",
        ),
        (
            {"second_stage": [{**ASKED, "classes": ["tree"]}]},
            ("gear",),
            "second_stage 'gear' names class 'tree'",
        ),
        (
            {"zones": {"z": {**ALL, "attributes": {"gear": "hat"}}}},
            ("gear",),
            "zone 'z' asks for gear 'hat', which the model does not know",
        ),
    ],
)
def test_what_does_not_fit_the_models_is_said_at_the_start_and_nothing_stays_open(
    tmp_path: Path, clip: Path, config: dict[str, Any], parts: tuple[str, ...], words: str
) -> None:
    opened: list[ClassEngine] = []
    with pytest.raises(UsageError, match=words):  # noqa: PT012
        rig = Rig(tmp_path, str(clip), config, parts=parts)
        opened = rig.second
        rig.pipeline.start()
    assert all(engine.closed.is_set() for engine in opened)


def test_a_model_that_names_nothing_cannot_look_at_crops(tmp_path: Path, clip: Path) -> None:
    rig = Rig(tmp_path, str(clip))
    args = rig.pipeline._args  # type: ignore[attr-defined]
    task = class_task().model_copy(update={"decode": class_task().decode.model_copy(update={"kind": "vad"})})
    args.engines["gear"] = PartVariant(make_variant(tmp_path / "vad", task))
    with pytest.raises(EdgectlError, match="cannot look at crops: it is for the part vad"):
        rig.pipeline.start()


def _confirming(
    tmp_path: Path,
    source: str,
    config: dict[str, Any] | None = None,
    labels: tuple[str, ...] = ("person", "vehicle"),
) -> Rig:
    """The second model is a detector, too: it finds a person in the middle of the crop, and no vehicle."""
    rig = Rig(tmp_path, source, config)
    args = rig.pipeline._args  # type: ignore[attr-defined]
    task = box_task(labels, (32, 32)).model_copy(update={"name": "second"})
    args.engines["gear"] = PartVariant(make_variant(tmp_path / "second", task, name="second"), "second@1")
    first = rig.open

    def either(variant: Variant) -> Any:
        if variant.config.task.name != "second":
            return first(variant)
        return BoxEngine(lambda crop: [(0.3, 0.3, 0.7, 0.7, 0.9, 0)], size=(32, 32))

    rig.open = either  # type: ignore[method-assign]
    rig.pipeline._args = dataclasses.replace(args, open_engine=either)  # type: ignore[attr-defined]
    return rig


def test_a_second_detector_confirms_the_first(tmp_path: Path, clip: Path) -> None:
    config = {
        "second_stage": [{**ASKED, "margin": 0.5}],
        "zones": {"all": {**ALL, "enter_s": 0, "attributes": {"gear": "confirmed"}}},
    }
    rig = _confirming(tmp_path, str(clip), config).run()
    assert (rig.values(1), rig.values(2)) == ([None, "confirmed"], [None, "rejected"])
    assert {e["track"] for e in rig.of("zone")} == {1}


def test_a_second_detector_must_know_what_it_is_to_confirm(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(UsageError, match="is to confirm 'vehicle', which its model does not know"):
        _confirming(tmp_path, str(clip), labels=("person", "dog")).run()
    fine = {"second_stage": [{**ASKED, "classes": ["person"], "margin": 0.5}]}
    assert _confirming(tmp_path, str(clip), fine, labels=("person", "dog")).run().values(1) == [
        None,
        "confirmed",
    ]


class _Plate:
    """Reads "A1", and now and then something else."""

    runtime = "double 1"
    inputs = (TensorSpec(name="image", shape=(1, 3, 16, 64), dtype="float32"),)
    outputs = (TensorSpec(name="scores", shape=(1, 4, 3), dtype="float32"),)

    def __init__(self) -> None:
        self.runs = 0

    def run(self, feeds: Any) -> dict[str, NDArray[Any]]:
        self.runs += 1
        steps = [1, 0, 1, 2] if self.runs % 6 == 0 else [1, 0, 2, 2]
        return {"scores": np.eye(3, dtype=np.float32)[steps][None] * 9}

    def close(self) -> None:
        pass


def with_reader(rig: Rig, letters: Sequence[str] = ("A", "1")) -> _Plate:
    """What reads in the second stage of a rig."""
    args = rig.pipeline._args  # type: ignore[attr-defined]
    task = TaskSpec.model_validate(
        {
            "name": "plates",
            "input": {"kind": "image", "width": 64, "height": 16, "fit": "stretch"},
            "decode": {"kind": "ctc", "score": 0.5},
            "labels": letters,
        }
    )
    args.engines["gear"] = PartVariant(make_variant(rig.folder / "plates", task, name="plates"))
    first, plate = rig.open, _Plate()
    either = lambda v: plate if v.config.task.name == "plates" else first(v)  # noqa: E731
    rig.pipeline._args = dataclasses.replace(args, open_engine=either)  # type: ignore[attr-defined]
    return plate


def test_a_reader_reads_and_the_votes_decide_what_is_written(tmp_path: Path, clip: Path) -> None:
    config = {
        "second_stage": [{**ASKED, "classes": ["person"], "again_s": 0}],
        "zones": {"all": {**ALL, "attributes": {"gear": ["A1", "B2"]}}},
    }
    rig = Rig(tmp_path, str(clip), config)
    with_reader(rig)
    rig.run()
    assert rig.values(1) == [None, "A1"]
    assert {e["rule"] for e in rig.of("zone")} == {"all"}


def test_a_dash_camera_has_a_second_stage_too(tmp_path: Path, clip: Path) -> None:
    rig = Rig(
        tmp_path, str(clip), {"second_stage": [{**ASKED, "classes": ["vehicle"]}]}, kind="driving"
    ).run()
    assert (rig.values(1), rig.values(2)) == ([None], [None, "helmet"])


def left(_: NDArray[Any]) -> Boxes:
    """A person alone."""
    return two(_)[:1]


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        ({"blur": {"classes": ["person"]}}, False),
        ({"blur": {"zones": ["all"]}}, False),
        ({"blur": {"classes": ["vehicle"]}}, True),
        ({"blur": {"classes": ["person"], "tell": ["gear"]}}, True),
        ({"blur": {"zones": ["all"], "tell": ["gear"]}}, True),
    ],
)
def test_what_is_read_from_what_nobody_may_recognise_is_in_no_byte_that_leaves(
    tmp_path: Path, clip: Path, mosquitto: Broker, privacy: dict[str, Any], told: bool
) -> None:
    """Events, track log, MQTT with Home Assistant, and Frigate's topics."""
    got: dict[str, list[bytes]] = {}
    watcher = Link(BrokerOptions("127.0.0.1", mosquitto.port), "watcher", max_backoff_s=0.2)
    watcher.subscribe("#", lambda topic, payload: got.setdefault(topic, []).append(payload))
    watcher.connect()
    url = f"mqtt://127.0.0.1:{mosquitto.port}"
    config = {
        "second_stage": [{**ASKED, "again_s": 0}],
        "privacy": privacy,
        "zones": {"all": ALL},
        "tracklog": True,
        "annotate": False,
        "mqtt": {"url": url, "topic": "own", "home_assistant": True},
        "frigate": {"url": url, "sub_label": "gear"},
    }
    rig = Rig(tmp_path, str(clip), config, boxes_at=left, out=True)
    plate = with_reader(rig, ("KZXW", "Q7"))
    rig.run()
    assert rig.pipeline.error is None
    watcher.publish("own/last", b"")
    wait_until(lambda: "own/last" in got, "all that was said before has come")
    watcher.close()
    places = {
        "events": json.dumps(rig.events).encode() + (tmp_path / "out/events.jsonl").read_bytes(),
        "tracks": b"".join(p.read_bytes() for p in (tmp_path / "out").glob("*tracks*")),
        "own": b"".join(p for topic, said in got.items() if topic.startswith("own/") for p in said),
        "frigate": b"".join(p for topic, said in got.items() if topic.startswith("frigate/") for p in said),
        "home assistant": b"".join(
            p for t, said in got.items() if t.startswith("homeassistant/") for p in said
        ),
    }
    assert all(len(said) > 100 for said in places.values())
    found = {place for place, said in places.items() if b"KZXWQ7" in said}
    assert found == ({"events", "tracks", "own", "frigate"} if told else set())
    assert (plate.runs > 2) == told, "it is not even looked at"


def test_a_crop_that_shows_something_hidden_is_not_read(tmp_path: Path, clip: Path) -> None:
    """A number plate is read from the vehicle around it, too."""

    def parked(_: NDArray[Any]) -> Boxes:
        return [(0.5, 0.3, 0.9, 0.9, 0.9, 1), (0.65, 0.75, 0.72, 0.85, 0.9, 0)]

    asked = {**ASKED, "classes": ["vehicle"], "again_s": 0}
    config = {"second_stage": [asked], "privacy": {"blur": {"classes": ["person"]}}}
    rig = Rig(tmp_path, str(clip), config, boxes_at=parked)
    plate = with_reader(rig)
    rig.run()
    assert (plate.runs, rig.values(1), rig.values(2)) == (2, [None], [None])


def test_a_part_that_may_look_at_nothing_or_is_not_there_is_a_mistake() -> None:
    blur = {"classes": ["car"]}
    stage = {"part": "plate", "classes": ["vehicle"]}
    base = {"merge": {"vehicle": ["car", "truck"]}, "second_stage": [stage]}
    parse_config("surveillance", {**base, "privacy": {"blur": {**blur, "tell": ["plate"]}}})
    with pytest.raises(
        UsageError, match=r"second_stage\.0\.classes: 'plate' would look at what privacy\.blur hides"
    ):
        parse_config("surveillance", {**base, "privacy": {"blur": blur}})
    with pytest.raises(UsageError, match=r"tell\.0: 'plat' is no part of second_stage: did you mean 'plate'"):
        parse_config("surveillance", {**base, "privacy": {"blur": {**blur, "tell": ["plat"]}}})
