"""The whole line over TLS with the files that `edgectl broker config` writes: nobody has a password,
everybody a certificate."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import free_port
from support.bundle import make_bundle
from support.fleet import POLICY, Fleet, wait_until

from edgectl.core.bundle import Bundle
from edgectl.core.wire import Desired, DesiredSlot
from edgectl.fleet.keys.ca import FleetCa
from edgectl.fleet.keys.ceremony import rotate
from edgectl.fleet.keys.keyfolder import public_files
from edgectl.fleet.keys.releases import withdraw

SLOT = "gate-detector"


def edgectl(folder: Path, *args: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "edgectl.cli", *args], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Fleet]:
    binary = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
    port = free_port()
    edgectl(tmp_path, "broker", "ca")
    edgectl(
        tmp_path,
        "broker",
        "config",
        "mosquitto",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--state",
        str(tmp_path),
    )
    conf = tmp_path / "broker" / "mosquitto.conf"
    conf.write_text(
        conf.read_text()
        + f"user {pwd.getpwuid(os.getuid()).pw_name}\nlog_dest file {tmp_path}/mosquitto.log\n"
    )
    broker = subprocess.Popen([binary, "-c", str(conf)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path / "mosquitto.log").is_file(), "the broker starts", 10)
        fleet = Fleet(tmp_path, port, free_port(), ca=FleetCa(tmp_path / "ca"))
        yield fleet
        fleet.close()
    finally:
        broker.terminate()
        broker.wait(10)


def test_release_reaches_a_device_over_mutual_tls_and_forged_desired_states_do_not_with_old_keys_and_new(
    site: Fleet, tmp_path: Path
) -> None:
    client = site.start_controller()
    site.enroll("gate-1")
    assert (tmp_path / "gate-1" / "device.key").stat().st_mode & 0o777 == 0o600
    site.start_agent("gate-1")
    v1 = make_bundle(tmp_path / "v1", version="1.0.0", size=300_000)
    done = site.wait_rollout(site.rollout(site.publish(v1)), "done")
    assert {m["outcome"] for m in done["members"].values()} == {"committed"}

    assert client.command("gate-1", "probe")["facts"] == ["arch:test", "runtime:onnxruntime"], (
        "the access rules let a command and its answer pass"
    )

    # Whoever holds the broker can write where the controller writes; he has not the director's key.
    serving = site.reported["gate-1"][-1]
    rogue = Desired(
        gen=serving.gen + 1,
        slots={
            SLOT: DesiredSlot(
                release="gate-detector@1.0.0", digest=Bundle(v1).digest, attempt=9, policy=POLICY
            )
        },
    )
    site.spy.publish(site.topics.desired("gate-1"), rogue.encode(), retain=True).wait(5)
    refused = wait_until(lambda: [r for r in site.reported["gate-1"] if r.error], "the refusal is reported")
    assert refused[-1].error.code == "desired"
    assert "desired state is not signed" in refused[-1].error.detail
    wait_until(lambda: site.reported["gate-1"][-1].error is None, "the controller writes its own word again")
    (device,) = client.devices()
    assert device["desired"]["gen"] == serving.gen, "nor does the controller take it for its own word"
    assert device["reported"]["slots"][SLOT]["active"] == Bundle(v1).digest

    # The director's and the release key are replaced while everything runs; v1 is withdrawn in passing.
    old = site.seal("gate-1", rogue)
    rotate(site.keys, "director")
    rotate(site.keys, "targets")
    client.accept_trust(public_files(site.keys))
    v2 = make_bundle(tmp_path / "v2", version="2.0.0", size=300_000)
    site.wait_rollout(site.rollout(site.publish(v2)), "done")
    assert site.reported["gate-1"][-1].slots[SLOT].active == Bundle(v2).digest
    client.accept_trust({"targets.json": withdraw(site.keys, "gate-detector@1.0.0")}, ["gate-detector@1.0.0"])
    assert [r["release"] for r in client.releases()] == ["gate-detector@2.0.0"]
    site.spy.publish(site.topics.desired("gate-1"), old, retain=True).wait(5)
    wait_until(
        lambda: any("signed by 0 of the 1 keys" in str(r.error) for r in site.reported["gate-1"]),
        "the old director is refused",
    )
    assert site.reported["gate-1"][-1].slots[SLOT].active == Bundle(v2).digest
