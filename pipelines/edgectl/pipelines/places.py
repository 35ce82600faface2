"""Where a stream sends to as the only one: a server that takes one publisher for an address, a topic whose states one
stream says, a device of Home Assistant. Two streams with one place overwrite each other.

Needs no library of pictures: the agent asks before it starts a worker.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edgectl.core.schema import Key
from edgectl.core.uri import redact

__all__ = [
    "FRIGATE",
    "HOME_ASSISTANT",
    "OwnPlace",
    "SharedPlace",
    "folder_place",
    "frigate_places",
    "host_name",
    "live_topic",
    "mqtt_places",
    "restream_places",
    "shared_place",
    "slug",
    "written_places",
]

_PORTS = {"rtsp": 554, "rtsps": 322, "mqtt": 1883, "mqtts": 8883}
HOME_ASSISTANT = "homeassistant"
FRIGATE = "frigate"


@dataclass(frozen=True)
class OwnPlace:
    what: str
    """For a sentence: ``send to rtsp://server/yard``. Without secrets."""
    same: tuple[str, ...]
    """Of places that are one, it is equal."""


@dataclass(frozen=True)
class SharedPlace:
    first: str
    second: str
    """Streams."""
    key: Key
    """Setting of the second."""
    place: OwnPlace

    @property
    def text(self) -> str:
        return f"the streams {self.first!r} and {self.second!r} would both {self.place.what}"


def shared_place(streams: Mapping[str, Iterable[tuple[Key, OwnPlace]]]) -> SharedPlace | None:
    """The first place that two streams have, if there is one."""
    found: dict[tuple[str, ...], str] = {}
    for name, places in streams.items():
        for key, place in places:
            if (other := found.setdefault(place.same, name)) != name:
                return SharedPlace(other, name, key, place)
    return None


def folder_place(folder: Path) -> OwnPlace:
    return OwnPlace(f"write their files into {folder}", ("folder", os.path.abspath(folder)))


def restream_places(url: str) -> tuple[OwnPlace, ...]:
    return (OwnPlace(f"send to {redact(url)}", ("restream", *_server(url), urlsplit(url).path)),)


def mqtt_places(
    stream: str, url: str | None, topic: str | None, home_assistant: str | None
) -> tuple[OwnPlace, ...]:
    """``topic`` None: the stream's own. ``home_assistant``: the discovery prefix, where there is a device."""
    topic = topic or live_topic(stream)
    server = _broker(url)
    places = [OwnPlace(f"send to the topic {topic!r}", ("mqtt", *server, topic))]
    if home_assistant is not None:
        same = ("home_assistant", *server, home_assistant, slug(topic))
        places.append(OwnPlace(f"be Home Assistant's device {slug(topic)!r}", same))
    return tuple(places)


def frigate_places(stream: str, url: str | None, topic: str, camera: str | None) -> tuple[OwnPlace, ...]:
    camera = camera or stream
    return (
        OwnPlace(
            f"be the camera {camera!r} of the topic {topic!r}", ("frigate", *_broker(url), topic, camera)
        ),
    )


def written_places(stream: str, config: Mapping[str, Any]) -> Iterator[tuple[Key, OwnPlace]]:
    """Of a configuration as it is written, before anybody has looked whether it is right: what cannot be read is left
    to who does."""
    restream, mqtt, frigate = (config.get(name) for name in ("restream", "mqtt", "frigate"))
    url = restream.get("url") if isinstance(restream, dict) else restream
    found: list[tuple[str, tuple[OwnPlace, ...]]] = []
    try:
        if isinstance(url, str):
            found.append(("restream", restream_places(url)))
        if isinstance(mqtt, dict) or mqtt is True:
            told = mqtt if isinstance(mqtt, dict) else {}
            device = told.get("home_assistant")
            prefix = device.get("prefix", HOME_ASSISTANT) if isinstance(device, dict) else HOME_ASSISTANT
            found.append(
                ("mqtt", mqtt_places(stream, told.get("url"), told.get("topic"), prefix if device else None))
            )
        if isinstance(frigate, dict) or frigate is True:
            told = frigate if isinstance(frigate, dict) else {}
            found.append(
                (
                    "frigate",
                    frigate_places(stream, told.get("url"), told.get("topic", FRIGATE), told.get("camera")),
                )
            )
    except (TypeError, ValueError, AttributeError):
        return
    for name, places in found:
        for place in places:
            yield (name,), place


def live_topic(stream: str) -> str:
    """What the topics of a stream begin with that names none."""
    return f"edgectl/live/{host_name()}/{stream}"


def host_name() -> str:
    """This machine's name as one level of a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower()).strip("-") or "host"


def slug(text: str) -> str:
    """Home Assistant takes ``[a-zA-Z0-9_-]`` in topics and ids. Of another script little or nothing would be left, and
    two labels would be one."""
    found = re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")
    if found and text.isascii():
        return found
    return f"{found}_{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("_")


def _broker(url: str | None) -> tuple[str, str]:
    return _server(url or os.environ.get("EDGECTL_MQTT", ""))


def _server(url: str) -> tuple[str, str]:
    """Host and port, whoever logs in there. Raises ValueError for what is no address."""
    parts = urlsplit(url)
    return parts.hostname or "", str(parts.port or _PORTS.get(parts.scheme.lower()) or "")
