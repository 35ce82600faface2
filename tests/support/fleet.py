"""A whole fleet on one machine for tests: controller in this process, agents as real processes that can be
killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.tuf import keys_in
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError
from edgectl.core.trust import seal_desired
from edgectl.core.wire import Conn, Desired, Policy, Reported, Telemetry, Topics
from edgectl.fleet.client.client import FleetClient
from edgectl.fleet.client.publish import publish_bundle
from edgectl.fleet.config import ApiConfig, ControllerConfig
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa
from edgectl.fleet.keys.ceremony import init_keys
from edgectl.fleet.keys.enroll import write_enrolment
from edgectl.fleet.service import run_controller
from edgectl.link.config import BrokerConfig
from edgectl.link.mqtt import Link

AGENT = Path(__file__).with_name("agent.py")
POLICY = Policy(probation_s=0.5, min_inferences=130)


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 40.0) -> Any:
    """The first true value of ``condition``; fails the test with ``what`` after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.03)
    return value


@dataclass
class Fleet:
    folder: Path
    port: int
    api_port: int
    host: str = "127.0.0.1"
    ca: FleetCa | None = None
    """With one, everybody speaks TLS with a certificate of his own."""
    topics: Topics = field(default_factory=lambda: Topics("home"))
    agents: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    reported: dict[str, list[Reported]] = field(default_factory=dict)
    telemetry: dict[str, list[Telemetry]] = field(default_factory=dict)
    conns: dict[str, list[Conn]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = self.folder / "keys"
        if not self.keys.exists():
            init_keys(self.keys)
        broker = BrokerConfig(host=self.host, port=self.port)
        if self.ca is not None:
            authority, cert, key = self.ca.issue_client(CONTROLLER).write(
                self.folder / "controller-tls", "controller"
            )
            broker = broker.model_copy(update={"tls": True, "ca": authority, "cert": cert, "key": key})
        self.config = ControllerConfig(
            broker=broker,
            state_dir=self.folder / "controller",
            keys=self.keys,
            api=ApiConfig(port=self.api_port),
            tick_s=0.1,
        )
        self.stop_controller = threading.Event()
        self.controller: threading.Thread | None = None
        self.spy = Link(broker.options(), "spy")
        self.spy.subscribe(self.topics.any_reported, self._on_reported)
        self.spy.subscribe(self.topics.any_telemetry, self._on_telemetry)
        self.spy.subscribe(self.topics.any_conn, self._on_conn)
        self.spy.connect()

    def _on_reported(self, topic: str, payload: bytes) -> None:
        self.reported.setdefault(topic.split("/")[4], []).append(Reported.model_validate_json(payload))

    def _on_telemetry(self, topic: str, payload: bytes) -> None:
        self.telemetry.setdefault(topic.split("/")[4], []).append(Telemetry.model_validate_json(payload))

    def _on_conn(self, topic: str, payload: bytes) -> None:
        self.conns.setdefault(topic.split("/")[4], []).append(Conn.model_validate_json(payload))

    def start_controller(self) -> FleetClient:
        self.stop_controller.clear()
        self.controller = threading.Thread(
            target=run_controller, args=(self.config, self.stop_controller), name="controller"
        )
        self.controller.start()
        token = self.config.state_dir / "token"
        wait_until(token.is_file, "the controller writes its token")
        self.client = FleetClient.of(f"http://127.0.0.1:{self.api_port}", token)

        def answers() -> bool:
            try:
                self.client.devices()
            except Exception:
                return False
            return True

        wait_until(answers, "the API answers")
        return self.client

    def end_controller(self) -> None:
        if self.controller is not None:
            self.stop_controller.set()
            self.controller.join(20)
            assert not self.controller.is_alive(), "the controller does not stop"
            self.client.close()
            self.controller = None

    def enroll(
        self, name: str, pipelines: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any
    ) -> Path:
        """``pipelines``: stream → what it is; None: one camera of a yard."""
        answer = self.client.enroll(name)
        pipeline = {
            "kind": "surveillance",
            "source": "synth://yard",
            "slots": {"detector": "gate-detector"},
            "stall_s": 10.0,
        }
        return write_enrolment(
            self.folder / name,
            name,
            root=answer["root"].encode(),
            fleet=answer["fleet"],
            broker=answer["broker"],
            pipelines=pipelines or {"yard": pipeline},
            certificate=self.ca.issue_client(name) if self.ca is not None else None,
            telemetry_s=1.0,
            stats_every_s=0.1,
            reserve_mb=1,
            **settings,
        )

    def start_agent(self, name: str) -> subprocess.Popen[bytes]:
        log = (self.folder / name / "log").open("ab")
        with log:
            self.agents[name] = subprocess.Popen(
                [sys.executable, str(AGENT), str(self.folder / name / "agent.toml")], stderr=log
            )
        return self.agents[name]

    def wait_online(self, name: str) -> None:
        """Until the controller has heard it."""
        wait_until(
            lambda: any(d["name"] == name and d["online"] for d in self.client.devices()), f"{name} is there"
        )

    def kill_agent(self, name: str) -> None:
        process = self.agents.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop_agent(self, name: str) -> int:
        process = self.agents.pop(name)
        process.terminate()
        return process.wait(20)

    def cli(self, *words: object, ends: type[EdgectlError] | None = None) -> Any:
        """The result of a command at this fleet's controller. ``ends``: the error that it ends with."""
        env = {
            "EDGECTL_CONTROLLER": f"http://127.0.0.1:{self.api_port}",
            "EDGECTL_TOKEN_FILE": str(self.config.state_dir / "token"),
            "COLUMNS": "120",
        }
        result = CliRunner().invoke(app, [str(w) for w in words], env=env)
        assert type(result.exception) is (ends or type(None)), result.output
        return result

    def publish(self, bundle: Path) -> str:
        return publish_bundle(self.client, bundle, self.keys)

    def rollout(
        self, release: str, policy: Policy = POLICY, *, slot: str = "gate-detector", **options: Any
    ) -> str:
        answer = self.client.start_rollout(release, slot, policy=policy.model_dump(), **options)
        return str(answer["id"])

    def seal(self, device: str, desired: Desired) -> bytes:
        """Signed by the director, past the controller."""
        return seal_desired("home", device, desired, keys_in(self.keys / "director.pem"))

    def state_of(self, name: str, slot: str = "gate-detector") -> str | None:
        last = self.reported.get(name)
        return last[-1].slots[slot].state.value if last and slot in last[-1].slots else None

    def wait_rollout(self, rollout: str, *states: str, timeout_s: float = 40.0) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            found = self.client.rollout(rollout)
            return found if found["state"] in states else None

        found: dict[str, Any] = wait_until(reached, f"rollout {rollout} is {' or '.join(states)}", timeout_s)
        return found

    def history(self, name: str, slot: str = "gate-detector") -> list[str]:
        """The states that a device reported, repeats left out."""
        states: list[str] = []
        for r in self.reported.get(name, []):
            if slot in r.slots and (not states or states[-1] != r.slots[slot].state.value):
                states.append(r.slots[slot].state.value)
        return states

    def close(self) -> None:
        for name in list(self.agents):
            self.kill_agent(name)
        self.end_controller()
        self.spy.close()
