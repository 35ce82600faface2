"""Two streams with one address, topic, device or folder are refused, whoever reads their configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgectl.core.errors import UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.place_check import check_places
from edgectl.pipelines.places import host_name, written_places

SHARED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"restream": "rtsp://me:secret@Server/yard"},
        {"restream": {"url": "rtsp://server:554/yard", "fps": 5}},
        "send to rtsp://server:554/yard (`restream`)",
    ),
    (
        {"mqtt": {"url": "mqtt://broker", "topic": "yard"}},
        {"mqtt": {"url": "mqtt://me:secret@broker:1883", "topic": "yard"}},
        "send to the topic 'yard' (`mqtt`)",
    ),
    (
        {"mqtt": {"url": "mqtt://broker"}},
        {"mqtt": {"url": "mqtt://broker", "topic": f"edgectl/live/{host_name()}/gate"}},
        f"send to the topic 'edgectl/live/{host_name()}/gate' (`mqtt`)",
    ),
    (
        {"mqtt": {"url": "mqtt://broker", "topic": "home/yard", "home_assistant": True}},
        {
            "mqtt": {
                "url": "mqtt://broker",
                "topic": "home_yard",
                "home_assistant": {"prefix": "homeassistant"},
            }
        },
        "be Home Assistant's device 'home_yard' (`mqtt`)",
    ),
    (
        {"frigate": {"url": "mqtt://broker", "camera": "yard"}},
        {"frigate": {"url": "mqtt://broker"}},
        "be the camera 'yard' of the topic 'frigate' (`frigate`)",
    ),
]


@pytest.mark.parametrize(("gate", "yard", "told"), SHARED)
def test_two_streams_with_one_place_are_named(gate: dict[str, Any], yard: dict[str, Any], told: str) -> None:
    configs = {name: parse_config("surveillance", c) for name, c in (("gate", gate), ("yard", yard))}
    with pytest.raises(UsageError) as caught:
        check_places(configs, {})
    assert caught.value.message == f"the streams 'gate' and 'yard' would both {told}"
    assert "secret" not in str(caught.value)


def test_two_streams_with_one_folder_are_named(tmp_path: Path) -> None:
    configs = {name: parse_config("surveillance", None) for name in ("gate", "yard")}
    with pytest.raises(UsageError, match="'gate' and 'yard' would both write their files into"):
        check_places(configs, {"gate": tmp_path / "out", "yard": tmp_path / "x/../out"})
    check_places(configs, {"gate": tmp_path / "gate", "yard": tmp_path / "yard"})


@pytest.mark.parametrize(
    "config",
    [
        {"restream": "rtsps://server/yard", "mqtt": {"url": "mqtts://broker"}},
        {
            "mqtt": {"url": "mqtt://one", "topic": "x", "home_assistant": True},
            "frigate": {"url": "mqtt://one"},
        },
        {"webhook": {"url": "https://server/hook"}},
        {"restream": False, "mqtt": False, "frigate": False},
    ],
)
def test_streams_whose_places_hold_their_names_may_share_a_configuration(config: dict[str, Any]) -> None:
    own = {k: v for k, v in config.items() if k != "restream"}
    if "topic" not in str(own):
        both = parse_config("surveillance", own)
        check_places({"gate": both, "yard": both}, {})
    check_places({"gate": parse_config("surveillance", config)}, {})


@pytest.mark.parametrize("config", [c for gate, yard, _ in SHARED for c in (gate, yard)])
def test_a_configuration_as_it_is_written_has_the_places_of_the_one_that_was_read(
    config: dict[str, Any],
) -> None:
    read = parse_config("surveillance", config)
    places = [
        ((sink,), place)
        for sink, options in read.sinks.items()
        if options
        for place in options.own_places("yard")
    ]
    assert places
    assert list(written_places("yard", config)) == places


@pytest.mark.parametrize(
    "config", [{"restream": 5}, {"restream": "rtsp://[x"}, {"mqtt": {"url": 5}}, {"frigate": {"topic": []}}]
)
def test_what_cannot_be_read_is_left_to_who_reads_it(config: dict[str, Any]) -> None:
    for _, place in written_places("yard", config):
        assert place.what
