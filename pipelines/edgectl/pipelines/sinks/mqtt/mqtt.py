"""Events, the stream's state and its picture to an MQTT broker, for whoever subscribes; and Home Assistant."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from pydantic import field_validator

from edgectl.pipelines.places import OwnPlace, live_topic, mqtt_places
from edgectl.pipelines.sinks.base import SinkContext, SinkType, StreamOutput
from edgectl.pipelines.sinks.mqtt.connection import BrokerSink, MqttConfig, Said
from edgectl.pipelines.sinks.mqtt.home_assistant import HomeAssistantConfig, discovery, left_over
from edgectl.pipelines.sinks.mqtt.state import StreamState
from edgectl.pipelines.sinks.mqtt.topics import Topic
from edgectl.pipelines.stream.events import is_update

__all__ = ["SINK", "EventsVoice", "OwnMqttConfig"]

_STATE_S = 10.0
"""How often the state is said while nothing changes but its figures."""
_CHANGE_S = 0.5
"""How often it is said while it changes."""


class OwnMqttConfig(MqttConfig):
    topic: Topic | None = None
    """What the topics begin with; none: ``edgectl/live/<this machine's name>/<stream>``."""
    picture: bool = False
    """Whether the picture is sent. With ``home_assistant`` it is."""
    home_assistant: HomeAssistantConfig | None = None
    """``true``, or settings: makes a device of the stream."""

    def own_places(self, stream: str) -> tuple[OwnPlace, ...]:
        device = self.home_assistant
        return mqtt_places(stream, self.url, self.topic, None if device is None else device.prefix)

    @field_validator("home_assistant", mode="before")
    @classmethod
    def _true_means_its_defaults(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value


class EventsVoice:
    """``<topic>/events`` (each event, QoS 1), ``/available``, ``/state``, ``/picture``, ``/detect/state`` (retained), and
    ``/detect/set``; for rules that can be armed ``/arm/<rule>/set`` and ``/state``."""

    def __init__(self, options: OwnMqttConfig, context: SinkContext, now_s: float) -> None:
        self._options = options
        self._context = context
        self.topic = options.topic or live_topic(context.stream)
        self.availability = f"{self.topic}/available"
        self.sends_pictures = context.fps is not None and (
            options.picture or options.home_assistant is not None
        )
        self._state = StreamState(
            context.labels,
            context.zones,
            context.lines,
            now_s,
            context.attributes,
            context.scenes,
            inside=context.inside,
            counted=context.counted,
        )
        self._said_s = self._pictured_s = -1e18
        self._dirty = False
        self._left: dict[str, str] = {}
        """Key → platform of what Home Assistant was told of before, by earlier runs, too."""
        self._has_looked = False
        """At what the broker had of the device."""
        self._lock = threading.Lock()

    def birth(self) -> Sequence[Said]:
        said = [self._discovery(), self._detect(), self._say_state()]
        return [
            *(s for s in said if s is not None),
            *map(self._armed, self._switches(), self._switches().values()),
        ]

    def hear(self, output: StreamOutput, now_s: float) -> Sequence[Said]:
        said = [
            Said(f"{self.topic}/events", _json(r), "update" if is_update(r) else "event")
            for r in output.records
        ]
        said += [self._armed(r["rule"], r["on"]) for r in output.records if r.get("type") == "switch"]
        with self._lock:
            self._dirty |= self._state.hear(output)
        if now_s - self._said_s >= _STATE_S:
            with self._lock:
                self._state.measure(now_s)
            self._dirty = True
        # After a camera has gone nothing comes that would bring what waits.
        urgent = any(r.get("type") == "capability" for r in output.records)
        if self._dirty and (urgent or now_s - self._said_s >= _CHANGE_S):
            self._dirty, self._said_s = False, now_s
            said.append(self._say_state())
        if self.sends_pictures and output.frame and now_s - self._pictured_s >= self._options.picture_s:
            self._pictured_s = now_s
            picture = output.frame.jpeg(max_width=self._options.picture_width)
            said.append(Said(f"{self.topic}/picture", picture, retain=True))
        return said

    def commands(self) -> Mapping[str, Callable[[bytes], Sequence[Said]]]:
        found: dict[str, Callable[[bytes], Sequence[Said]]] = {}
        if self._context.control is not None:
            found[f"{self.topic}/detect/set"] = self._set_detect
        for rule in self._switches():
            found[f"{self.topic}/arm/{rule}/set"] = partial(self._arm, rule)
        if self._options.home_assistant is not None:
            found[f"{self._options.home_assistant.prefix}/status"] = self._home_assistant_is
            found[self._device()[0]] = self._was_told
        return found

    def _set_detect(self, payload: bytes) -> Sequence[Said]:
        control = self._context.control
        assert control is not None
        if payload in (b"ON", b"OFF"):
            control.detect = payload == b"ON"
        said = self._detect()
        return [said] if said else []

    def _switches(self) -> Mapping[str, bool]:
        control = self._context.control
        return control.armed() if control is not None else {}

    def _arm(self, rule: str, payload: bytes) -> Sequence[Said]:
        """What it is then is said once it is so: by the event."""
        assert self._context.control is not None
        if payload in (b"ON", b"OFF"):
            self._context.control.arm(rule, payload == b"ON")
        return []

    def _armed(self, rule: str, on: bool) -> Said:
        return Said(f"{self.topic}/arm/{rule}/state", b"ON" if on else b"OFF", retain=True)

    def _home_assistant_is(self, payload: bytes) -> Sequence[Said]:
        """Its birth: it may have forgotten what it knew."""
        return self.birth() if payload == b"online" else []

    def _detect(self) -> Said | None:
        control = self._context.control
        if control is None:
            return None
        return Said(f"{self.topic}/detect/state", b"ON" if control.detect else b"OFF", retain=True)

    def _discovery(self) -> Said | None:
        if self._options.home_assistant is None:
            return None
        topic, message = self._device()
        return Said(topic, _json(message), retain=True)

    def _was_told(self, payload: bytes) -> Sequence[Said]:
        """The device as the broker has it. The first time that is what an earlier configuration said: what is no more
        must be taken back, or Home Assistant keeps it for ever."""
        if self._has_looked:
            return []
        self._has_looked = True
        before, now = left_over(payload), self._device()[1]["cmps"]
        # what is being removed is named as such as long as the message is there: Home Assistant may be away
        gone = {key: platform for key, platform in before.platforms.items() if key not in now}
        self._left |= gone
        if not gone:
            return []
        armed = [
            t for t in (before.topics.get(key, "") for key in gone) if t.startswith(f"{self.topic}/arm/")
        ]
        taken_back = self._discovery()
        assert taken_back is not None
        return [taken_back, *(Said(topic, b"", retain=True) for topic in armed)]

    def _device(self) -> tuple[str, dict[str, Any]]:
        """Topic and content of what is said of it."""
        assert self._options.home_assistant is not None
        context = self._context
        return discovery(
            self._options.home_assistant,
            self.topic,
            context.stream,
            context.labels,
            context.zones,
            context.lines,
            video=context.fps is not None,
            picture=self.sends_pictures,
            switch=context.control is not None,
            rules=tuple(self._switches()),
            attributes=context.attributes,
            scenes=context.scenes,
            left=self._left,
        )

    def _say_state(self) -> Said:
        with self._lock:
            return Said(f"{self.topic}/state", _json(self._state.value()), retain=True)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _open(options: OwnMqttConfig, context: SinkContext) -> BrokerSink:
    voice = EventsVoice(options, context, time.time())
    return BrokerSink("mqtt", options, context, voice, pictures=voice.sends_pictures)


SINK = SinkType(
    _open,
    "events to an MQTT broker, which wait on disk while it is away; the stream's state, its picture, and a device in "
    "Home Assistant: `<topic>/events`, `/state`, `/picture`, `/available`, `/detect/set`, `/arm/<rule>/set`",
    OwnMqttConfig,
    names_zones=True,
)
