"""The page's server, asked by a real client: pages, pictures, numbers, events, drawings, and who is refused."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from support.live_page import CONFIG, FedPage, event, fed_page

from edgectl.core.errors import LinkError, UsageError
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.view.live_view import LiveView

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[FedPage]:
    with fed_page(tmp_path, streams=("gate", "yard")) as page:
        yield page


@pytest.fixture
def client(page: FedPage) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.url, timeout=30) as client:
        yield client


class Pictures:
    """The stream of pictures that the page reads."""

    def __init__(self, page: FedPage, show: str) -> None:
        self._client = httpx.Client(base_url=page.url, timeout=30)
        self._answer = self._client.send(
            self._client.build_request("GET", "/pictures", params={"show": show}), stream=True
        )
        assert self._answer.status_code == 200
        self._bytes = self._answer.iter_raw()
        self._buffer = b""

    def next(self) -> tuple[dict[str, Any], bytes]:
        head, jpeg = struct.unpack(">II", self._take(8))
        return json.loads(self._take(head)), self._take(jpeg)

    def _take(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._buffer += next(self._bytes)
        found, self._buffer = self._buffer[:n], self._buffer[n:]
        return found

    def close(self) -> None:
        self._answer.close()
        self._client.close()


def messages(answer: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Of server-sent events."""
    name = ""
    for line in answer.iter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def wait_for(condition: Any) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_page_shows_every_stream_and_no_credentials(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    for name in ("gate", "yard", "door"):
        assert f'data-stream="{name}"' in answer.text
    assert "secret" not in answer.text
    assert "cam7/sub" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in answer.headers
    one = client.get("/streams/gate").text
    assert 'id="editor"' in one
    assert 'id="editor"' not in client.get("/streams/door").text


def test_names_of_events_and_streams_are_no_html(page: FedPage, client: httpx.Client) -> None:
    page.view.heard(event("<b>", rule="<script>alert(1)</script>"))
    assert "<script>alert" not in client.get("/").text


@pytest.mark.parametrize("name", ["view.css", "live.js", "shapes.js"])
def test_its_own_files_are_served(client: httpx.Client, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e%2fapp.py",
        "/static/nothing",
        "/streams/nobody",
        "/streams/nobody/picture.jpg",
        "/streams/gate/snapshots/..%2f..%2fgate.yaml.jpg",
        "/streams/..%2f..%2fetc/picture.jpg",
        "/streams/door/shapes",
        "/pictures?show=nobody:640",
        "/pictures",
        "/nothing",
    ],
)
def test_what_there_is_not_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_pictures_of_many_streams_come_over_one_connection(page: FedPage) -> None:
    pictures = Pictures(page, "gate:640,yard:300")
    seen = {}
    for stream in ("gate", "yard"):
        seq = page.frame(stream)
        about, jpeg = pictures.next()
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        seen[about["stream"]] = about["seq"], image.shape[1]
        assert about["seq"] == seq
        assert abs(float(image.mean()) - seq) < 2
        assert 0 <= about["age_ms"] < 30_000
    assert seen == {"gate": (1, 640), "yard": (2, 320)}
    pictures.close()


def test_other_programs_get_mjpeg(page: FedPage, client: httpx.Client) -> None:
    with client.stream("GET", "/streams/gate/live.mjpeg?width=320") as answer:
        kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
        assert kind == "multipart/x-mixed-replace"
        pieces = answer.iter_raw()
        assert next(pieces) == f"--{boundary}\r\n".encode()
        for _ in range(3):
            page.frame()
            part = b""
            # a part is whole, its end included, before the next frame is there
            while not part.endswith(f"\r\n--{boundary}\r\n".encode()):
                part += next(pieces)
            head, _, body = part.partition(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            assert body[:2] == b"\xff\xd8"
            assert body[length:] == f"\r\n--{boundary}\r\n".encode()


def test_a_still_picture_is_the_newest(page: FedPage, client: httpx.Client) -> None:
    page.frame()
    page.frame()
    image = cv2.imdecode(np.frombuffer(client.get("/streams/gate/picture.jpg").content, np.uint8), 0)
    assert image is not None
    assert abs(float(image.mean()) - 2) < 2
    assert client.get("/streams/gate/picture.jpg?width=x").status_code == 422


def test_nothing_is_encoded_before_anybody_watches_and_after_they_have_gone(page: FedPage) -> None:
    hub = page.view._hub
    for _ in range(10):
        page.frame()
    assert hub.encoded == 0
    pictures = Pictures(page, "gate:640")
    pictures.next()
    pictures.close()
    page.frame()
    wait_for(lambda: hub.viewers == 0)
    before = hub.encoded
    for _ in range(10):
        page.frame()
    assert hub.encoded == before


def test_a_viewer_that_reads_slowly_gets_few_pictures_that_are_not_old(page: FedPage) -> None:
    """Nobody waits for it, and what it reads is not from long ago: frames do not pile up on the way."""
    head = f"GET /pictures?show=gate:1920 HTTP/1.1\r\nhost: 127.0.0.1:{page.view.port}\r\n\r\n"
    stop = threading.Event()
    noise = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), dtype=np.uint8)

    def feed() -> None:
        while not stop.wait(0.02):
            now = time.monotonic_ns()
            page.taps["gate"].write(
                StreamOutput((), ShownFrame(Frame.of_bgr(noise, Stamp(0, now, now, wall_offset_ns=0))))
            )

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        with socket.create_connection(("127.0.0.1", page.view.port)) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            slow.sendall(head.encode())
            data = b""
            taken: list[int] = []
            ages_ms: list[float] = []
            while len(taken) < 12:  # a megabyte a picture: some seconds at this rate
                data += slow.recv(1 << 17)
                stop.wait(0.02)
                at = data.find(b'"taken_ns":')
                if at >= 0 and (end := data.find(b",", at)) >= 0:
                    taken.append(int(data[at + 11 : end]))
                    ages_ms.append((time.monotonic_ns() - taken[-1]) / 1e6)
                    data = data[end:]
    finally:
        stop.set()
        feeder.join()
    periods = np.diff(taken) / 1e6
    assert np.median(periods) > 40, "it is slow, and so misses some of the frames that come every 20 ms"
    assert page.view._hub.encoded > len(taken)
    assert np.median(ages_ms) < 0.7 * np.median(periods), (
        "the newest is chosen when there is room for it, not before"
    )


def test_numbers_and_events_are_sent_as_they_come(page: FedPage, client: httpx.Client) -> None:
    page.stats()
    page.view.heard(event("a"))
    with client.stream("GET", "/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        heard = messages(answer)
        name, events = next(heard)
        assert (name, [e["id"] for e in events]) == ("happened", ["a"])
        name, numbers = next(heard)
        assert name == "numbers"
        gate = next(s for s in numbers["streams"] if s["name"] == "gate")
        assert gate["live"]["frames"]["dropped"] == {"superseded": 3}
        page.frame("gate", event("b"))
        found: dict[str, bool] = {}
        while not found.get("b"):
            name, events = next(heard)
            if name == "happened":
                found |= {e["id"]: e["snapshot"] for e in events}
    assert client.get("/streams/gate/snapshots/b.jpg").content.startswith(b"\xff\xd8")
    assert client.get("/streams/gate/snapshots/a.jpg").status_code == 404


def test_more_viewers_than_allowed_are_told(tmp_path: Path) -> None:
    with fed_page(tmp_path, max_viewers=2) as page:
        first = [Pictures(page, "gate:640") for _ in range(2)]
        answer = httpx.get(f"{page.url}/pictures?show=gate:640", timeout=30)
        assert answer.status_code == 503
        assert "viewers are watching already" in answer.json()["error"]
        first[0].close()
        page.frame()  # who has gone is noticed when there is something to send
        wait_for(lambda: page.view._hub.viewers == 1)
        Pictures(page, "gate:640").close()
        first[1].close()


def test_where_there_is_no_picture_a_browser_is_shown_why_and_a_program_told(
    page: FedPage, client: httpx.Client
) -> None:
    page.stats(state="outage", reason="refused", detail="cannot reach it", retry_s=30.0)
    shown = client.get("/streams/gate/picture.jpg", headers={"accept": "image/avif,image/*,*/*;q=0.8"})
    assert (shown.status_code, shown.headers["content-type"]) == (503, "image/svg+xml")
    assert "connection refused, trying again" in shown.text
    assert "cannot reach it" in shown.text
    told = client.get("/streams/gate/picture.jpg", headers={"accept": "*/*"})
    assert told.status_code == 503
    assert told.json()["error"].startswith("no picture: connection refused, trying again in ")
    page.frame()
    assert client.get("/streams/gate/picture.jpg").content.startswith(b"\xff\xd8")


def test_what_is_drawn_is_checked_and_saved(page: FedPage, client: httpx.Client) -> None:
    now = client.get("/streams/gate/shapes").json()
    assert now["file"] == "gate.yaml"
    now["shapes"]["zones"][0]["polygon"] = [0, 0.5, 1, 0.5, 1, 1]
    body = {"shapes": now["shapes"], "base": now["base"]}
    write = {"x-edgectl-word": page.view._guard.word}
    checked = client.post("/streams/gate/shapes", json=body, headers=write)
    assert "polygon: [0, 0.5, 1, 0.5, 1, 1]" in checked.json()["yaml"]
    assert page.file.read_text() == CONFIG
    saved = client.post("/streams/gate/shapes/save", json=body, headers=write)
    assert saved.json()["backup"] == "gate.yaml.bak"
    assert page.file.read_text() == checked.json()["yaml"]
    again = client.post("/streams/gate/shapes/save", json=body, headers=write)
    assert again.status_code == 422
    assert "changed meanwhile" in again.json()["error"]
    body["shapes"]["zones"][0]["polygon"] = [0, 0, 1, 1, 1, 0, 0, 1]
    crossed = client.post("/streams/gate/shapes", json=body, headers=write)
    assert crossed.status_code == 422
    assert "crosses itself" in crossed.json()["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"x-edgectl-word": "wrong"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"host": "evil.example"}, 421),
    ],
)
def test_writing_without_the_pages_word_or_from_another_site_is_refused(
    page: FedPage, client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    if "origin" in headers or "host" in headers:
        headers = {"x-edgectl-word": page.view._guard.word, **headers}
    answer = client.post("/streams/gate/shapes/save", json={}, headers=headers)
    assert answer.status_code == status
    assert page.file.read_text() == CONFIG


def test_a_body_that_is_too_large_is_refused(page: FedPage, client: httpx.Client) -> None:
    write = {"x-edgectl-word": page.view._guard.word}
    assert client.post("/streams/gate/shapes", content=b" " * 300_000, headers=write).status_code == 413


def test_a_name_that_leads_here_by_trickery_sees_nothing(client: httpx.Client) -> None:
    for path in ("/", "/events", "/streams/gate/picture.jpg", "/static/live.js"):
        assert client.get(path, headers={"host": "evil.example"}).status_code == 421


def test_with_a_token_nothing_is_shown_to_who_lacks_it(tmp_path: Path) -> None:
    with fed_page(tmp_path, token=TOKEN) as page, httpx.Client(base_url=page.url, timeout=30) as client:
        page.frame()
        for path in ("/", "/events", "/streams/gate", "/streams/gate/picture.jpg", "/pictures?show=gate:640"):
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert "cam7" not in answer.text
        assert client.post("/login", data={"token": "wrong" * 5}).status_code == 401
        assert "This page needs its token" in client.get("/", headers={"accept": "text/html"}).text
        # programs show it each time, browsers once
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/streams/gate/picture.jpg", headers=bearer).status_code == 200
        assert client.get(f"/streams/gate/picture.jpg?token={TOKEN}").status_code == 200
        answer = client.get(f"/?token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert client.get("/streams/gate").status_code == 200


def test_the_form_takes_the_token(tmp_path: Path) -> None:
    with fed_page(tmp_path, token=TOKEN) as page, httpx.Client(base_url=page.url, timeout=30) as client:
        assert client.post("/login", data={"token": TOKEN}).status_code == 303
        assert client.get("/").status_code == 200


def test_another_address_gets_a_token_unasked() -> None:
    with LiveView("0.0.0.0", 0) as view:
        assert "?token=" in view.told_url
        assert httpx.get(f"http://127.0.0.1:{view.port}/").status_code == 401
        assert socket.gethostname() in view.url
    with LiveView("127.0.0.1", 0) as view:
        assert view.told_url == view.url
    with LiveView("0.0.0.0", 0, token=TOKEN) as view:
        assert TOKEN not in view.told_url, "who chose it knows it"


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 16"):
        LiveView("127.0.0.1", 0, token="short")
    with LiveView("127.0.0.1", 0) as view, pytest.raises(LinkError, match="cannot listen"):
        LiveView("127.0.0.1", view.port)


def test_closing_sends_viewers_away_and_leaves_no_thread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {t.name for t in threading.enumerate()}
    with fed_page(tmp_path) as page:
        pictures = Pictures(page, "gate:640")
        page.frame()
        pictures.next()
        listener = httpx.Client(base_url=page.url, timeout=30)
        answer = listener.send(listener.build_request("GET", "/events"), stream=True)
    with pytest.raises(StopIteration):
        pictures.next()
    answer.read()
    listener.close()
    pictures.close()
    wait_for(lambda: {t.name for t in threading.enumerate()} <= before)
    assert not [r for r in caplog.records if r.levelname in ("WARNING", "ERROR")]
