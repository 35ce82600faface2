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

import psutil

from edgectl.agent.streams.supervisor import WORKER
from edgectl.cli._signals import StopRequest
from edgectl.cli.demo.devices import DEVICES, DemoDevice
from edgectl.cli.demo.patience import Patience
from edgectl.cli.demo.processes import Processes, free_port, wait_for_port
from edgectl.core.errors import LinkError, ProtocolError, RolloutError
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


_STANDS_STILL_S = 120.0
"""Without a step of any device: then a wait is given up. The longest step is to wait for enough inferences on
probation: seconds, and a minute on a machine that is very busy."""


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
            self.latest.append(f"{levels[1]:8} {event.stream:6} {what}")


class Site:
    """Use as a context: everything that it starts is stopped at the end."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder = folder
        self._clock, self._sleep = clock, sleep
        self.processes = Processes(folder / "logs")
        self._pages: dict[str, int] = {}
        """Device → port of its live page."""
        self._agents: dict[str, psutil.Process] = {}
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
        self._api = f"http://127.0.0.1:{api}"
        self.client = self._stack.enter_context(FleetClient.of(self._api, controller / "token"))
        self.events = EventTap(self._broker)
        self._stack.callback(self.events.close)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def publish(self, bundle: Path) -> str:
        return publish_bundle(self.client, bundle, self.folder / "keys")

    def start_device(self, device: DemoDevice) -> None:
        """Enroll a device and start its agent."""
        granted = self.client.enroll(device.name, again=True)
        self._pages[device.name] = free_port()
        out = self.folder / device.name
        pipelines = {
            stream: {
                "kind": device.kind,
                "source": source,
                "slots": {device.part: device.slot},
                "config": device.config,
                # one video a device: encoding costs more than all else on two cores
                "out": str(out / "media") if stream == next(iter(device.cameras)) else None,
            }
            for stream, source in device.cameras.items()
        }
        config = write_enrolment(
            out,
            device.name,
            root=granted["root"].encode(),
            fleet=granted["fleet"],
            broker=granted["broker"],
            pipelines=pipelines,
            telemetry_s=1.0,
            stats_every_s=0.5,
            view={"listen": f"127.0.0.1:{self._pages[device.name]}"},
        )
        agent = self.processes.start(device.name, "agent", "run", "--config", str(config))
        self._agents[device.name] = psutil.Process(agent.pid)

    def page(self, device: str) -> str:
        """Address of a device's live page."""
        return f"http://127.0.0.1:{self._pages[device]}/"

    def dashboard(self) -> str:
        """A link to the controller's dashboard that signs a browser in, once and within a minute."""
        return self.client.dashboard_link()

    @property
    def open_dashboard(self) -> str:
        """The command that prints another such link."""
        token = self.folder / "controller" / "token"
        return f"edgectl controller open --controller {self._api} --token-file {token}"

    def workers(self, device: str) -> list[float]:
        """The memory of each worker of a device, MB (10^6 bytes); on Linux what is shared is divided among those who
        share it."""
        found = []
        for child in self._agents[device].children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if WORKER[-1] in child.cmdline():
                    memory = child.memory_full_info()
                    found.append(getattr(memory, "pss", memory.rss) / 1e6)
        return found

    def stay(self, update: Callable[[], None]) -> None:
        """Until a signal asks to stop. Raises :class:`EdgectlError` if a process ends by itself."""
        with StopRequest() as stop:
            stop.arm()
            while not stop.event.is_set():
                self._pause(update)

    def wait_online(self, update: Callable[[], None]) -> None:
        """Until every device has said that it is there. Raises :class:`LinkError` once no other came for
        long."""
        patience = self._patience()
        wanted = {d.name for d in DEVICES}
        while missing := sorted(wanted - {d["name"] for d in self.client.devices() if d["online"]}):
            if patience.over(missing):
                raise LinkError(f"{', '.join(missing)} did not come online", hint=self._see_logs)
            self._pause(update)

    def rollout(self, release: str, slot: str) -> str:
        """Start one; returns its id."""
        return str(self.client.start_rollout(release, slot, canary=1, policy=POLICY)["id"])

    def wait_rollouts(self, ids: list[str], update: Callable[[], None]) -> list[dict[str, Any]]:
        """Until all have come to an end. Raises :class:`RolloutError` once no device has taken a step for
        long."""
        patience = self._patience()
        while True:
            found = [self.client.rollout(i) for i in ids]
            if all(r["state"] not in ("running", "paused", "rolling_back") for r in found):
                return found
            members = [[(name, m["outcome"]) for name, m in r["members"].items()] for r in found]
            if patience.over((members, [r["state"] for r in found], self._slot_states())):
                waiting = ", ".join(f"{r['release']} {r['state']}" for r in found)
                raise RolloutError(f"rollouts stand still: {waiting}", hint=self._see_logs)
            self._pause(update)

    def wait_running(self, release: str, devices: str, update: Callable[[], None]) -> None:
        """Until every device whose name starts with ``devices`` runs a release. Raises
        :class:`RolloutError` once none has taken a step for long."""
        patience = self._patience()
        while True:
            rows = [r for r in self.client.rows() if r["device"].startswith(devices)]
            waiting = sorted(r["device"] for r in rows if (r["release"], r["state"]) != (release, "running"))
            if not waiting:
                return
            if patience.over((waiting, self._slot_states())):
                raise RolloutError(f"{', '.join(waiting)} did not go back to {release}", hint=self._see_logs)
            self._pause(update)

    def _slot_states(self) -> list[tuple[str, str, str]]:
        """What the devices are doing: where an installation stands is a step of a rollout, too."""
        return [(r["device"], r["slot_state"], r["release"]) for r in self.client.rows()]

    def _patience(self) -> Patience:
        return Patience(_STANDS_STILL_S, clock=self._clock)

    @property
    def _see_logs(self) -> str:
        return f"see the logs in {self.folder / 'logs'}"

    def _pause(self, update: Callable[[], None]) -> None:
        self.processes.check()
        update()
        self._sleep(0.25)
