"""The demo's site: keys, broker, controller and agents as real processes on loopback, and what was learnt
from them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgectl.cli.demo.devices import DEVICES, DemoDevice
from edgectl.cli.demo.processes import Processes, free_port, wait_for_port
from edgectl.core.errors import EdgectlError, LinkError, ProtocolError, RolloutError
from edgectl.core.files import atomic_write
from edgectl.core.schema import Message, parse_json
from edgectl.core.wire import MAX_MESSAGE_BYTES, Topics
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.client.publish import publish_bundle
from edgectl.fleet.keys.ceremony import init_keys
from edgectl.fleet.keys.enroll import write_enrolment
from edgectl.link.mqtt import BrokerOptions, Link

__all__ = ["POLICY", "EventTap", "Site"]

FLEET = "demo"
POLICY: dict[str, Any] = {
    "probation_s": 4.0,
    "min_inferences": 64,
    "percentile": 50,
    "max_latency_ratio": 1.8,
}
"""Short, so that the demo is. The median is judged: five streams on two cores make the tail a matter of
luck."""


class _AnyEvent(Message):
    type: str
    stream: str
    phase: str | None = None
    rule: str | None = None
    label: str | None = None
    direction: str | None = None


class EventTap:
    """Listens to every device's events: the newest few, and counts."""

    def __init__(self, port: int) -> None:
        self.latest: deque[str] = deque(maxlen=6)
        self.counts: Counter[tuple[str, str]] = Counter()
        self._topics = Topics(FLEET)
        self._lock = threading.Lock()
        self._link = Link(BrokerOptions("127.0.0.1", port), "demo-events")
        self._link.subscribe(self._topics.any_event, self._heard)
        self._link.start()

    def close(self) -> None:
        self._link.close()

    def _heard(self, topic: str, payload: bytes) -> None:
        levels = self._topics.parse(topic)
        try:
            event = parse_json(_AnyEvent, payload, max_bytes=MAX_MESSAGE_BYTES, what="event")
        except ProtocolError:
            return  # not ours to judge: the tap only shows
        if levels is None or (event.type == "tracked_object" and event.phase == "update"):
            return
        what = " ".join(filter(None, (event.type, event.rule, event.phase, event.label, event.direction)))
        with self._lock:
            self.counts[levels[1], event.type] += 1
            self.latest.append(f"{levels[1]:8} {what}")


class Site:
    """Use as a context: everything that it starts is stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes(folder / "logs")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Site:
        try:
            self._open()
        except BaseException:  # whoever enters half-way is never told to leave
            self._stack.close()
            raise
        return self

    def _open(self) -> None:
        self._stack.enter_context(self.processes)
        keys, controller = self.folder / "keys", self.folder / "controller"
        init_keys(keys)
        self._broker, api = free_port(), free_port()
        self.processes.start("broker", "broker", "run", "--port", str(self._broker))
        config = (
            f'fleet = "{FLEET}"\nstate_dir = "controller"\nkeys = "keys"\ntick_s = 0.2\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {self._broker}\n[api]\nport = {api}\n'
        )
        atomic_write(self.folder / "controller.toml", config.encode())
        wait_for_port(self._broker, self.processes)
        self.processes.start(
            "controller", "controller", "run", "--config", str(self.folder / "controller.toml")
        )
        wait_for_port(api, self.processes)
        self.client = self._stack.enter_context(
            FleetClient.of(f"http://127.0.0.1:{api}", controller / "token")
        )
        self.events = EventTap(self._broker)
        self._stack.callback(self.events.close)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def publish(self, bundle: Path) -> str:
        return publish_bundle(self.client, bundle, self.folder / "keys")

    def start_device(self, device: DemoDevice) -> None:
        """Enroll a device and start its agent."""
        granted = self.client.enroll(device.name, again=True)
        out = self.folder / device.name
        pipeline = {
            "kind": device.kind,
            "source": device.source,
            "slots": {device.part: device.slot},
            "config": device.config,
            "out": str(out / "media"),
        }
        config = write_enrolment(
            out,
            device.name,
            root=granted["root"].encode(),
            fleet=granted["fleet"],
            broker=granted["broker"],
            pipelines={device.stream: pipeline},
            telemetry_s=1.0,
            stats_every_s=0.5,
        )
        self.processes.start(device.name, "agent", "run", "--config", str(config))

    def wait_online(self, update: Callable[[], None], *, timeout_s: float = 60.0) -> None:
        """Until every device has said that it is there."""
        deadline = time.monotonic() + timeout_s
        wanted = {d.name for d in DEVICES}
        while (missing := wanted - {d["name"] for d in self.client.devices() if d["online"]}) != set():
            self._pause(update, deadline, f"{', '.join(sorted(missing))} did not come online")

    def rollout(self, release: str, slot: str) -> str:
        """Start one; returns its id."""
        return str(self.client.start_rollout(release, slot, canary=1, policy=POLICY)["id"])

    def wait_rollouts(
        self, ids: list[str], update: Callable[[], None], *, timeout_s: float = 120.0
    ) -> list[dict[str, Any]]:
        """Until all have come to an end. Raises :class:`RolloutError` after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [self.client.rollout(i) for i in ids]
            if all(r["state"] not in ("running", "paused", "rolling_back") for r in found):
                return found
            waiting = ", ".join(f"{r['release']} {r['state']}" for r in found)
            self._pause(update, deadline, f"rollouts did not end: {waiting}", RolloutError)

    def _pause(
        self, update: Callable[[], None], deadline: float, message: str, error: type[EdgectlError] = LinkError
    ) -> None:
        self.processes.check()
        update()
        if time.monotonic() > deadline:
            raise error(message, hint=f"see the logs in {self.folder / 'logs'}")
        time.sleep(0.25)
