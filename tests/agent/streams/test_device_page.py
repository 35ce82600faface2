"""The live page of a device: real workers with real pictures, a real HTTP client, and workers that die or hang."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from support.fleet import wait_until
from support.pipelines import box_task, make_variant, model_bytes

from edgectl.agent.config import StreamConfig, ViewConfig
from edgectl.agent.state.journal import Journal
from edgectl.agent.streams.device_page import DevicePage
from edgectl.agent.streams.supervised_stream import WorkerCallbacks
from edgectl.agent.streams.supervisor import WORKER, Supervisor
from edgectl.agent.streams.worker_life import Timing
from edgectl.core.errors import LinkError, UsageError
from edgectl.pipelines.host.protocol import EngineRef, EventMessage

YARD = "synth://yard?fps=30&width=160&height=96&seed={}"
TIMING = Timing(start_s=60, stop_s=5, steady_s=0.3, backoff_s=(0.05, 0.2))


class Device:
    """``gate`` and ``door`` in one worker process, ``hall`` in another."""

    def __init__(self, folder: Path) -> None:
        variant = make_variant(folder / "blobs", box_task(), model_bytes())
        engine = EngineRef(
            blobs=variant.blobs, manifest=variant.digest, release="yard@1", bundle="sha256:" + "1" * 64
        )
        self.pipelines = {
            name: StreamConfig(
                kind="surveillance",
                source=YARD.format(seed),
                slots={"detector": "gate-detector"},
                config={"zones": {"yard": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}},
                isolate=name == "hall",
            )
            for seed, name in enumerate(("gate", "door", "hall"))
        }
        self.journal = Journal(folder / "j.db")
        # longer than the 108 bytes of a Unix socket's address
        sockets = folder / ("v" * 120)
        sockets.mkdir(mode=0o700)
        self.supervisor = Supervisor(
            self.pipelines,
            lambda slot: engine,
            self.journal,
            WorkerCallbacks(
                lambda stream, stats: self.page.update(stream, stats),
                lambda stream, message: self.page.heard(stream, message),
                lambda stream, engines: None,
            ),
            command=WORKER,
            stats_every_s=0.2,
            timing=TIMING,
            pictures=sockets,
        )
        self.page = DevicePage(ViewConfig(listen="127.0.0.1:0"), self.pipelines, self.socket_of)
        self.page.start()
        self.supervisor.start()
        self.url = self.page.url.rstrip("/")

    def socket_of(self, stream: str) -> Path:
        path = self.supervisor.pictures_of(stream)
        assert path is not None
        return path

    def pid(self, stream: str) -> int:
        found = self.supervisor._streams[stream].worker.pid
        assert found is not None
        return found

    def close(self) -> None:
        self.page.close()
        self.supervisor.close()
        self.journal.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    device.close()


class Watching:
    """The connection that the page in a browser has for its pictures."""

    def __init__(self, url: str, show: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=60)
        self._answer = self._client.send(
            self._client.build_request("GET", "/pictures", params={"show": show}), stream=True
        )
        assert self._answer.status_code == 200
        self._bytes, self._buffer = self._answer.iter_raw(), b""

    def next(self, stream: str) -> tuple[dict[str, Any], bytes]:
        while True:
            head_n, jpeg_n = struct.unpack(">II", self._take(8))
            head, jpeg = json.loads(self._take(head_n)), self._take(jpeg_n)
            if head["stream"] == stream:
                return head, jpeg

    def _take(self, n: int) -> bytes:
        while len(self._buffer) < n:
            self._buffer += next(self._bytes)
        found, self._buffer = self._buffer[:n], self._buffer[n:]
        return found

    def close(self) -> None:
        self._answer.close()
        self._client.close()


@contextmanager
def watching(device: Device, show: str) -> Iterator[Watching]:
    viewer = Watching(device.url, show)
    try:
        yield viewer
    finally:
        viewer.close()


def test_every_stream_is_on_one_page_with_its_pictures_numbers_and_events(device: Device) -> None:
    with (
        watching(device, "gate:320,door:640:plain,hall:320") as viewer,
        httpx.Client(base_url=device.url, timeout=60) as client,
    ):
        for name in device.pipelines:
            head, jpeg = viewer.next(name)
            picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            assert (head["width"], picture.shape) == (160, (96, 160, 3))
            # of this machine's one clock, whatever process took it
            assert 0 < head["age_ms"] < 60_000
        first, _ = viewer.next("gate")
        assert viewer.next("gate")[0]["seq"] > first["seq"]
        wait_until(lambda: '"zone"' in _numbers_and_events(client), "an event is told")
        page = client.get("/").text
        for name in device.pipelines:
            assert f'data-stream="{name}"' in page
        shapes = client.get("/streams/gate/shapes").json()
        assert shapes["file"] is None
        assert "yard" in shapes["yaml"]


def _numbers_and_events(client: httpx.Client) -> str:
    with client.stream("GET", "/events") as answer:
        lines = answer.iter_lines()
        found = ""
        for line in lines:
            found += line
            if line.startswith("data:") and "streams" in line:
                return found
    return found


def test_event_that_happens_while_somebody_watches_gets_its_picture(device: Device) -> None:
    with (
        watching(device, "gate:320") as viewer,
        httpx.Client(base_url=device.url, timeout=60) as client,
    ):
        viewer.next("gate")
        # what it sees is new to it then, and somebody watches
        device.supervisor._streams["gate"].restart("to see it again")

        def seen() -> bool:
            with client.stream("GET", "/events") as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: ["):
                        shown = [e for e in json.loads(line[6:]) if e["snapshot"]]
                        return any(
                            client.get(f"/streams/{e['stream']}/snapshots/{e['id']}.jpg").content[:2]
                            == b"\xff\xd8"
                            for e in shown
                        )
                    if line.startswith("data: {"):
                        return False
            return False

        wait_until(seen, "an event has its picture")


def test_worker_killed_while_somebody_watches_comes_back_on_the_same_page(device: Device) -> None:
    with watching(device, "gate:320,hall:320") as viewer:
        viewer.next("gate")
        viewer.next("hall")
        before, neighbour = device.pid("gate"), device.pid("hall")
        os.kill(before, signal.SIGKILL)
        # the neighbour's pictures go on, and its own come again, of another process
        viewer.next("hall")
        wait_until(
            lambda: device.supervisor._streams["gate"].worker.pid not in (None, before),
            "a new process is there",
        )
        taken = viewer.next("gate")[0]["taken_ns"]
        wait_until(lambda: viewer.next("gate")[0]["taken_ns"] > taken, "its pictures go on")
        assert device.pid("hall") == neighbour


def test_stream_that_does_not_run_says_so_on_the_page(device: Device) -> None:
    with watching(device, "gate:320") as viewer, httpx.Client(base_url=device.url, timeout=60) as client:
        viewer.next("gate")

        def said() -> bool:
            # it does run here, and its next window says so
            device.page.tell({"gate": ("restarting", "the camera is gone")})
            return "the camera is gone" in _numbers_and_events(client)

        wait_until(said, "it is said")


def test_worker_that_hangs_costs_its_pictures_alone(device: Device) -> None:
    with watching(device, "gate:320,hall:320") as viewer:
        viewer.next("gate")
        pid = device.pid("gate")
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(5):
                viewer.next("hall")
            with httpx.Client(base_url=device.url, timeout=60) as client:
                assert client.get("/").status_code == 200
        finally:
            os.kill(pid, signal.SIGCONT)
        viewer.next("gate")


def test_viewer_who_does_not_read_delays_nobody(device: Device) -> None:
    host, _, port = device.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as idle, watching(device, "gate:320") as viewer:
        idle.sendall(b"GET /pictures?show=gate:1920,door:1920,hall:1920 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        first, _ = viewer.next("gate")
        for _ in range(20):
            head, _ = viewer.next("gate")
        assert head["seq"] > first["seq"]


@pytest.mark.parametrize("token", [None, "short"])
def test_token_that_cannot_be_used_is_named(tmp_path: Path, token: str | None) -> None:
    path = tmp_path / "token"
    if token is not None:
        path.write_text(token)
    config = ViewConfig(listen="127.0.0.1:0", token_file=path)
    with pytest.raises(UsageError, match="token"):
        DevicePage(config, {}, lambda stream: path)


def test_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LinkError, match="cannot listen"):
            DevicePage(ViewConfig(listen=f"127.0.0.1:{port}"), {}, lambda stream: Path("s"))


def test_visitor_without_the_token_sees_nothing(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef0123\n")
    config = ViewConfig(listen="127.0.0.1:0", token_file=tmp_path / "token")
    page = DevicePage(config, {}, lambda stream: tmp_path / "s")
    page.start()
    try:
        url = page.url
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer 0123456789abcdef0123"}).status_code == 200
    finally:
        page.close()


def test_event_without_what_the_page_needs_is_left_out() -> None:
    stream = StreamConfig(kind="speech", source="mic://default", slots={"vad": "v"})
    page = DevicePage(ViewConfig(listen="127.0.0.1:0"), {"door": stream}, lambda stream: Path("s"))
    page.start()
    try:
        page.heard("door", EventMessage(stream="door", event={"kind": "started"}))
        assert "started" not in httpx.get(page.url).text
    finally:
        page.close()
