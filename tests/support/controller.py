"""A controller whose broker is a dictionary: tests tick it and speak for the devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from edgectl.core.errors import LinkError
from edgectl.core.states import State
from edgectl.core.wire import Conn, Desired, Message, Reported, ReportedSlot, Topics
from edgectl.fleet.config import ControllerConfig
from edgectl.fleet.control.controller import Controller, RolloutRequest
from edgectl.fleet.keys.ceremony import KeySet, init_keys
from edgectl.fleet.store.inventory import Release
from edgectl.link.config import BrokerConfig

T = Topics("home")
DIGEST = {v: "sha256:" + v * 64 for v in "123"}


class Wire:
    """A link to a broker that keeps what is retained; ``takes`` messages, then it is full."""

    def __init__(self) -> None:
        self.is_up = True
        self.takes = 10_000
        self.retained: dict[str, bytes] = {}
        self.handlers: dict[str, Callable[[str, bytes], None]] = {}
        self.on_up: Callable[[], None] = lambda: None
        self.on_publish: Callable[[str], None] = lambda _: None
        """Called while the publisher waits."""
        self.is_kept = False
        self.waiting = 0
        self.hears: tuple[float, float] | None = None
        """From when until when nothing was missed, in the seconds of the clock of the test."""

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> None:
        self.on_publish(topic)
        if not self.takes:
            raise LinkError("20 messages wait for an answer of the broker")
        self.takes -= 1
        self.retained[topic] = payload
        self.deliver(topic, payload)  # the controller hears its own topics

    def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None]) -> None:
        self.handlers[topic_filter] = handler

    def deliver(self, topic: str, payload: bytes) -> None:
        for topic_filter, handler in self.handlers.items():
            if paho.topic_matches_sub(topic_filter, topic):
                handler(topic, payload)

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Seeder:
    """Only pages of manifests, and only their blobs."""

    alive = True

    def __init__(self) -> None:
        self.offered: list[str] = []
        self.publish_pages = self.offered.append

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


class World:
    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        director: KeySet | None = None,
        database: str | None = None,
    ) -> None:
        self.folder = folder
        self.database = database
        init_keys(folder / "keys", director=director or KeySet())
        self.wire = Wire()
        self.seeder = _Seeder()
        monkeypatch.setattr("edgectl.fleet.control.controller.Link", lambda *_, **__: self.wire)
        monkeypatch.setattr("edgectl.fleet.control.controller.BlobSeeder", lambda *_, **__: self.seeder)
        self.now = 1000.0
        self.boot()

    def boot(self) -> Controller:
        self.controller = Controller(self.config())
        self.controller.start()
        return self.controller

    def config(self, **changes: Any) -> ControllerConfig:
        """``changes``: settings that are not the default."""
        return ControllerConfig(
            broker=BrokerConfig(host="127.0.0.1"),
            state_dir=self.folder / "state",
            keys=self.folder / "keys",
            database=self.database,
            **changes,
        )

    def hears(self, topic: str, message: Message | bytes) -> None:
        self.wire.deliver(topic, message if isinstance(message, bytes) else message.encode())

    def born(self, device: str, epoch: int = 1) -> None:
        self.hears(T.conn(device), Conn(epoch=epoch, online=True, slots=("gate",)))

    def reports(
        self, device: str, epoch: int, seq: int, gen: int = 0, state: State = State.COMMITTED
    ) -> None:
        slot = ReportedSlot(state=state, gen=gen)
        self.hears(T.reported(device), Reported(epoch=epoch, seq=seq, gen=gen, slots={"gate": slot}))

    def rollout(self, version: str, *devices: str) -> str:
        release = f"gate@{version}"
        self.controller.inventory.save_release(Release(release, DIGEST[version], (), self.now))
        return self.controller.start_rollout(
            RolloutRequest(release=release, slot="gate", devices=devices, canary=9)
        ).id

    def tick(self) -> None:
        self.now += 1
        self.controller.tick(self.now)

    def told(self, device: str) -> Desired | None:
        payload = self.wire.retained.get(T.desired(device))
        return self.controller.director.open(device, payload) if payload else None  # empty: it was deleted
