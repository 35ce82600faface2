"""A director of two keys: the controller's and an operator's. Neither alone makes a device run anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Broker, free_port
from support.bundle import make_bundle
from support.fleet import Fleet, wait_until
from support.tuf import keys_in
from typer.testing import CliRunner

from edgectl.cli.main import app
from edgectl.core.errors import TrustError
from edgectl.core.signed import add_signatures
from edgectl.fleet.keys.ceremony import KeySet, init_keys, new_key
from edgectl.fleet.keys.keyring import KeyRing


@pytest.fixture
def fleet(mosquitto: Broker, tmp_path: Path) -> Iterator[Fleet]:
    public = new_key(tmp_path / "operator.pem")
    init_keys(tmp_path / "keys", director=KeySet(1, 2, (public,)))
    made = Fleet(tmp_path, mosquitto.port, free_port())
    made.start_controller()
    made.enroll("gate-1")
    made.start_agent("gate-1")
    yield made
    made.close()


def test_rollout_waits_for_the_operator_and_goes_on_with_his_signature(fleet: Fleet, tmp_path: Path) -> None:
    rollout = fleet.rollout(fleet.publish(make_bundle(tmp_path / "v1", version="1.0.0")))
    waiting = wait_until(fleet.client.waiting, "a document waits")
    assert set(waiting) == {"gate-1"}
    assert fleet.client.rollout(rollout)["members"]["gate-1"].get("outcome") != "committed"
    with pytest.raises(TrustError, match="signed by 1 of the 2 keys"):
        fleet.client.approve(waiting)
    operator = keys_in(tmp_path / "operator.pem")
    changed = waiting["gate-1"].replace(b'"gate-detector@1.0.0"', b'"gate-detector@6.6.6"')
    with pytest.raises(TrustError, match="signed by 1 of the 2 keys"):
        fleet.client.approve({"gate-1": add_signatures(changed, operator)})

    KeyRing().change_passphrase(tmp_path / "operator.pem", lambda: b"of the operator")
    (tmp_path / "passphrase").write_bytes(b"of the operator")
    (tmp_path / "passphrase").chmod(0o600)
    environment = {
        "EDGECTL_PASSPHRASE_FILE": str(tmp_path / "passphrase"),
        "EDGECTL_CONTROLLER": f"http://127.0.0.1:{fleet.api_port}",
        "EDGECTL_TOKEN_FILE": str(fleet.config.state_dir / "token"),
    }

    def approve(*options: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["rollout", "approve", *options, "--json"], env=environment)
        if result.exception is not None:
            raise result.exception
        return dict(json.loads(result.stdout))

    shown = approve("--show")
    (wish,) = shown["documents"]
    assert (shown["approved"], wish["release"], wish["replaces"]) == (False, "gate-detector@1.0.0", "nothing")
    assert any(term.startswith("probation s") for term in wish["terms"]), (
        "a rollout of a test is in a hurry, and says so"
    )
    assert set(fleet.client.waiting()) == {"gate-1"}
    with pytest.raises(TrustError, match="none of them is a key of the director"):
        approve("--key", str(tmp_path / "keys" / "root.pem"))
    assert approve("--key", str(tmp_path / "operator.pem"))["documents"] == [wish]
    fleet.wait_rollout(rollout, "done")
    assert fleet.client.waiting() == {}

    fleet.end_controller()
    (tmp_path / "v1").rename(tmp_path / "gone")
    client = fleet.start_controller()
    wait_until(lambda: any(d["online"] for d in client.devices()), "the device is back")
    assert client.waiting() == {}, "what was approved stays approved"
