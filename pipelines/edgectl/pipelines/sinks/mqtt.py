"""Events to MQTT through a ``publish`` function: the client, its spool and its quality of service belong
to the caller."""

from __future__ import annotations

import json
from collections.abc import Callable

from edgectl.pipelines.sinks.base import Output

__all__ = ["MqttSink"]


class MqttSink:
    """One JSON message per event on ``topic``. ``publish`` may raise :class:`LinkError`; it must not block
    for long."""

    name = "mqtt"
    pictures = False

    def __init__(self, publish: Callable[[str, bytes], None], topic: str) -> None:
        self._publish = publish
        self._topic = topic

    def write(self, output: Output) -> None:
        for record in output.records:
            self._publish(self._topic, json.dumps(record, separators=(",", ":")).encode())

    def close(self) -> None:
        pass
