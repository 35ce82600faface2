"""Home Assistant's device discovery: one retained message that makes a device of a stream, with its sensors, picture and
switch.

Home Assistant's documentation, "MQTT discovery"; ``homeassistant/components/mqtt`` of its repository is the authority
(``schemas.py`` for the message, one file for the options of each platform).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

from pydantic import Field

from edgectl.core.schema import Config
from edgectl.pipelines.places import HOME_ASSISTANT, slug
from edgectl.pipelines.sinks.mqtt.topics import Topic

__all__ = ["HomeAssistantConfig", "LeftOver", "discovery", "left_over"]

_MANY = 12
"""Labels beyond which none gets a sensor unless it is named."""
_SEEN = ("objects", "motion", "label_", "attribute_", "scene_", "zone_")
"""What the keys of entities begin with that say what the camera sees now."""
_MAX_BYTES = 256 * 1024
_MOST_LEFT = 256
_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_PLATFORM = re.compile(r"[a-z_]{1,32}")


class HomeAssistantConfig(Config):
    prefix: Topic = HOME_ASSISTANT
    """Home Assistant's discovery prefix."""
    name: str | None = Field(default=None, max_length=64)
    """Of the device; none: the stream's."""
    labels: tuple[str, ...] = ()
    """Labels with a sensor of their own; none: all of the stream's if it looks for at most 12."""


def discovery(
    config: HomeAssistantConfig,
    topic: str,
    stream: str,
    labels: Sequence[str],
    zones: Sequence[str],
    lines: Sequence[str],
    *,
    video: bool,
    picture: bool,
    switch: bool,
    rules: Sequence[str] = (),
    attributes: Mapping[str, Sequence[str]] | None = None,
    scenes: Sequence[str] = (),
    left: Mapping[str, str] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Topic and content of the discovery message. ``left``: key → platform of what it had before; what it has no more is
    named with its platform alone, and Home Assistant removes it. ``topic``: prefix of the stream's own topics. ``attributes``: part of
    a second stage → the values that it can decide for; of more than 12 none has a sensor. ``scenes``: parts that look at the whole picture."""
    device = slug(topic)
    state = f"{topic}/state"
    shown = [label for label in labels if label in config.labels] if config.labels else list(labels)
    if not config.labels and len(shown) > _MANY:
        shown = []

    def sensor(name: str, template: str, **more: Any) -> dict[str, Any]:
        more = {"state_class": "measurement", **more}
        return {"platform": "sensor", "name": name, "state_topic": state, "value_template": template, **more}

    def binary(name: str, template: str, device_class: str, **more: Any) -> dict[str, Any]:
        value = f"{{{{ 'ON' if {template} else 'OFF' }}}}"
        return {
            "platform": "binary_sensor",
            "name": name,
            "state_topic": state,
            "value_template": value,
            "device_class": device_class,
            **more,
        }

    diagnostic = {"entity_category": "diagnostic"}
    parts: dict[str, dict[str, Any]] = {
        "fps": sensor("Frame rate", "{{ value_json['fps'] }}", unit_of_measurement="fps", **diagnostic),
        "age": sensor(
            "Age of events, 95 %",
            "{{ value_json['age_p95_ms'] }}",
            unit_of_measurement="ms",
            device_class="duration",
            **diagnostic,
        ),
        "objects": sensor("Objects", "{{ value_json['objects']['all'] }}"),
        "motion": binary("Motion", "value_json['objects']['all'] > 0", "motion"),
        "problem": binary("Camera problem", "value_json['source'] != 'ok'", "problem", **diagnostic),
    }
    if not video:
        parts = {"problem": parts["problem"]}
        shown = []
    for label in shown:
        parts[f"label_{slug(label)}"] = sensor(
            label.capitalize(), f"{{{{ value_json['objects']['{_quoted(label)}'] }}}}"
        )
    for name, values in (attributes or {}).items():
        for value in values if len(values) <= _MANY else ():
            parts[f"attribute_{slug(name)}_{slug(value)}"] = sensor(
                f"{name} {value}",
                f"{{{{ value_json['attributes']['{_quoted(name)}']['{_quoted(value)}'] }}}}",
            )
    for name in scenes:
        parts[f"scene_{slug(name)}"] = {
            "platform": "sensor",
            "name": name,
            "state_topic": state,
            "value_template": f"{{{{ value_json['scene']['{_quoted(name)}'] }}}}",
        }
    for zone in zones:
        count = f"value_json['zones']['{_quoted(zone)}']['all']"
        parts[f"zone_{slug(zone)}"] = binary(f"{zone} occupied", f"{count} > 0", "occupancy")
        parts[f"zone_{slug(zone)}_count"] = sensor(f"{zone} count", f"{{{{ {count} }}}}")
    for line in lines:
        for way in ("in", "out"):
            parts[f"line_{slug(line)}_{way}"] = sensor(
                f"{line} {way}",
                f"{{{{ value_json['lines']['{_quoted(line)}']['{way}'] }}}}",
                state_class="total_increasing",
            )
    if picture:
        parts["picture"] = {"platform": "camera", "name": "Picture", "topic": f"{topic}/picture"}
    if switch:
        parts["detect"] = {
            "platform": "switch",
            "name": "Detection",
            "command_topic": f"{topic}/detect/set",
            "state_topic": f"{topic}/detect/state",
        }
    for rule in rules:
        parts[f"arm_{slug(rule)}"] = {
            "platform": "switch",
            "name": f"{rule} armed",
            "command_topic": f"{topic}/arm/{rule}/set",
            "state_topic": f"{topic}/arm/{rule}/state",
        }
    lives = {"topic": f"{topic}/available"}
    sees = {"topic": state, "value_template": "{{ 'online' if value_json['source'] == 'ok' else 'offline' }}"}
    for key, part in parts.items():
        part["unique_id"] = f"{device}_{key}"
        if key.startswith(_SEEN):
            # while the camera is away nobody knows whether somebody is there
            part |= {"availability": [lives, sees], "availability_mode": "all"}
    gone = {key: {"platform": platform} for key, platform in (left or {}).items() if key not in parts}
    message = {
        "dev": {
            "identifiers": [device],
            "name": config.name or stream,
            "manufacturer": "edgectl",
            "model": "stream",
            "sw_version": version("edgectl"),
        },
        "o": {"name": "edgectl", "sw_version": version("edgectl")},
        "availability": [lives],
        "cmps": parts | gone,
    }
    return f"{config.prefix}/device/{device}/config", message


class LeftOver(NamedTuple):
    """Of a message that a broker still has."""

    platforms: dict[str, str]
    """Key → platform, of all that it had."""
    topics: dict[str, str]
    """Key → topic of its state."""


def left_over(message: bytes) -> LeftOver:
    """What a discovery message, which anybody may have written, has of entities."""
    platforms: dict[str, str] = {}
    topics: dict[str, str] = {}
    try:
        said = json.loads(message) if len(message) <= _MAX_BYTES else None
    except (ValueError, RecursionError):
        said = None
    parts = said.get("cmps") if isinstance(said, dict) else None
    for key, part in parts.items() if isinstance(parts, dict) else ():
        platform = part.get("platform") if isinstance(part, dict) else None
        if not isinstance(platform, str) or not _PLATFORM.fullmatch(platform) or not _KEY.fullmatch(key):
            continue
        if len(platforms) == _MOST_LEFT:
            break
        platforms[key] = platform
        if isinstance(topic := part.get("state_topic"), str):
            topics[key] = topic
    return LeftOver(platforms, topics)


def _quoted(text: str) -> str:
    """Inside a quoted string of a template."""
    return text.replace("\\", "\\\\").replace("'", "\\'")
