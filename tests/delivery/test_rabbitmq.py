"""The same line through a real RabbitMQ with the generated files. Ten seconds of start-up: run it with
``EDGECTL_RABBITMQ=1``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from conftest import free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

from edgectl.core.errors import LinkError
from edgectl.core.wire import Topics
from edgectl.fleet.broker.mosquitto import BrokerSettings, broker_files
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa
from edgectl.link.mqtt import BrokerOptions, Link, Tls

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
T = Topics("home")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[FleetCa, int]]:
    if not os.environ.get("EDGECTL_RABBITMQ"):
        pytest.skip("takes a RabbitMQ server ten seconds to start; set EDGECTL_RABBITMQ=1")
    if not SERVER.is_file() or shutil.which("epmd") is None:
        pytest.skip("RabbitMQ is not installed (apt-get install rabbitmq-server)")
    ca, port = FleetCa.create(tmp_path / "ca", "home"), free_port()
    folder = tmp_path / "broker"
    ca.issue_server(["127.0.0.1"]).write(folder, "server")
    plan = BrokerSettings("home", PurePosixPath(folder), port, "127.0.0.1")
    for name, text in broker_files("rabbitmq", plan, ["gate-1", "gate-2"]).items():
        (folder / name).write_text(text)
    # a port mapper of its own: whoever else uses Erlang here is left alone
    names = port + 1
    environment = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": "edgectl@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "db"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(port + 2),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    mapper = subprocess.Popen(
        ["epmd", "-port", str(names), "-address", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with (folder / "out").open("wb") as out:
        server = subprocess.Popen(
            [str(SERVER)], env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until(lambda: "completed with" in (folder / "out").read_text(), "RabbitMQ starts", 60)
        yield ca, port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        mapper.terminate()
        mapper.wait(10)


def test_release_reaches_a_device_through_rabbitmq_and_rules_hold(
    site: tuple[FleetCa, int], tmp_path: Path
) -> None:
    ca, port = site
    fleet = Fleet(tmp_path, port, free_port(), ca=ca)
    try:
        fleet.start_controller()
        fleet.enroll("gate-1")
        fleet.start_agent("gate-1")
        for version in ("1.0.0", "2.0.0"):
            bundle = make_bundle(tmp_path / version, version=version, size=1_000_000)
            done = fleet.wait_rollout(fleet.rollout(fleet.publish(bundle)), "done")
            assert {m["outcome"] for m in done["members"].values()} == {"committed"}
    finally:
        fleet.close()

    def link(name: str) -> Link:
        return Link(
            BrokerOptions("127.0.0.1", port, tls=Tls(*ca.issue_client(name).write(tmp_path / name, "tls"))),
            name,
        )

    heard: list[str] = []
    with link(CONTROLLER) as controller:
        controller.subscribe(f"{T.root}/d/+/reported", lambda topic, _: heard.append(topic))
        controller.connect()
        for topic in (T.reported("gate-1"), T.trust, T.desired("gate-2")):
            with link("gate-2") as device:
                device.connect()
                assert not device.publish(topic, b"x").wait(1.0), "the broker ends the connection"
        with link("gate-2") as device:
            device.connect()
            assert device.publish(T.reported("gate-2"), b"x").wait(10)
            wait_until(lambda: T.reported("gate-2") in heard, "its own report arrives")
    assert heard == [T.reported("gate-2")]
    with link("gate-3") as unknown, pytest.raises(LinkError):
        unknown.connect()
