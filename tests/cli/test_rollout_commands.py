"""What an operator types to take something back; the controller is a double."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import EdgectlError, RolloutError, UsageError
from edgectl.fleet.keys.ceremony import init_keys

DIGEST = "sha256:" + "a" * 64
BEFORE = {"release": "m@1", "digest": DIGEST}


def rollout(state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": "gate-1",
        "release": "m@2",
        "slot": "gate",
        "digest": DIGEST,
        "state": state,
        "wave": 0,
        "members": {},
        **more,
    }


class Controller:
    found: ClassVar[list[dict[str, Any]]] = []
    said: ClassVar[list[tuple[object, ...]]] = []
    slots: ClassVar[dict[str, dict[str, Any]]] = {}

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def rollouts(self) -> list[dict[str, Any]]:
        return self.found

    def change_rollout(self, rollout_id: str, op: str) -> dict[str, Any]:
        self.said.append((op, rollout_id))
        return self.found[0]

    def skip_device(self, rollout_id: str, device: str) -> dict[str, Any]:
        self.said.append(("skip", rollout_id, device))
        return self.found[0]

    def signed_file(self, name: str) -> None:
        return None

    def accept_trust(
        self, files: dict[str, bytes], withdraw: list[str], *, stop_rollouts: bool
    ) -> dict[str, Any]:
        self.said.append(("withdraw", *withdraw, stop_rollouts))
        return {}

    def clear_slot(self, slot: str, devices: list[str], labels: dict[str, str]) -> list[dict[str, Any]]:
        self.said.append(("clear", slot, *devices, labels))
        return [{"device": d, "gen": 2, "online": True, "active_release": "m@1"} for d in devices]

    def devices(self) -> list[dict[str, Any]]:
        return [
            {"name": n, "online": n != "gate-9", "reported": {"slots": {"gate": s}} if s else None}
            for n, s in self.slots.items()
        ]


@pytest.fixture(autouse=True)
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    monkeypatch.setattr(_controller, "client", lambda url, token_file: Controller())
    for name, value in (("found", []), ("said", []), ("slots", {})):
        monkeypatch.setattr(Controller, name, value)
    return Controller.said


def run(*words: str, ends: type[EdgectlError] | None = None) -> Any:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})
    assert type(result.exception) is (ends or type(None)), result.output
    return result


def test_rollback_with_nothing_to_take_back_says_so(said: list[tuple[object, ...]]) -> None:
    Controller.found.append(rollout("rolled_back"))
    assert "no device has m@2 by this rollout any more" in run("rollout", "rollback", "gate-1").output
    assert said == [("rollback", "gate-1")]


def test_status_tells_whom_a_rollout_waits_for(said: list[tuple[object, ...]]) -> None:
    Controller.found.append(rollout("running", note="nobody is there to be the canary: gate-2"))
    assert "nobody is there to be the canary: gate-2" in run("rollout", "skip", "gate-1", "gate-2").output
    assert said == [("skip", "gate-1", "gate-2")]


RETURNING = {"gate-7": {"wave": 0, "outcome": "returning", "admitted_s": 1.0, "before": BEFORE}}


@pytest.mark.parametrize(
    ("release", "found", "why"),
    [
        ("m@2", rollout("running"), "rollout gate-1 of it is running"),
        ("m@2", rollout("paused"), "rollout gate-1 of it is paused"),
        ("m@1", rollout("rolling_back", members=RETURNING), "rollout gate-1 takes gate-7 back to it"),
    ],
)
def test_withdrawing_what_a_rollout_needs_is_asked_before_anything_is_signed(
    said: list[tuple[object, ...]], tmp_path: Path, release: str, found: dict[str, Any], why: str
) -> None:
    Controller.found.append(found)
    init_keys(tmp_path / "keys")
    before = (tmp_path / "keys" / "targets.json").read_bytes()
    result = run("release", "withdraw", release, "--keys", str(tmp_path / "keys"), ends=RolloutError)
    assert isinstance(result.exception, RolloutError)
    assert result.exception.message == f"{release} is not withdrawn: {why}"
    assert f"edgectl release withdraw {release} --yes" in (result.exception.hint or "")
    assert said == []
    assert (tmp_path / "keys" / "targets.json").read_bytes() == before


def test_slot_that_is_not_emptied_in_time_is_told_and_who_is_away_is_not_waited_for(
    said: list[tuple[object, ...]],
) -> None:
    Controller.slots |= {
        "gate-1": {"gen": 2, "state": "cleared", "active_release": None},
        "gate-2": {"gen": 2, "state": "clearing", "stage": "frozen"},
        "gate-9": {"gen": 1, "state": "committed"},
    }
    devices = ("--device", "gate-1", "--device", "gate-2", "--device", "gate-9")
    result = run("slot", "clear", "gate", *devices, "--wait", "0.1", "--json", ends=RolloutError)
    assert isinstance(result.exception, RolloutError)
    assert result.exception.message == "gate-2: slot gate is not empty after 0.1 s"
    found = {c["device"]: c["state"] for c in json.loads(result.stdout)}
    assert found == {
        "gate-1": "cleared",
        "gate-2": "clearing: frozen",
        "gate-9": "away: empties it when it is back",
    }
    assert said == [("clear", "gate", "gate-1", "gate-2", "gate-9", {})]


def test_label_that_is_none_is_refused(said: list[tuple[object, ...]]) -> None:
    run("slot", "clear", "gate", "--label", "site", ends=UsageError)
    assert said == []
