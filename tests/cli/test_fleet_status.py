"""What an operator sees at one look, and when a rollout means nobody; the controller is a double."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from edgectl.cli import _controller
from edgectl.cli.main import app

REPORTED = {
    "gate-1": {"state": "committed", "active_release": "m@1"},
    "gate-2": {"state": "rejected", "error": {"code": "trust", "detail": "metadata does not name m@2"}},
    "gate-3": {"state": "deferred", "stage": "frozen"},
    "gate-4": {"state": "deferred", "stage": "frozen"},
}
MEMBERS = {"gate-1": {"wave": 0, "outcome": "committed"}, "gate-3": {"wave": 1, "outcome": "admitted"}}


class Controller:
    said: ClassVar[dict[str, Any]] = {"freeze": None, "connected": True}

    def state(self) -> dict[str, Any]:
        return self.said

    def freeze(self, frozen: bool) -> dict[str, Any]:
        return {**self.said, "freeze": frozen}

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def devices(self) -> list[dict[str, Any]]:
        conn = {"slots": ["gate"], "labels": {"site": "north"}}
        return [
            {"name": n, "online": True, "conn": conn, "reported": {"slots": {"gate": s}}}
            for n, s in REPORTED.items()
        ]

    def trust(self) -> dict[str, Any]:
        return {"files": {}, "roles": []}

    def waiting(self) -> dict[str, bytes]:
        return {}

    def rollouts(self) -> list[dict[str, Any]]:
        return [
            {"id": f"gate-{n}", "release": "m@2", "state": s, "members": MEMBERS}
            for n, s in ((1, "done"), (2, "running"))
        ]

    def preview_rollout(
        self, slot: str, labels: dict[str, str], devices: list[str], **_: object
    ) -> dict[str, Any]:
        meant = slot == "gate" and labels.get("site") != "south" and "gate-9" not in devices
        warning = (
            "no device is selected; 4 of 4 have slot gate" if slot == "gate" else f"no device has slot {slot}"
        )
        return {"devices": 4 if meant else 0, "warnings": [] if meant else [warning]}

    def start_rollout(self, release: str, slot: str, **_: object) -> dict[str, Any]:
        return {
            "id": f"{slot}-3",
            "release": release,
            "slot": slot,
            "state": "running",
            "wave": 0,
            "members": {},
        }


@pytest.fixture(autouse=True)
def _controller_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_controller, "client", lambda url, token_file: Controller())


def run(words: str) -> str:
    told = CliRunner().invoke(app, words.split(), env={"COLUMNS": "200"})
    if told.exception is not None:
        raise told.exception
    return told.output


def test_status_names_what_failed_what_waits_and_what_goes_on() -> None:
    said = run("fleet status").splitlines()
    assert said[:4] == [
        "4 of 4 devices online",
        "gate-2/gate: rejected: metadata does not name m@2",
        "2 slots wait: frozen",
        "rollout gate-2 of m@2 is running: 1 admitted, 1 committed",
    ]
    told = json.loads(run("fleet status --json"))
    assert [s["device"] for s in told["slots"]] == ["gate-2", "gate-3", "gate-4"]
    assert told["rollouts"] == [{"id": "gate-2", "release": "m@2", "state": "running"}]


def test_controller_without_a_broker_says_that_what_it_knows_is_old_and_that_a_freeze_is_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run("fleet freeze").startswith("the fleet is frozen")
    monkeypatch.setattr(Controller, "said", {"freeze": True, "connected": False})
    said = run("fleet status").splitlines()
    assert said[0] == "the controller does not reach the broker: what follows is what it heard last"
    assert said[2] == "the fleet is frozen: edgectl fleet freeze --off"
    assert json.loads(run("fleet status --json"))["connected"] is False
    assert run("fleet freeze").startswith("kept, and not sent yet")


@pytest.mark.parametrize(
    "words", ["--slot gaet", "--slot gate --label site=south", "--slot gate --device gate-9"]
)
def test_rollout_that_means_no_device_says_so_and_how_to_end_it(words: str) -> None:
    said = run(f"rollout start m@2 {words}")
    assert "note: no device " in said
    assert "edgectl rollout abort" in said


def test_rollout_that_began_says_how_to_follow_it() -> None:
    said = run("rollout start m@2 --slot gate --label site=north --device gate-1")
    assert "no device" not in said
    assert said.endswith("next: edgectl rollout watch gate-3\n")
