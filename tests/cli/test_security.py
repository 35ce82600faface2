"""The ceremony and the broker's files from the command line, as docs/security.md has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.agent.config import load_agent_config
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError, TrustError, UsageError
from edgectl.fleet.config import load_controller_config
from edgectl.fleet.keys.ca import FleetCa
from edgectl.fleet.keys.enroll import write_enrolment


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def edgectl(line: str) -> Any:
    """The JSON of a command; its error is raised."""
    result = CliRunner().invoke(app, [*line.split(), "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def text(line: str) -> str:
    result = CliRunner().invoke(app, line.split())
    assert result.exception is None, result.exception
    return str(result.output)


def test_several_people_make_a_fleet(tmp_path: Path) -> None:
    for name in ("ann", "ben", "cem", "dora", "emil", "olga"):
        assert edgectl(f"keys new {name}.pem")["public"] == f"{name}.pub"
    roots = " ".join(f"--root-key {n}.pub" for n in ("ann", "ben", "cem"))
    targets = " ".join(f"--targets-key {n}.pub" for n in ("dora", "emil"))
    made = edgectl(
        f"keys init --root-keys 0 {roots} --root-threshold 2 --targets-keys 0 {targets} --targets-threshold 2"
        " --director-key olga.pub --director-threshold 2"
    )
    assert made["pending"] == ["keys/pending/1.root.json", "keys/pending/targets.json"]
    said = text("keys sign keys/pending/1.root.json --key ann.pem")
    assert "root 1 of 2" in said
    assert "director: 2 of 2 must sign" in said, "who signs sees what he signs"
    assert "in force here (root 2 of 2)" in text("keys sign keys/pending/1.root.json --key ben.pem")
    assert edgectl("keys sign keys/pending/targets.json --key dora.pem --key emil.pem")[0]["complete"]
    roles = {r["role"]: r for r in edgectl("keys status")["roles"]}
    assert (roles["root"]["keys"], roles["root"]["here"], roles["root"]["threshold"]) == (3, 0, 2)
    assert (roles["director"]["keys"], roles["director"]["here"]) == (2, 1)
    assert "expires in" in text("keys status")
    (rotated,) = edgectl("keys rotate targets --new 1 --key ann.pem --key cem.pem")
    assert rotated["complete"]
    assert any("is revoked" in change for change in rotated["changes"])
    assert edgectl("keys delegate team --profile cpu")[1]["complete"]
    assert {r["role"] for r in edgectl("keys status")["roles"]} >= {"team"}
    assert edgectl("keys delegate team --remove")[0]["complete"]
    for bad, reason in (
        ("keys init", "has keys already"),
        ("keys new ann.pem", "is there already"),
        ("keys rotate janitor", "no role 'janitor'"),
        ("keys delegate team", "at least one --profile"),
        ("keys sign none.json", "cannot read none.json"),
        ("keys renew root --key ann.pub", "not a private key"),
        ("keys rotate director --public ben.pem", "is a private key"),
        ("keys rotate director --new 0 --threshold 1", "a threshold of 1 with 0 keys"),
    ):
        with pytest.raises(EdgectlError, match=reason):
            edgectl(bad)


def test_broker_controller_and_device_get_their_files() -> None:
    edgectl("keys init")
    edgectl("broker ca --fleet yard")
    assert sorted(
        Path(p).name
        for p in edgectl("broker config mosquitto --host broker.lan --host 10.0.0.2 --fleet yard")["files"]
    ) == [
        "acl",
        "ca.crt",
        "crl.pem",
        "mosquitto.conf",
        "server.crt",
        "server.key",
    ]
    key = Path("broker/server.key").read_bytes()
    edgectl("broker config mosquitto --host broker.lan --fleet yard --peer-seeding")
    assert Path("broker/server.key").read_bytes() == key, "writing again leaves the broker its key"
    assert "pattern write edgectl/1/yard/a/+/p/%u" in Path("broker/acl").read_text()
    for kind in ("emqx", "rabbitmq"):
        assert (
            "/etc/b/ca.crt"
            in Path(edgectl(f"broker config {kind} --host b --install /etc/b --out {kind}")["files"][0])
            .parent.joinpath(f"{kind}.conf")
            .read_text()
        )

    edgectl("controller init --ca ca --broker broker.lan --fleet yard --out c/controller.toml")
    controller = load_controller_config(Path("c/controller.toml"))
    assert controller.keys.resolve() == Path("keys").resolve(), (
        "as the shell understands the path, wherever the file lies"
    )
    assert (controller.broker.host, controller.broker.port, controller.broker.tls) == (
        "broker.lan",
        8883,
        True,
    )
    assert controller.broker.options().tls.context()  # type: ignore[union-attr]
    assert Path("c/controller.key").stat().st_mode & 0o777 == 0o600

    issued = FleetCa(Path("ca")).issue_client("gate-1")
    write_enrolment(
        Path("gate-1"),
        "gate-1",
        root=b"{}",
        fleet="yard",
        broker={"host": "b", "port": 8883, "tls": False},
        certificate=issued,
    )
    agent = load_agent_config(Path("gate-1/agent.toml"))
    assert agent.broker.tls
    assert agent.broker.options().tls.context()  # type: ignore[union-attr]
    before = Path("gate-1/device.key").read_bytes()
    edgectl("device renew gate-1 --days 10")
    assert Path("gate-1/device.key").read_bytes() != before
    assert {c["name"] for c in edgectl("device certificates")} == {"broker.lan", "b", "Controller", "gate-1"}
    assert "renew it" in text("device certificates")
    assert edgectl("device revoke gate-1 --broker broker")["revoked"] == 2
    assert Path("broker/crl.pem").read_bytes() == Path("ca/crl.pem").read_bytes()
    with pytest.raises(UsageError, match="no valid certificate"):
        edgectl("device renew gate-1")
    with pytest.raises(UsageError, match="no configuration for 'hivemq'"):
        edgectl("broker config hivemq --host b")
    with pytest.raises(TrustError, match=r"cannot read none/ca\.key"):
        edgectl("broker config emqx --host b --ca none")


class _Controller:
    def __init__(self) -> None:
        self.enrolled: list[str] = []

    """What `device enroll` asks of a controller."""

    def __enter__(self) -> _Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def enroll(self, name: str, *, again: bool = False) -> dict[str, Any]:
        self.enrolled.append(name)
        return {
            "new": True,
            "fleet": "home",
            "broker": {"host": "b", "port": 8883, "tls": True},
            "root": "{}",
        }

    def revoked(self, name: str) -> list[str]:
        return ["gate-3"]


def test_device_makes_its_own_key_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    controller = _Controller()
    monkeypatch.setattr("edgectl.cli._controller.client", lambda url, token_file: controller)
    edgectl("broker ca")
    assert edgectl("device request gate-1 --out etc") == {
        "device": "gate-1",
        "key": "etc/device.key",
        "request": "etc/device.csr",
        "new": True,
    }
    edgectl("device enroll gate-1 --ca ca --csr etc/device.csr")
    assert sorted(p.name for p in Path("gate-1").iterdir()) == [
        "agent.toml",
        "ca.crt",
        "device.crt",
        "root.json",
    ]
    for file in Path("gate-1").iterdir():
        file.rename(Path("etc") / file.name)
    assert load_agent_config(Path("etc/agent.toml")).broker.options().tls.context()  # type: ignore[union-attr]
    assert "its own" in text("device certificates")
    with pytest.raises(UsageError, match="made its own key"):
        edgectl("device renew gate-1")
    assert not Path("gate-1/device.key").exists()
    assert "was there and stays" in text("device request gate-1 --out etc")
    assert [Path(p).name for p in edgectl("device renew gate-1 --csr etc/device.csr")["files"]] == [
        "ca.crt",
        "device.crt",
    ]
    with pytest.raises(UsageError, match="--csr needs the CA"):
        edgectl("device enroll gate-1 --csr etc/device.csr")
    Path("gate-1/device.key").write_text("of somebody")
    with pytest.raises(UsageError, match="is not the key of the certificate request"):
        edgectl("device enroll gate-1 --ca ca --csr etc/device.csr")
    assert len(edgectl("device certificates")) == 2, "what is refused is not in the book"
    assert edgectl("device revoke gate-1")["revoked"] == 2
    with pytest.raises(TrustError, match="was revoked with gate-1"):
        edgectl("device enroll gate-1 --ca ca --csr etc/device.csr --out again")
    assert not Path("again").exists()
    with pytest.raises(TrustError, match="not for gate-2"):
        edgectl("device enroll gate-2 --ca ca --csr etc/device.csr")
    with pytest.raises(UsageError, match=r"agent\.toml is there already"):
        edgectl("device enroll gate-1 --ca ca --out etc")
    assert controller.enrolled == ["gate-1"], "the controller hears of no device whose request is refused"
