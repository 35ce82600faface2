"""`edgectl device lock … health` as they look: what is asked, what is shown, and what a device that lies
can do to a terminal."""

from __future__ import annotations

import getpass
import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from edgectl.cli import _controller
from edgectl.cli.main import app
from edgectl.core.errors import ProtocolError, UsageError

AT_S = 1_700_000_000.0


class Controller:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def command(self, name: str, op: str, **options: Any) -> dict[str, Any]:
        self.asked.append((name, op, options))
        return self.result

    def events(
        self, limit: int, *, about: str | None, before: int | None, **_: object
    ) -> list[dict[str, Any]]:
        told = {"wall_s": AT_S, "kind": "command", "text": "anna: lock\x1b[31m"}
        subjects = enumerate(("gate-1", "gate-1/gate-detector", "gate-10"), 1)
        found = [{**told, "id": i, "subject": s} for i, s in subjects if about in (None, s.partition("/")[0])]
        return [e for e in found if before is None or e["id"] < before][-min(limit, 2) :]


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Controller:
    made = Controller()
    monkeypatch.setattr(_controller, "client", lambda url, token_file: made)
    monkeypatch.setattr(getpass, "getuser", lambda: "SITE\\Anna.B")
    return made


def run(*words: str) -> str:
    told = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    if told.exception is not None:
        raise told.exception
    return told.output


def test_lock_says_until_when_and_how_to_end_it(controller: Controller) -> None:
    controller.result = {"owner": "site-anna.b", "ttl_s": 5400.0}
    said = run("device", "lock", "gate-1", "--for", "1h30m", "--reason", "night shift")
    assert controller.asked == [
        ("gate-1", "lock", {"wait_s": 10.0, "owner": "site-anna.b", "ttl_s": 5400.0, "reason": "night shift"})
    ]
    assert time.strftime("%Y-%m-%d", time.localtime(time.time() + 5400)) in said
    assert "next: edgectl device unlock gate-1 --owner site-anna.b" in said
    assert json.loads(run("device", "lock", "gate-1", "--for", "1d", "--json")) == {
        "device": "gate-1",
        **controller.result,
    }
    controller.result = {"owner": "ben", "ttl_s": 0}
    assert run("device", "unlock", "gate-1", "--owner", "ben") == "ben no longer holds gate-1 back\n"


@pytest.mark.parametrize("text", ["2", "h", "2 h", "1w", "-1h", "0s", "25h", "1h30", "9999999h", "٣h"])
def test_time_that_is_none_is_refused_before_anybody_is_asked(controller: Controller, text: str) -> None:
    told = CliRunner().invoke(app, ["device", "lock", "gate-1", "--for", text])
    assert told.exit_code == 2
    assert controller.asked == []


@pytest.mark.parametrize(
    ("op", "words"),
    [
        ("hold", "nothing is activated until `edgectl device release gate-1`"),
        ("release", "no longer held"),
        ("force", "windows and leases are passed once"),
        ("cancel", "canceled"),
        ("rollback", "the engine before comes back"),
    ],
)
def test_orders_name_the_slots_that_obeyed(controller: Controller, op: str, words: str) -> None:
    controller.result = {"slots": ["gate-detector", "{yard}"]}
    said = run(
        "device",
        op,
        "gate-1",
        "--slot",
        "gate-detector",
        "--reason",
        "why",
        "--owner",
        "ben",
        "--timeout",
        "3",
    )
    assert said.startswith("gate-detector, {yard} of gate-1: ")
    assert words in said
    assert controller.asked == [
        ("gate-1", op, {"wait_s": 3.0, "slot": "gate-detector", "owner": "ben", "reason": "why"})
    ]
    assert json.loads(run("device", op, "gate-1", "--json")) == {"device": "gate-1", **controller.result}


def test_questions_are_answered_in_tables(controller: Controller) -> None:
    controller.result = {"facts": ["arch:aarch64", "runtime:tensorrt"], "runtimes": ["tensorrt"]}
    assert run("device", "probe", "gate-1").split() == ["fact", "arch:aarch64", "runtime:tensorrt"]
    controller.result = {"health": {"load1": 0.5, "disk_free_mb": 12345.6}}
    assert "12,345.6" in run("device", "health", "gate-1")
    assert json.loads(run("device", "health", "gate-1", "--json"))["health"] == {
        "load1": 0.5,
        "disk_free_mb": 12345.6,
    }
    controller.result = {"events": [], "audit": []}
    assert run("device", "logs", "gate-1") == "nothing was done by hand\n\nno events yet\n"
    event = {
        "wall_s": AT_S,
        "epoch": 3,
        "stream": "yard",
        "type": "zone",
        "seq": 9,
        "schema": "x",
        "zone": "gate-in",
        "ids": [7],
    }
    controller.result = {
        "events": [event, {}, {"wall_s": "noon"}],
        "audit": [[AT_S, "anna: force of gate: fix"]],
    }
    said = run("device", "logs", "gate-1")
    assert f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(AT_S))}  anna: force of gate: fix" in said
    assert 'yard    zone   "zone": "gate-in", "ids": [7]' in said
    assert [op for _, op, _ in controller.asked] == ["probe", "health", "health", "logs", "logs"]
    assert all(options["owner"] == "site-anna.b" for _, _, options in controller.asked), (
        "who asks is on record"
    )


def test_device_that_lies_cannot_write_to_the_terminal_or_send_another_shape(controller: Controller) -> None:
    nasty = "\x1b]0;owned\x07\x9b2J"
    controller.result = {"events": [{"stream": nasty, "type": nasty, nasty: nasty}], "audit": [[AT_S, nasty]]}
    for said in (run("device", "logs", "gate-1"), run("fleet", "events")):
        assert not any(c in said for c in "\x1b\x07\x9b")
    for op, wrong in (
        ("logs", {"events": "x", "audit": []}),
        ("probe", {}),
        ("health", {"health": {"a": "b"}}),
        ("hold", {"slots": 7}),
    ):
        controller.result = wrong
        with pytest.raises(ProtocolError, match="the answer of gate-1 is not valid"):
            run("device", op, "gate-1")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("hold", "../x"), "../x"),
        (("hold", "g", "--slot", "#"), "#"),
        (("hold", "g", "--owner", "Ben"), "Ben"),
    ],
)
def test_names_that_are_none_are_refused_before_anybody_is_asked(
    controller: Controller, words: tuple[str, ...], what: str
) -> None:
    with pytest.raises(UsageError, match=f"'{what}' is not a name"):
        run("device", *words)
    assert controller.asked == []


@pytest.mark.parametrize(
    ("login", "owner"),
    [("Jo Müller", "jo-m-ller"), ("...", "operator"), ("x" * 80, "x" * 64), (KeyError(), "operator")],
)
def test_owner_is_the_login_name_as_far_as_it_may_travel(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, login: str | Exception, owner: str
) -> None:
    def getuser() -> str:
        if isinstance(login, Exception):
            raise login
        return login

    monkeypatch.setattr(getpass, "getuser", getuser)
    controller.result = {"slots": []}
    run("device", "hold", "gate-1")
    assert controller.asked[0][2]["owner"] == owner


def test_events_of_one_device_and_its_slots(controller: Controller) -> None:
    assert [e["id"] for e in json.loads(run("fleet", "events", "--json"))] == [1, 2, 3], "page after page"
    said = json.loads(run("fleet", "events", "--about", "gate-1", "--json"))
    assert [e["subject"] for e in said] == ["gate-1", "gate-1/gate-detector"]
    assert len(run("fleet", "events", "--last", "1").splitlines()) == 2


def test_device_that_waits_says_for_what(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = {"state": "deferred", "stage": "anna says not now: night shift", "active_release": "gate@1"}
    found = [{"name": "gate-1", "online": True, "conn": None, "reported": {"slots": {"gate": slot}}}]
    monkeypatch.setattr(controller, "devices", lambda: found, raising=False)
    assert "anna says not now: night shift" in run("fleet", "devices")
