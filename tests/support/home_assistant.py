"""What Home Assistant takes as a discovery message of a device, from ``homeassistant/components/mqtt`` (``schemas.py``,
``abbreviations.py``, ``discovery.py`` and the platforms' own files), 2026.11."""

from __future__ import annotations

import ast
import re
from typing import Any

__all__ = ["entities", "rendered"]

TOPIC = re.compile(r"(?P<prefix>\S+)/device/(?:[a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")
MESSAGE = (
    {"dev", "o", "cmps"},
    {
        "availability",
        "availability_topic",
        "payload_available",
        "payload_not_available",
        "state_topic",
        "command_topic",
        "qos",
        "encoding",
    },
)
DEVICE = (
    set(),
    {
        "identifiers",
        "connections",
        "manufacturer",
        "model",
        "name",
        "hw_version",
        "serial_number",
        "sw_version",
        "via_device",
        "suggested_area",
        "configuration_url",
    },
)
ORIGIN = {"name"}, {"sw_version", "support_url"}
ENTITY = {
    "name",
    "unique_id",
    "entity_category",
    "icon",
    "enabled_by_default",
    "qos",
    "json_attributes_topic",
    "availability",
    "availability_mode",
}
PLATFORMS: dict[str, tuple[set[str], set[str]]] = {
    "sensor": (
        {"state_topic"},
        {"value_template", "device_class", "state_class", "unit_of_measurement", "expire_after"},
    ),
    "binary_sensor": (
        {"state_topic"},
        {"value_template", "device_class", "payload_on", "payload_off", "off_delay"},
    ),
    "switch": ({"command_topic"}, {"state_topic", "payload_on", "payload_off", "optimistic"}),
    "camera": ({"topic"}, {"image_encoding"}),
}
BINARY_CLASSES = {"motion", "occupancy", "problem", "presence", "connectivity"}
UNITS = {"duration": {"d", "h", "min", "s", "ms", "µs"}}
STATE_CLASSES = {"measurement", "total", "total_increasing"}


def keys(value: dict[str, Any], allowed: tuple[set[str], set[str]], what: str) -> None:
    required, optional = allowed
    assert required <= set(value), f"{what} lacks {required - set(value)}"
    assert set(value) <= required | optional, (
        f"{what}: Home Assistant refuses {set(value) - required - optional}"
    )


def entities(topic: str, message: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entities that it makes, by their key; one with its platform alone is removed. Fails where Home Assistant would refuse something."""
    assert TOPIC.fullmatch(topic), topic
    keys(message, MESSAGE, "the message")
    keys(message["dev"], DEVICE, "dev")
    assert message["dev"].get("identifiers") or message["dev"].get("connections")
    keys(message["o"], ORIGIN, "o")
    parts = {key: part for key, part in message["cmps"].items() if set(part) != {"platform"}}
    assert {part["platform"] for part in message["cmps"].values()} <= set(PLATFORMS)
    ids = [part["unique_id"] for part in parts.values()]
    assert len(ids) == len(set(ids))
    for key, part in parts.items():
        # an entity takes from the device what it does not say itself, and must not have both of these then
        assert not ("availability" in part and "availability_topic" in {**message, **part}), key
        assert part.get("availability_mode", "latest") in ("all", "any", "latest")
        required, optional = PLATFORMS[part["platform"]]
        keys(part, (required | {"platform", "unique_id"}, optional | ENTITY), key)
        if part["platform"] == "binary_sensor":
            assert part.get("device_class") in BINARY_CLASSES
        if part["platform"] == "sensor":
            assert part.get("state_class", "measurement") in STATE_CLASSES
            if "device_class" in part:
                assert part["unit_of_measurement"] in UNITS[part["device_class"]]
        for name, value in part.items():
            if name.endswith("topic"):
                assert not re.search(r"[+#\x00]", value)
    return parts


def rendered(part: dict[str, Any], state: Any) -> str:
    """The state that an entity takes from a payload. Ours are templates whose one expression Jinja and Python read alike:
    subscripts, comparisons, and a choice."""
    match = re.fullmatch(r"\{\{ (.+) \}\}", part["value_template"])
    assert match is not None
    expression = ast.parse(match[1], mode="eval")
    allowed = (
        ast.Expression,
        ast.Subscript,
        ast.Name,
        ast.Constant,
        ast.Load,
        ast.Compare,
        ast.IfExp,
        ast.Gt,
        ast.NotEq,
        ast.Eq,
    )
    assert all(isinstance(node, allowed) for node in ast.walk(expression))
    return str(eval(compile(expression, "template", "eval"), {"value_json": state}))
