"""From a device that goes away to a signed notice at a web address, across restarts and refusals."""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.controller import T, World

from edgectl.core.errors import UsageError
from edgectl.core.wire import Conn
from edgectl.fleet.alerts.settings import AlertsConfig
from edgectl.fleet.control.alerting import WebhookSender

SECRET = "0123456789abcdef0123456789abcdef"


class Receiver:
    """A web address that answers as it is told."""

    def __init__(self) -> None:
        self.came: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.answers: list[int] = []
        """The next ones; then 200."""
        self.promises = "0"
        """Bytes of its answers, none of which come."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                self.send_response(status)
                self.send_header("location", f"http://127.0.0.1:{receiver.port}/elsewhere")
                self.send_header("content-length", receiver.promises)
                self.end_headers()
                receiver.came.put(({k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook/T0KEN"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def notice(self) -> dict[str, Any]:
        """The next one, whose signature is checked."""
        headers, body = self.came.get(timeout=60)
        at, mac = (part.partition("=")[2] for part in headers["edgectl-signature"].split(","))
        assert hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest() == mac
        found: dict[str, Any] = json.loads(body)
        return found | {"number": int(headers["edgectl-notice"])}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Site(World):
    settings = AlertsConfig()

    def config(self, **changes: Any) -> Any:
        return super().config(alerts=self.settings, **changes)

    def at(self, now_s: float) -> None:
        self.now = now_s
        self.controller.tick(now_s)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setattr(WebhookSender.__init__, "__kwdefaults__", {"backoff_s": (0.01, 0.05)})
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Iterator[Site]:
    (tmp_path / "secret").write_text(SECRET + "\n")
    settings = AlertsConfig(webhook=receiver.url, webhook_secret=tmp_path / "secret")
    monkeypatch.setattr(Site, "settings", settings)
    site = Site(tmp_path, monkeypatch)
    yield site
    site.controller.close()


def goes_away(site: Site, *devices: str) -> None:
    for name in devices:
        site.hears(T.conn(name), Conn(epoch=1, online=True, labels={"site": "north"}))
        site.hears(T.conn(name), Conn(epoch=1, online=False))


def test_devices_that_go_away_are_one_alert_on_the_broker_and_the_web(site: Site, receiver: Receiver) -> None:
    goes_away(site, "a", "b")
    topic = T.alert("silence", "north")
    site.at(2000)
    assert topic not in site.wire.retained
    site.at(2120)
    kept = json.loads(site.wire.retained[topic])
    assert (kept["count"], kept["since_s"], sorted(kept["about"])) == (2, 2120, ["a", "b"])
    notice = receiver.notice()
    assert notice["fleet"] == "home"
    assert [(c["what"], c["alert"]["rule"], c["alert"]["site"]) for c in notice["changes"]] == [
        ("firing", "silence", "north")
    ]
    assert [a.rule for a in site.controller.alerts()] == ["silence"]
    for name in ("a", "b"):
        site.hears(T.conn(name), Conn(epoch=2, online=True, labels={"site": "north"}))
    site.at(2200)
    site.at(2400)
    assert site.wire.retained[topic] == b""
    assert [c["what"] for c in receiver.notice()["changes"]] == ["resolved"]
    assert [e.text for e in site.controller.inventory.events() if e.kind == "alert"][1:] == ["is over"]


def test_restart_tells_nothing_twice_and_forgets_nothing(site: Site, receiver: Receiver) -> None:
    goes_away(site, "a")
    site.at(2000)
    site.at(2120)
    assert receiver.notice()["number"] == 1
    site.controller.close()
    site.wire.retained.clear()  # its broker lost all
    site.boot()
    site.at(2200)
    site.at(2400)
    assert [a.since_s for a in site.controller.alerts()] == [2120]
    assert T.alert("silence", "north") in site.wire.retained
    assert receiver.came.empty()


def test_notice_waits_for_an_address_that_is_away_and_comes_after_a_restart(
    site: Site, receiver: Receiver
) -> None:
    receiver.answers = [503] * 3
    goes_away(site, "a")
    site.at(2000)
    site.at(2120)
    for _ in range(3):
        assert receiver.notice()["number"] == 1
    assert receiver.notice()["number"] == 1, "it is tried again until it is taken"


def test_answer_that_does_not_end_keeps_no_notice_waiting(site: Site, receiver: Receiver) -> None:
    receiver.promises = str(1 << 40)
    goes_away(site, "a")
    site.at(2000)
    site.at(2120)
    assert receiver.notice()["number"] == 1
    site.hears(T.conn("a"), Conn(epoch=2, online=True, labels={"site": "north"}))
    site.at(2200)
    site.at(2400)
    assert receiver.notice()["number"] == 2


@pytest.mark.parametrize("status", [400, 404, 302])
def test_notice_that_is_refused_for_good_makes_way_for_the_next(
    site: Site, receiver: Receiver, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [status]
    goes_away(site, "a")
    site.at(2000)
    site.at(2120)
    assert receiver.notice()["number"] == 1
    site.hears(T.conn("a"), Conn(epoch=2, online=True, labels={"site": "north"}))
    site.at(2200)
    site.at(2400)
    assert receiver.notice()["number"] == 2
    assert f"refuses a notice with {status}: it is given up" in caplog.text
    assert "T0KEN" not in caplog.text


def test_broker_that_is_away_is_told_on_the_web_and_later_on_the_broker(
    site: Site, receiver: Receiver
) -> None:
    site.at(2000)
    site.wire.is_up = False
    site.at(2020)
    site.at(2100)
    (change,) = receiver.notice()["changes"]
    assert (change["what"], change["alert"]["rule"], change["alert"]["severity"]) == (
        "firing",
        "broker",
        "page",
    )
    assert T.alert("broker", "") not in site.wire.retained
    site.wire.is_up = True
    site.at(2101)
    assert T.alert("broker", "") in site.wire.retained


def test_alert_that_ended_while_the_broker_was_away_is_cleared_when_it_is_back(site: Site) -> None:
    goes_away(site, "a")
    topic = T.alert("silence", "north")
    site.at(2000)
    site.at(2120)
    site.hears(T.conn("a"), Conn(epoch=2, online=True, labels={"site": "north"}))
    site.at(2200)
    site.controller.inventory.save_alerts(
        [], None, 2300.0
    )  # it ended, and the controller died before it said so
    site.boot()
    site.wire.deliver(topic, site.wire.retained[topic])
    site.at(2400)
    assert site.wire.retained[topic] == b""


def test_what_the_broker_keeps_says_how_many_it_is_about_now(site: Site) -> None:
    goes_away(site, "a")
    site.at(2000)
    site.at(2120)
    goes_away(site, "b")
    site.at(2140)
    assert json.loads(site.wire.retained[T.alert("silence", "north")])["count"] == 2


def test_defect_of_a_rule_ends_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def look(*_: object) -> list[Any]:
        raise ValueError("seeded")

    monkeypatch.setattr("edgectl.fleet.alerts.book.AlertBook.step", look)
    site.at(2000)
    site.at(2001)
    assert caplog.text.count("a defect of the controller") == 1


def test_secret_that_is_no_secret_is_refused_at_the_start(tmp_path: Path, site: Site) -> None:
    site.controller.close()
    (tmp_path / "secret").write_text("short")
    with pytest.raises(UsageError, match="fewer than 16 bytes"):
        site.boot()
    (tmp_path / "secret").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        site.boot()
    (tmp_path / "secret").write_text(SECRET)
    site.boot()


def test_rules_look_once_all_devices_were_looked_at_a_piece_with_every_tick(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.fleet.control.alert_round._PIECE", 2)
    goes_away(site, *"abcde")
    for t in (2000, 2001, 2002):
        site.at(t)
    for t in (2130, 2131):
        site.at(t)
        assert site.controller.alerts() == []
    site.at(2132)
    (alert,) = site.controller.alerts()
    assert (alert.count, alert.since_s) == (5, 2132)
