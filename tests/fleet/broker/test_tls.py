"""A real mosquitto with the generated files: who may connect, and what a device can and cannot see and
say."""

from __future__ import annotations

import os
import pwd
import queue
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest
from conftest import free_port
from support.broker import DIGEST, Client, T, own_topics

from edgectl.agent.identity import make_request
from edgectl.core.errors import LinkError
from edgectl.fleet.broker.mosquitto import BrokerSettings, broker_files
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa
from edgectl.link.mqtt import BrokerOptions, Link, Tls


@dataclass
class Site:
    folder: Path
    port: int
    ca: FleetCa
    process: subprocess.Popen[bytes] | None = None
    peer_seeding: bool = False
    names: dict[str, Tls] = field(default_factory=dict)

    def write(self) -> None:
        plan = BrokerSettings(
            "home",
            PurePosixPath(self.folder),
            self.port,
            "127.0.0.1",
            self.peer_seeding,
            state=str(self.folder),
        )
        for name, text in broker_files("mosquitto", plan).items():
            (self.folder / name).write_text(text)
        (self.folder / "crl.pem").write_bytes(self.ca.crl)

    def start(self) -> None:
        binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if binary is None:
            pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
        conf = self.folder / "test.conf"
        # as root it would become the user mosquitto, who may not read these keys
        me = pwd.getpwuid(os.getuid()).pw_name
        conf.write_text(
            (self.folder / "mosquitto.conf").read_text() + f"user {me}\nlog_dest file {self.folder}/log\n"
        )
        self.process = subprocess.Popen(
            [binary, "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=0.2).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)

    def identity(self, name: str) -> Tls:
        """The files of a client, made once."""
        if name not in self.names:
            ca, cert, key = self.ca.issue_client(name).write(self.folder / "clients" / name, "device")
            self.names[name] = Tls(ca, cert, key)
        return self.names[name]

    def client(self, name: str, **options: str) -> Client:
        return Client(self.port, self.identity(name), **options)

    def link(self, name: str) -> Link:
        return Link(BrokerOptions("127.0.0.1", self.port, tls=self.identity(name)), name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("broker")
    ca = FleetCa.create(folder / "ca", "home")
    made = Site(folder, free_port(), ca)
    ca.issue_server(["127.0.0.1", "localhost"]).write(folder, "server")
    made.write()
    made.start()
    yield made
    made.stop()


def test_device_connects_with_a_key_that_it_made_itself(site: Site) -> None:
    key, csr, _ = make_request(site.folder / "own", "own-1")
    ca, cert = site.ca.issue_client("own-1", request=csr.read_bytes()).write(site.folder / "out", "device")
    site.names["own-1"] = Tls(ca, cert, key)
    with site.client(CONTROLLER) as controller, site.client("own-1") as device:
        device.subscribe(T.desired("own-1"))
        controller.publish(T.desired("own-1"))
        assert device.drain(T.desired("own-1")) == []


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
        "other",
    ]
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        controller.subscribe("#")
        for topic in (*own_topics("gate-2"), *foreign, *own_topics("gate-1")):
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
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        device.subscribe("#")
        device.subscribe(T.desired("gate-2"))
        for topic in (*others, *mine):
            controller.publish(topic)
        assert device.drain(mine[-1]) == mine[:-1]


def test_lie_about_the_client_id_or_the_user_name_changes_nothing(site: Site) -> None:
    with site.client(CONTROLLER) as controller, site.client("gate-1", client_id="gate-2") as liar:
        liar.subscribe("#")
        controller.publish(T.desired("gate-2"))
        liar.publish(T.reported("gate-2"))
        controller.publish(T.desired("gate-1"))
        assert liar.drain(T.desired("gate-1")) == []
    options = BrokerOptions(
        "127.0.0.1", site.port, username=CONTROLLER, password="x", tls=site.identity("gate-1")
    )
    heard: queue.Queue[str] = queue.Queue()
    with site.client(CONTROLLER) as controller, Link(options, "liar") as link:
        link.subscribe("#", lambda topic, _: heard.put(topic))
        link.connect()
        link.publish(T.telemetry("gate-1"), b"x").wait(10)
        controller.publish(T.command("gate-2"))
        controller.publish(T.command("gate-1"))
        assert heard.get(timeout=10) == T.command("gate-1")


def test_nobody_without_a_certificate_of_this_fleet_comes_in(site: Site, tmp_path: Path) -> None:
    stranger = FleetCa.create(tmp_path / "ca", "home").issue_client("gate-1")
    _, cert, key = stranger.write(tmp_path, "device")
    ca = site.identity("gate-1").ca
    server = site.ca.issue_server(["gate-1"]).write(tmp_path, "server")
    for tls in (Tls(ca), Tls(ca, cert, key), Tls(ca, server[1], server[2])):
        with pytest.raises(LinkError, match="is the certificate of this fleet, valid and not revoked"):
            Link(BrokerOptions("127.0.0.1", site.port, tls=tls), "x").connect()


# paho leaves a socket whose handshake failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_broker_under_another_name_is_not_believed(site: Site, tmp_path: Path) -> None:
    site.ca.issue_server(["elsewhere.example"]).write(tmp_path, "server")
    other = Site(tmp_path, free_port(), site.ca)
    other.write()
    other.start()
    try:
        with pytest.raises(LinkError, match="certificate"):
            Link(BrokerOptions("127.0.0.1", other.port, tls=site.identity("gate-1")), "x").connect(
                timeout_s=5.0
            )
    finally:
        other.stop()


def test_revoked_device_is_out_after_a_reload_and_thrown_out_by_a_restart(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    assert site.process is not None
    with site.client(CONTROLLER) as controller, site.client("gate-9") as revoked:
        controller.subscribe(T.telemetry("gate-9"))
        site.ca.revoke("gate-9")
        site.write()
        site.process.send_signal(signal.SIGHUP)
        with site.client("gate-1"):
            # the broker has gone round its loop, where it looks at the signal
            pass
        with pytest.raises(LinkError, match="not revoked"):
            site.link("gate-9").connect()
        assert "does not take the connection: it closed the connection; is the certificate" in caplog.text
        with site.link("gate-1") as good:
            good.connect()
        revoked.publish(T.telemetry("gate-9"))
        assert controller.got.get(timeout=10) == T.telemetry("gate-9"), (
            "who is connected stays: hence the advice to restart"
        )
    site.stop()
    site.start()
    with pytest.raises(LinkError, match="not revoked"):
        site.link("gate-9").connect()
    site.names.pop("gate-9")
    with site.link("gate-9") as enrolled_again:
        enrolled_again.connect()


def test_peers_send_chunks_only_where_that_is_switched_on(site: Site) -> None:
    site.stop()
    site.peer_seeding = True
    site.write()
    site.start()
    with site.client(CONTROLLER) as controller, site.client("gate-1") as device:
        controller.subscribe(f"{T.root}/#")
        own = [T.peer(DIGEST, "gate-1"), T.peer_rounds(DIGEST, "gate-1")]
        for topic in (
            T.peer(DIGEST, "gate-2"),
            T.peer_rounds(DIGEST, "gate-2"),
            T.broadcast(DIGEST),
            T.rounds(DIGEST),
            T.manifest(DIGEST, 0),
            *own,
        ):
            device.publish(topic)
        device.publish(T.telemetry("gate-1"))
        assert controller.drain(T.telemetry("gate-1")) == own
