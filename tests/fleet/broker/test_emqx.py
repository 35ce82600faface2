"""A real EMQX with the generated files: who may connect, what a device can and cannot see and say, and how
one is thrown out.

``EDGECTL_EMQX`` names a command that runs EMQX in the foreground with the configuration ``emqx.conf`` of the
folder that is its argument, and ends on SIGTERM. The configuration keeps state in that folder and the
management API on loopback.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shlex
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from conftest import free_port
from support.broker import DIGEST, Client, T, own_topics
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

from edgectl.core.errors import LinkError
from edgectl.core.trust import MAX_TRUST_BYTES
from edgectl.fleet.broker.mosquitto import BrokerSettings, broker_files
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa
from edgectl.link.mqtt import BrokerOptions, Link, Tls


@dataclass
class Site:
    folder: Path
    command: list[str]
    ca: FleetCa
    port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    names: dict[str, Tls] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, peer_seeding: bool = False) -> None:
        files = self.folder / "broker"
        files.mkdir(exist_ok=True)
        plan = BrokerSettings("home", PurePosixPath(files), self.port, "127.0.0.1", peer_seeding)
        for name, text in broker_files("emqx", plan).items():
            (files / name).write_text(text)
        (self.folder / "api_key").write_text("test:test-of-edgectl\n")
        (self.folder / "emqx.conf").write_text(f"""\
node {{ name = "emqx@127.0.0.1", cookie = edgectl, data_dir = "{self.folder}/data" }}
dashboard.listeners.http.bind = "127.0.0.1:{self.api_port}"
api_key.bootstrap_file = "{self.folder}/api_key"
include "{files}/emqx.conf"
""")
        with (self.folder / "out").open("wb") as out:
            self.process = subprocess.Popen(
                [*self.command, str(self.folder)],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

        def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "out").read_text()[-4000:]
            try:
                return bool(self.api("GET", "nodes")[0]["node_status"] == "running")
            except OSError:
                return False

        wait_until(answers, "EMQX starts", 90)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(60)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """EMQX's management API. Raises :class:`OSError` for whatever is not an answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api_port}/api/v5/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"test:test-of-edgectl").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def identity(self, name: str) -> Tls:
        """The files of a client, made once."""
        if name not in self.names:
            ca, cert, key = self.ca.issue_client(name).write(self.folder / "clients" / name, "device")
            self.names[name] = Tls(ca, cert, key)
        return self.names[name]

    def client(self, name: str, **options: Any) -> Client:
        return Client(self.port, self.identity(name), **options)

    def link(self, name: str) -> Link:
        return Link(BrokerOptions("127.0.0.1", self.port, tls=self.identity(name)), name)


def refuses(site: Site, *, say: str | None = None, hear: str | None = None, client_id: str = "") -> bool:
    """Whether the broker ends the connection of gate-1 because of one publish or one subscription."""
    with site.client("gate-1", client_id=client_id) as client:
        if say is not None:
            client.client.publish(say, b"x", 1, retain=True)
        if hear is not None:
            client.client.subscribe(hear, 1)
        try:
            return bool(client.down.get(timeout=5))
        except queue.Empty:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    command = os.environ.get("EDGECTL_EMQX")
    if not command:
        pytest.skip("EMQX is not a package of this system; set EDGECTL_EMQX to a command that runs it")
    folder = tmp_path_factory.mktemp("emqx")
    made = Site(folder, shlex.split(command), FleetCa.create(folder / "ca", "home"))
    made.ca.issue_server(["127.0.0.1", "localhost"]).write(folder / "broker", "server")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_device_says_only_what_is_its_own(site: Site) -> None:
    foreign = [
        T.peer(DIGEST, "gate-1"),
        T.peer_rounds(DIGEST, "gate-1"),
        T.trust,
        T.ctl,
        T.manifest(DIGEST, 0),
        T.broadcast(DIGEST),
        T.rounds(DIGEST),
        T.repair(DIGEST, "gate-1"),
        T.desired("gate-1"),
        T.desired("gate-2"),
        T.command("gate-2"),
        "edgectl/1/away/d/gate-1/reported",
        f"$delayed/1/{T.ctl}",
        "other",
    ]
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        assert controller.subscribe(f"{T.root}/#")
        assert [t for t in (*own_topics("gate-2"), *foreign) if not refuses(site, say=t)] == []
        for topic in own_topics("gate-1"):
            device.publish(topic)
        controller.publish(T.ctl)
        assert controller.drain(T.ctl) == own_topics("gate-1")


def test_device_sees_only_what_is_for_it(site: Site) -> None:
    mine = [
        T.trust,
        T.ctl,
        T.manifest(DIGEST, 3),
        T.broadcast(DIGEST),
        T.rounds(DIGEST),
        T.repair(DIGEST, "gate-1"),
        T.desired("gate-1"),
        T.command("gate-1"),
    ]
    others = [
        T.desired("gate-2"),
        T.command("gate-2"),
        T.repair(DIGEST, "gate-2"),
        *own_topics("gate-2"),
        *own_topics("gate-1"),
    ]
    wide = ["#", "+/#", f"{T.root}/#", f"{T.root}/d/+/desired", f"{T.root}/a/+/r/+", f"{T.root}/a/+/need/+"]
    assert [
        t for t in (*others, *wide, *(f"$share/g/{t}" for t in wide), "$SYS/#") if not refuses(site, hear=t)
    ] == []
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        assert all(device.subscribe(t) for t in mine)
        for topic in (*others, *mine):
            controller.publish(topic)
        assert device.drain(mine[-1]) == mine[:-1]


def test_lie_about_the_client_id_or_the_user_name_changes_nothing(site: Site) -> None:
    assert refuses(site, hear=T.desired("gate-2"), client_id="gate-2")
    assert refuses(site, say=T.reported("gate-2"), client_id="gate-2")
    options = BrokerOptions(
        "127.0.0.1", site.port, username=CONTROLLER, password="x", tls=site.identity("gate-1")
    )
    heard: queue.Queue[str] = queue.Queue()
    with site.client(CONTROLLER) as controller, Link(options, "liar") as link:
        link.subscribe(T.command("gate-1"), lambda topic, _: heard.put(topic))
        link.connect()
        assert link.publish(T.telemetry("gate-1"), b"x").wait(10)
        controller.publish(T.command("gate-1"))
        assert heard.get(timeout=10) == T.command("gate-1")
        assert not link.publish(T.command("gate-1"), b"x").wait(1.0), "it is gate-1 still, whatever it says"


def test_last_will_reaches_only_what_its_device_may_say(site: Site) -> None:
    with site.client(CONTROLLER) as controller:
        assert controller.subscribe(f"{T.root}/#")
        for will in (T.trust, T.desired("gate-2"), T.conn("gate-2"), T.conn("gate-1")):
            site.client("gate-1", will=will).vanish()
        assert controller.drain(T.conn("gate-1")) == []


def test_nobody_without_a_certificate_of_this_fleet_comes_in(site: Site, tmp_path: Path) -> None:
    stranger = FleetCa.create(tmp_path / "ca", "home").issue_client("gate-1")
    _, cert, key = stranger.write(tmp_path, "device")
    ca = site.identity("gate-1").ca
    server = site.ca.issue_server(["gate-1"]).write(tmp_path, "server")
    for tls in (Tls(ca), Tls(ca, cert, key), Tls(ca, server[1], server[2])):
        with pytest.raises(LinkError, match="is the certificate of this fleet, valid and not revoked"):
            Link(BrokerOptions("127.0.0.1", site.port, tls=tls), "x").connect()


def test_slow_reader_loses_what_is_above_the_bounds_and_stays_connected(site: Site) -> None:
    bound = 20 + 256  # in flight, and queued
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        assert device.subscribe(T.broadcast(DIGEST))
        assert device.subscribe(T.ctl)
        reads = threading.Event()
        device.client.on_message = lambda _c, _d, m: device.got.put(
            m.topic if reads.wait(30) else "nobody let it read"
        )
        sent = [controller.client.publish(T.broadcast(DIGEST), bytes(1024), 1) for _ in range(bound + 100)]
        for message in sent:
            message.wait_for_publish(10)
        reads.set()
        wait_until(lambda: device.got.qsize() >= bound, "it gets what was kept for it")
        controller.publish(T.ctl)
        assert device.drain(T.ctl) == [T.broadcast(DIGEST)] * bound


def test_largest_trust_message_is_kept_through_a_restart_and_a_larger_one_is_refused(site: Site) -> None:
    with site.client(CONTROLLER) as controller:
        controller.publish(T.trust, bytes(MAX_TRUST_BYTES), retain=True)
        controller.publish(T.manifest(DIGEST, 0), b"page", retain=True)
        controller.client.publish(T.ctl, bytes(MAX_TRUST_BYTES + (65 << 10)), 1)
        assert controller.down.get(timeout=10), "a packet that is too large ends the connection"
    sizes: queue.Queue[tuple[str, int]] = queue.Queue()
    for _ in range(2):
        with site.link("gate-1") as device:
            for topic in (T.trust, T.manifest(DIGEST, 0)):
                device.subscribe(topic, lambda topic, payload: sizes.put((topic, len(payload))))
            device.connect()
            assert {sizes.get(timeout=10) for _ in range(2)} == {
                (T.trust, MAX_TRUST_BYTES),
                (T.manifest(DIGEST, 0), 4),
            }
        site.stop()
        site.start()


def test_who_is_refused_while_the_broker_starts_is_thrown_out_not_left_deaf(site: Site) -> None:
    site.stop()
    with ThreadPoolExecutor(1) as threads:
        started = threads.submit(site.start)
        while not started.done():
            try:
                client = site.client("gate-1")
            except OSError:  # it does not listen yet
                time.sleep(0.01)
                continue
            with client:
                assert client.subscribe(T.ctl) or client.down.get(timeout=10)
        started.result()
    with site.client("gate-1") as client:
        assert client.subscribe(T.ctl)


def test_revoked_device_is_banned_by_name_and_thrown_out_by_client_id(site: Site) -> None:
    with site.client(CONTROLLER) as controller, site.client("gate-9") as revoked:
        assert controller.subscribe(T.telemetry("gate-9"))
        site.api("POST", "banned", {"as": "username", "who": "gate-9", "until": "2100-01-01T00:00:00Z"})
        with pytest.raises(LinkError, match="Not authorized"):
            site.link("gate-9").connect()
        with site.link("gate-1") as good:
            good.connect()
        revoked.publish(T.telemetry("gate-9"))
        assert controller.got.get(timeout=10) == T.telemetry("gate-9"), (
            "who is connected stays: hence the second request"
        )
        for found in site.api("GET", "clients?username=gate-9&fields=clientid")["data"]:
            site.api("DELETE", f"clients/{found['clientid']}")
        assert revoked.down.get(timeout=10)
    site.stop()
    site.start()
    with pytest.raises(LinkError, match="Not authorized"):
        site.link("gate-9").connect()


def test_releases_reach_a_device_also_after_a_restart_of_the_broker(site: Site, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, site.port, free_port(), ca=site.ca)
    try:
        fleet.start_controller()
        fleet.enroll("gate-5")
        fleet.start_agent("gate-5")
        for version in ("1.0.0", "2.0.0"):
            bundle = make_bundle(tmp_path / version, version=version, size=20_000_000)
            done = fleet.wait_rollout(fleet.rollout(fleet.publish(bundle)), "done", timeout_s=90)
            assert {m["outcome"] for m in done["members"].values()} == {"committed"}
            if version == "1.0.0":
                site.stop()
                site.start()
    finally:
        fleet.close()


def test_peers_send_chunks_only_where_that_is_switched_on(site: Site) -> None:
    site.stop()
    site.start(peer_seeding=True)
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        assert all(
            controller.subscribe(t)
            for t in (f"{T.root}/a/+/p/+", f"{T.root}/a/+/st/+", T.telemetry("gate-1"))
        )
        own = [T.peer(DIGEST, "gate-1"), T.peer_rounds(DIGEST, "gate-1")]
        others = (
            T.peer(DIGEST, "gate-2"),
            T.peer_rounds(DIGEST, "gate-2"),
            T.broadcast(DIGEST),
            T.rounds(DIGEST),
            T.manifest(DIGEST, 0),
        )
        assert [t for t in others if not refuses(site, say=t)] == []
        for topic in own:
            device.publish(topic)
        device.publish(T.telemetry("gate-1"))
        assert controller.drain(T.telemetry("gate-1")) == own
        assert device.subscribe(f"{T.root}/a/+/need/+")
