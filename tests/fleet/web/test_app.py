"""Who is let in, what acts do, and who may not act."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import httpx
import pytest
from conftest import free_port
from support.dashboard import ORIGIN, TOKEN, DashWorld, Tags

from edgectl.core.errors import LinkError
from edgectl.core.wire import Reply
from edgectl.fleet.api.app import ApiServer
from edgectl.fleet.config import ApiConfig
from edgectl.fleet.control.commands import CommandRequest
from edgectl.fleet.rollouts.values import RolloutState
from edgectl.fleet.web import app as web
from edgectl.fleet.web.rendering import HEADERS
from edgectl.fleet.web.sessions import SESSION_S, TRIES

PAGES = (
    "/",
    "/devices",
    "/devices/d",
    "/rollouts",
    "/rollouts/r",
    "/releases",
    "/releases/x@1",
    "/latency",
    "/events",
    "/rollouts/new",
    "/freeze",
    "/rollouts/r/abort",
    "/devices/d/lock",
)
ACTS = ("/rollouts/new", "/rollouts", "/freeze", "/rollouts/r/abort", "/devices/d/lock", "/logout")


def text_of(answer: httpx.Response) -> str:
    return " ".join(Tags(answer.text).text.split())


# ---- who is let in


@pytest.mark.parametrize("path", PAGES)
def test_who_has_not_signed_in_sees_nothing(world: DashWorld, path: str) -> None:
    answer = world.new_browser().get(path)
    assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login")
    live = world.new_browser().get(f"/live{path}")
    assert live.status_code in (401, 404)
    # the token of the API in a header is for the API
    assert world.new_browser().get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 303


def test_the_cookie_opens_no_api(world: DashWorld) -> None:
    assert world.browser.get("/").status_code == 200
    assert world.browser.get("/v1/devices").status_code == 401


def test_after_signing_in_one_is_where_one_wanted_to_be(world: DashWorld) -> None:
    browser = world.new_browser()
    to = browser.get("/devices?q=profile+%3D+cpu&page=2").headers["location"]
    form = Tags(browser.get(to).text).found
    wanted = next(a["value"] for _, a in form if a.get("name") == "next")
    assert wanted == "/devices?q=profile+%3D+cpu&page=2"
    answer = browser.post("/login", data={"token": TOKEN, "next": wanted})
    assert (answer.status_code, answer.headers["location"]) == (303, wanted)


@pytest.mark.parametrize(
    "elsewhere", ["//evil.example", "https://evil.example", "/\\evil.example", "", "/\r\nx: y"]
)
def test_nobody_is_sent_to_another_site(world: DashWorld, elsewhere: str) -> None:
    answer = world.new_browser().post("/login", data={"token": TOKEN, "next": elsewhere})
    assert answer.headers["location"] == "/"


def test_the_cookie_is_kept_from_scripts_and_other_sites(world: DashWorld) -> None:
    cookie = world.new_browser().post("/login", data={"token": TOKEN}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert "edgectl_dashboard_8765=" in cookie


def test_a_wrong_token_is_told_in_a_sentence_and_counted(world: DashWorld) -> None:
    browser = world.new_browser("10.0.0.9")
    for _ in range(TRIES):
        answer = browser.post("/login", data={"token": "wrong"})
        assert answer.status_code == 401
        assert "This is not the token." in text_of(answer)
    answer = browser.post("/login", data={"token": TOKEN})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert world.new_browser("10.0.0.8").post("/login", data={"token": TOKEN}).status_code == 303


def test_a_session_ends_after_its_time_and_when_it_is_ended(world: DashWorld) -> None:
    assert world.act("/logout").headers["location"] == "/login"
    assert world.browser.get("/").status_code == 303
    world.sign_in()
    world.clock_s += SESSION_S
    assert world.browser.get("/").status_code == 303


def test_a_link_from_the_api_lets_one_browser_in(world: DashWorld) -> None:
    asked = world.new_browser().post("/v1/dashboard", headers={"authorization": f"Bearer {TOKEN}"})
    assert asked.status_code == 201
    path = asked.json()["path"]
    browser = world.new_browser()
    assert (answer := browser.get(path)).headers["location"] == "/"
    assert answer.headers["cache-control"] == "no-store"
    assert browser.get("/").status_code == 200
    again = world.new_browser().get(path)
    assert again.status_code == 401
    assert "has been used" in text_of(again)
    assert world.new_browser().post("/v1/dashboard").status_code == 401


# ---- acts


@pytest.mark.parametrize("path", ACTS)
def test_no_other_site_can_act(world: DashWorld, path: str) -> None:
    word = world.word()
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"origin": ""}):
        answer = world.browser.post(path, data={"word": word}, headers=headers)
        assert answer.status_code == 403
    assert world.browser.post(path, data={"word": "guessed"}).status_code == 403
    assert world.browser.post(path, data={}).status_code == 403
    assert world.new_browser().post(path, data={"word": word}).status_code == 401
    assert world.browser.get("/").status_code == 200, "and is not signed out"


def test_signing_in_by_another_site_is_refused(world: DashWorld) -> None:
    answer = world.new_browser().post(
        "/login", data={"token": TOKEN}, headers={"origin": "https://evil.example"}
    )
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_rollout_is_previewed_then_started(world: DashWorld) -> None:
    world.publish("gate", "2")
    world.add_device("d", facts=("runtime:onnxruntime",), profile="cpu")
    form = {"release": "gate@2", "slot": "gate", "select": "name = d", "canary": "1"}
    preview = world.act("/rollouts/new", **form)
    assert preview.status_code == 200
    assert "gate@2 to slot gate: 1 devices, 1 online" in text_of(preview)
    assert world.controller.inventory.rollouts() == {}, "nothing has begun"
    request = next(a["value"] for _, a in Tags(preview.text).found if a.get("name") == "request")
    assert request is not None
    answer = world.act("/rollouts", request=request)
    assert (answer.status_code, answer.headers["location"]) == (303, "/rollouts/gate-1")
    [(spec, _)] = world.controller.inventory.rollouts().values()
    assert (spec.release, spec.select, spec.canary) == ("gate@2", "name = d", 1)
    assert "Rollout gate-1 of gate@2 has begun." in text_of(world.browser.get("/rollouts/gate-1"))
    assert "has begun" not in text_of(world.browser.get("/rollouts/gate-1")), "it is said once"


def test_a_mistake_stands_at_its_field_and_what_was_written_stays(world: DashWorld) -> None:
    answer = world.act("/rollouts/new", release="gate@9", slot="gate", canary="many", soak="5m")
    assert answer.status_code == 422
    canary = next(a for _, a in Tags(answer.text).found if a.get("name") == "canary")
    assert canary["aria-invalid"] == "true"
    assert canary["aria-describedby"] == "problem"
    assert 'value="5m"' in answer.text
    answer = world.act("/rollouts/new", release="gate@9", slot="gate", policy="canary: 3")
    invalid = [a["name"] for _, a in Tags(answer.text).found if a.get("aria-invalid")]
    assert invalid == ["policy"]
    assert "policy:1: canary" in text_of(answer)
    unknown = world.act("/rollouts/new", release="gate@9", slot="gate")
    assert "there is no release gate@9" in text_of(unknown)


def test_what_is_started_is_checked_again(world: DashWorld) -> None:
    assert world.act("/rollouts", request="{}").status_code == 422
    assert world.act("/rollouts").status_code == 422


def test_an_act_asks_first_and_then_does_it(world: DashWorld) -> None:
    world.add_device("d")
    id_ = world.rollout("1")
    asked = world.browser.get(f"/rollouts/{id_}/abort")
    assert "devices that have the release get back what they had" in text_of(asked)
    assert world.controller.rollout(id_)[1].state is RolloutState.RUNNING
    answer = world.act(f"/rollouts/{id_}/abort")
    assert answer.headers["location"] == f"/rollouts/{id_}"
    assert world.controller.rollout(id_)[1].state is not RolloutState.RUNNING
    assert any(e.text == "abort by the operator" for e in world.controller.inventory.events(acts=True))


def test_what_is_not_possible_now_says_so_and_what_to_do(world: DashWorld) -> None:
    world.add_device("d")
    id_ = world.rollout("1")
    world.act(f"/rollouts/{id_}/halt")
    answer = world.act(f"/rollouts/{id_}/resume")
    assert answer.status_code == 409
    assert "a rollout that is aborted cannot be resumed" in text_of(answer) or "cannot be resumed" in text_of(
        answer
    )
    assert "there is nothing called 'explode'" in text_of(world.act(f"/rollouts/{id_}/explode"))
    assert world.browser.get("/rollouts/nothing/abort").status_code == 409


def test_a_device_is_skipped(world: DashWorld) -> None:
    for i in range(2):
        world.add_device(f"d{i}")
    id_ = world.rollout("1")
    world.tick()
    assert 'name="device" value="d1"' in world.browser.get(f"/rollouts/{id_}/skip?device=d1").text
    world.act(f"/rollouts/{id_}/skip", device="d1")
    assert world.controller.rollout(id_)[1].members["d1"].outcome.value == "skipped"
    assert world.act(f"/rollouts/{id_}/skip", device="../x").status_code == 422


def test_the_fleet_is_frozen_and_the_freeze_ended(world: DashWorld) -> None:
    assert 'name="freeze" value="on"' in world.browser.get("/freeze").text
    world.act("/freeze", freeze="on")
    assert world.controller.frozen is True
    assert 'name="freeze" value="off"' in world.browser.get("/freeze").text
    world.act("/freeze", freeze="off")
    assert world.controller.frozen is False
    assert world.act("/freeze", freeze="maybe").status_code == 400


def commanded(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch, reply: Reply | LinkError
) -> list[tuple[str, CommandRequest]]:
    asked: list[tuple[str, CommandRequest]] = []

    def command(device: str, request: CommandRequest) -> Reply:
        asked.append((device, request))
        if isinstance(reply, LinkError):
            raise reply
        return reply

    monkeypatch.setattr(world.controller, "command", command)
    return asked


def test_a_device_is_locked_with_a_reason(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_device("d")
    asked = commanded(world, monkeypatch, Reply(id="1", ok=True))
    form = Tags(world.browser.get("/devices/d/lock").text).found
    assert {a["name"] for t, a in form if t == "input" and a.get("type") != "hidden"} == {"for", "reason"}
    assert world.act("/devices/d/lock", **{"for": "30m", "reason": "works"}).status_code == 303
    [(device, request)] = asked
    assert (device, request.op, request.ttl_s, request.reason) == ("d", "lock", 1800, "works")
    assert "d: lock is done." in text_of(world.browser.get("/devices/d"))


def test_an_answer_is_shown(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_device("d")
    commanded(world, monkeypatch, Reply(id="1", ok=True, result={"facts": ["<b>arch:x"]}))
    answer = world.act("/devices/d/probe")
    assert answer.status_code == 200
    assert "&lt;b&gt;arch:x" in answer.text


def test_a_refusal_and_silence_are_told(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_device("d")
    commanded(
        world,
        monkeypatch,
        Reply.model_validate({"id": "1", "ok": False, "error": {"code": "x", "detail": "not now"}}),
    )
    assert "d refuses: not now" in text_of(world.act("/devices/d/rollback"))
    commanded(world, monkeypatch, LinkError("d did not answer within 10 s"))
    answer = world.act("/devices/d/rollback")
    assert answer.status_code == 504
    assert "d did not answer within 10 s" in text_of(answer)


def test_only_slots_of_the_device_are_offered(world: DashWorld) -> None:
    world.add_device("d")
    assert "<option>gate</option>" in world.browser.get("/devices/d/rollback").text
    assert "<select" not in world.browser.get("/devices/d/probe").text
    assert world.browser.get("/devices/d/measure").status_code == 400, "a builder's"


# ---- every answer


def test_every_answer_has_the_headers_of_safety(world: DashWorld) -> None:
    world.add_device("d")
    for path in (
        "/",
        "/login",
        "/static/dash.js",
        "/static/none",
        "/devices/none",
        "/enter/x",
        "/rollouts/new",
    ):
        answer = world.browser.get(path)
        for name, value in HEADERS.items():
            if not (name == "cache-control" and path == "/static/dash.js"):
                assert answer.headers[name] == value, path


def test_the_api_answers_as_before(world: DashWorld) -> None:
    answer = world.browser.get("/v1/nothing")
    assert (answer.status_code, answer.text) == (404, "Not Found")


# ---- what is kept current


class Stream:
    """Reads a page's stream over ASGI, until it has what it wants."""

    def __init__(self, world: DashWorld, path: str, cookies: httpx.Cookies) -> None:
        self._app = world.app
        cookie = "; ".join(f"{k}={v}" for k, v in cookies.items())
        path, _, query = path.partition("?")
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", ORIGIN.removeprefix("http://").encode()), (b"cookie", cookie.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8765),
        }
        self.events: list[tuple[str, Any]] = []
        self.status = 0

    async def read(self, enough: Any, during: Any = lambda n: None) -> None:
        """Until ``enough(events)``; ``during(n)`` is called after each event."""
        gone = asyncio.Event()
        buffer = ""

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal buffer
            self.status = message.get("status", self.status)
            buffer += message.get("body", b"").decode()
            while "\n\n" in buffer:
                event, _, buffer = buffer.partition("\n\n")
                if found := re.fullmatch(r"event: (\w+)\ndata: (.*)", event):
                    self.events.append((found[1], json.loads(found[2])))
                    during(len(self.events))
                    if enough(self.events):
                        gone.set()

        await asyncio.wait_for(self._app(self._scope, receive, send), 20)


def test_a_stream_sends_what_has_changed_and_nothing_else(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PERIOD_S", 0.01)
    world.add_device("d")
    stream = Stream(world, "/live/devices", world.browser.cookies)

    def happens(n: int) -> None:
        world.clock_s += 100
        if n == 1:
            world.add_device("e")

    asyncio.run(stream.read(lambda events: len(events) >= 2, happens))
    (_, first), (name, second) = stream.events
    assert set(first) == {"banner", "list"}
    assert (name, set(second)) == ("parts", {"list"})
    assert 'href="/devices/e"' in second["list"]["html"]
    assert second["list"]["tag"] != first["list"]["tag"]


def test_a_stream_ends_when_what_it_shows_has_gone_or_the_session_has(
    world: DashWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "PERIOD_S", 0.01)
    world.add_device("d")

    def removed(n: int) -> None:
        world.clock_s += 100
        if n == 1:
            world.controller.remove("d")

    stream = Stream(world, "/live/devices/d", world.browser.cookies)
    asyncio.run(stream.read(lambda events: False, removed))
    assert stream.events[-1][0] == "gone"
    assert "there is no device d" in stream.events[-1][1]

    def too_late(n: int) -> None:
        world.clock_s += SESSION_S

    stream = Stream(world, "/live/events", world.browser.cookies)
    asyncio.run(stream.read(lambda events: False, too_late))
    assert len(stream.events) == 1


def test_streams_are_bounded_and_counted_down(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PERIOD_S", 0.01)
    monkeypatch.setattr(web, "MAX_STREAMS", 1)
    refused = Stream(world, "/live/events", world.browser.cookies)
    first = Stream(world, "/live/events", world.browser.cookies)

    async def both() -> None:
        begun, over = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            def enough(events: list[Any]) -> bool:
                begun.set()
                return False

            reading = asyncio.ensure_future(first.read(enough))
            await over.wait()
            reading.cancel()

        holding = asyncio.ensure_future(hold())
        await begun.wait()
        await refused.read(lambda events: True)
        over.set()
        await holding

    asyncio.run(asyncio.wait_for(both(), 30))
    assert (first.status, refused.status) == (200, 503)
    again = Stream(world, "/live/events", world.browser.cookies)
    asyncio.run(again.read(lambda events: True))
    assert (again.status, world.dashboard._streams) == (200, 0)


def test_streams_end_with_the_server(world: DashWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PERIOD_S", 0.01)
    stream = Stream(world, "/live/events", world.browser.cookies)
    asyncio.run(stream.read(lambda events: False, lambda n: world.dashboard.close()))
    assert stream.status == 200


def test_connections_of_the_server_send_at_once(world: DashWorld) -> None:
    """Head and body are two writes: with Nagle's algorithm each answer took 40 ms."""
    world.controller.config = world.controller.config.model_copy(update={"api": ApiConfig(port=free_port())})
    server = ApiServer(world.controller, TOKEN)
    try:
        with socket.create_connection(server._socket.getsockname()):
            accepted, _ = server._socket.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        server.close()
