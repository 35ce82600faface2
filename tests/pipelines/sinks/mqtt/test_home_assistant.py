"""Home Assistant's device of a stream, by Home Assistant's own rules."""

from __future__ import annotations

from typing import Any

import pytest
from support.home_assistant import entities, rendered

from edgectl.pipelines.sinks.mqtt.home_assistant import HomeAssistantConfig, discovery, left_over


def device(known: tuple[str, ...] = ("person", "car"), **config: Any) -> dict[str, dict[str, Any]]:
    topic, message = discovery(
        HomeAssistantConfig(**config),
        "edgectl/live/nas/gate 1",
        "gate",
        known,
        ("yard", "o'hare"),
        ("in-out",),
        video=True,
        picture=True,
        switch=True,
    )
    return entities(topic, message)


STATE = {
    "source": "ok",
    "fps": 14.9,
    "age_p95_ms": None,
    "objects": {"all": 2, "person": 2, "car": 0},
    "zones": {"yard": {"all": 2, "person": 2}, "o'hare": {"all": 0}},
    "lines": {"in-out": {"in": 4, "out": 1}},
}


def test_every_entity_is_one_that_home_assistant_takes_and_shows_its_part_of_the_state() -> None:
    found = device()
    values = {k: rendered(p, STATE) for k, p in found.items() if "value_template" in p}
    assert values == {
        "fps": "14.9",
        "age": "None",  # unknown
        "objects": "2",
        "motion": "ON",
        "problem": "OFF",
        "label_person": "2",
        "label_car": "0",
        "zone_yard": "ON",
        "zone_yard_count": "2",
        "zone_o_hare": "OFF",
        "zone_o_hare_count": "0",
        "line_in-out_in": "4",
        "line_in-out_out": "1",
    }
    assert found["picture"]["topic"] == "edgectl/live/nas/gate 1/picture"
    assert found["detect"]["command_topic"] == "edgectl/live/nas/gate 1/detect/set"
    assert rendered(found["problem"], {**STATE, "source": "timeout"}) == "ON"


def test_what_a_camera_sees_is_unknown_while_it_is_away() -> None:
    away = {**STATE, "source": "refused"}
    for key, part in device().items():
        seen = key in ("objects", "motion") or key.startswith(("label_", "zone_"))
        assert ("availability" in part) == seen, key
        if seen:
            assert part["availability_mode"] == "all"
            lives, sees = part["availability"]
            assert lives == {"topic": "edgectl/live/nas/gate 1/available"}
            assert sees["topic"] == "edgectl/live/nas/gate 1/state"
            assert [rendered(sees, state) for state in (STATE, away)] == ["online", "offline"]


def test_what_a_second_stage_decides_has_a_sensor_for_each_value() -> None:
    known = {"gear": ("helmet", "o'hat"), "plate": (), "make": tuple(f"m{i}" for i in range(13))}
    topic, message = discovery(
        HomeAssistantConfig(),
        "t/gate",
        "gate",
        (),
        (),
        (),
        video=True,
        picture=False,
        switch=False,
        attributes=known,
    )
    found = {k: p for k, p in entities(topic, message).items() if k.startswith("attribute_")}
    state = {**STATE, "attributes": {"gear": {"helmet": 2, "o'hat": 0}}}
    assert {k: rendered(p, state) for k, p in found.items()} == {
        "attribute_gear_helmet": "2",
        "attribute_gear_o_hat": "0",
    }


@pytest.mark.parametrize(
    ("config", "labels", "sensors"),
    [
        ({}, tuple(f"l{i}" for i in range(80)), 0),
        ({"labels": ["l3", "l9"]}, tuple(f"l{i}" for i in range(80)), 2),
        ({}, ("person",), 1),
    ],
)
def test_a_model_with_many_labels_does_not_flood_home_assistant(
    config: Any, labels: tuple[str, ...], sensors: int
) -> None:
    assert sum(key.startswith("label_") for key in device(labels, **config)) == sensors


def test_a_stream_of_sound_has_no_sensors_for_pictures() -> None:
    topic, message = discovery(
        HomeAssistantConfig(name="Hall"),
        "t/hall",
        "hall",
        (),
        (),
        (),
        video=False,
        picture=False,
        switch=False,
    )
    assert set(entities(topic, message)) == {"problem"}
    assert message["dev"]["name"] == "Hall"


def test_labels_of_any_script_have_a_sensor_each() -> None:
    found = device(("行人", "汽车", "Fußgänger", "Fußgangar", "traffic light"))
    labels = {part["name"].casefold(): key for key, part in found.items() if key.startswith("label_")}
    assert len(set(labels.values())) == 5
    assert labels["traffic light"] == "label_traffic_light"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"cmps": []}',
        b'{"cmps": {"a b": {"platform": "sensor"}, "c": 1}}',
        b"[" * 200_000,
    ],
)
def test_of_a_message_that_makes_no_sense_nothing_is_taken(message: bytes) -> None:
    assert left_over(message).platforms == {}
