"""A sink's connection to a broker: events wait on disk while it is away, states are said anew when it is back.

What is said is the business of a :class:`Voice`, which does no IO.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field, field_validator

from edgectl.core.errors import EdgectlError, LinkError, StorageError, UsageError
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.link.spool import Kind, SpoolRow, SpoolSender
from edgectl.link.url import broker_of_url
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, StreamOutput
from edgectl.pipelines.sinks.spool_place import SpoolPlace

__all__ = ["BrokerSink", "MqttConfig", "Said", "Voice"]

_log = logging.getLogger(__name__)

_FIRST_S = 3.0
"""How long the start waits for the broker: long enough to hear that it refuses the password."""
_DRAIN_S = 5.0
_HURRIED_S = 1.0
_LATE_S = 30.0


class MqttConfig(SinkOptions):
    url: str | None = Field(default=None, repr=False)
    """``mqtt://user:secret@host:1883``, or ``mqtts://…`` with TLS; none: the environment's ``EDGECTL_MQTT``. In a secret
    write ``/ ? # @ :`` as ``%2F %3F %23 %40 %3A``."""
    ca: Path | None = None
    """PEM file of the authority that signed the broker's certificate; none: the system's."""
    spool_mb: int = Field(default=50, ge=1, le=10_000)
    """What may wait on disk for a broker that is away. Beyond it updates of objects go first, other events last."""
    spool_hours: float = Field(default=48.0, gt=0, le=8760)
    """How long it may wait."""
    picture_s: float = Field(default=10.0, ge=1, le=86400)
    """A picture is sent at most so often."""
    picture_width: int = Field(default=1280, ge=64, le=4096)
    """A wider one is made smaller."""

    @field_validator("url")
    @classmethod
    def _is_a_broker(cls, url: str | None) -> str | None:
        try:
            if url is not None:
                broker_of_url(url)
        except EdgectlError as e:
            raise ValueError(f"{e.message}; {e.hint}") from None
        return url

    def broker(self) -> BrokerOptions:
        """Raises :class:`UsageError` where none is named."""
        url = self.url or os.environ.get("EDGECTL_MQTT")
        if not url:
            raise UsageError(
                "there is no MQTT broker to send to",
                hint="give it with --mqtt, in EDGECTL_MQTT, or as the url of the sink",
            )
        return broker_of_url(url, ca=self.ca)


@dataclass(frozen=True, slots=True)
class Said:
    """One message. ``kind`` None: a state, which is of no use later and does not wait."""

    topic: str
    payload: bytes
    kind: Kind | None = None
    retain: bool = False


class Voice(Protocol):
    """Pure: what is said of a stream. Times are Unix seconds. For one thread."""

    availability: str
    """Topic of ``online`` and ``offline``; the latter is the will, too."""

    def birth(self) -> Sequence[Said]:
        """After each connection."""
        ...

    def hear(self, output: StreamOutput, now_s: float) -> Sequence[Said]:
        """Of what the stream gave."""
        ...

    def commands(self) -> Mapping[str, Callable[[bytes], Sequence[Said]]]:
        """Topic → what a message on it does."""
        ...


class BrokerSink(Sink):
    tracks = True

    def __init__(
        self, name: str, options: MqttConfig, context: SinkContext, voice: Voice, *, pictures: bool
    ) -> None:
        """Raises :class:`LinkError` where the broker refuses user and password, and for TLS files that cannot be
        used."""
        self.name = name
        self.pictures = pictures
        self._voice = voice
        broker = options.broker()
        broker.check()
        self._link = Link(
            broker, f"{name}-{context.stream}", will=(voice.availability, b"offline"), max_backoff_s=15.0
        )
        self._place = SpoolPlace(
            name,
            context.stream,
            f"{broker.username or ''}@{broker}",
            context.out,
            max_bytes=options.spool_mb << 20,
            max_age_s=options.spool_hours * 3600,
        )
        self._spool = self._place.spool
        self._sender = SpoolSender(self._spool, self._link, payload=_late, name=f"{name}-{context.stream}")
        for topic, act in voice.commands().items():
            self._link.subscribe(topic, lambda _, payload, act=act: self._say(act(payload)))  # type: ignore[misc]
        self._link.on_up = self._born
        self._link.start()
        self._sender.thread.start()
        deadline = time.monotonic() + _FIRST_S
        while not self._link.is_up and not self._link.denied and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._link.denied:
            self._end()
            raise LinkError(
                f"the MQTT broker at {broker} refuses user and password: {self._link.trouble}",
                hint="check the user and the password in the broker's address",
            )

    def write(self, output: StreamOutput) -> None:
        said = self._voice.hear(output, time.time())
        waiting = [(s.kind, s.topic, s.payload) for s in said if s.kind is not None]
        if waiting:
            try:
                self._spool.put_all(waiting, time.time())
            except StorageError as e:
                e.retryable = True
                raise
            self._sender.nudge()
        self._say([s for s in said if s.kind is None])

    def trouble(self) -> str | None:
        link = self._link
        if link.is_up:
            self.cause = None
            return None
        self.cause = "auth" if link.denied else None
        if link.denied:
            return f"the broker at {link.broker} refuses user and password: {link.trouble}"
        return f"the broker at {link.broker} is away: {link.trouble}"

    def progress(self) -> int:
        return self._spool.size

    def close(self) -> None:
        deadline = time.monotonic() + (_HURRIED_S if self.hurried else _DRAIN_S)
        while self._link.is_up and self._spool.oldest(1) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._say([Said(self._voice.availability, b"offline", retain=True)])
        left = len(self._spool.oldest(1000))
        if left:
            _log.warning("%s: %d messages wait for the broker; %s", self.name, left, self._place.who)
        self._end()

    def _end(self) -> None:
        self._sender.stop()
        self._link.close()
        self._sender.thread.join(10)
        self._place.close()

    def _born(self) -> None:
        """On the link's thread."""
        self._say([Said(self._voice.availability, b"online", retain=True), *self._voice.birth()])

    def _say(self, said: Sequence[Said]) -> None:
        """States: what does not get through now is said again later."""
        for each in said:
            if self._link.is_up:
                with contextlib.suppress(LinkError):
                    self._link.publish(each.topic, each.payload, retain=each.retain, timeout_s=0.5)


def _late(row: SpoolRow) -> bytes:
    """An event that waited says so. Raises ValueError for what is none any more."""
    if time.time() - row.created_s < _LATE_S:
        return row.payload
    event = json.loads(row.payload)
    if not isinstance(event, dict):
        raise ValueError("it is no JSON object")
    return json.dumps({**event, "late": True}, separators=(",", ":")).encode()
