"""Pictures over a socket: the feed of a worker and the relay of the agent, in one process; and workers that are no good."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.fleet import wait_until

from edgectl.core.errors import BusyError
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.view.looks import Look, ViewerPicture, Watch
from edgectl.pipelines.view.picture_feed import PictureFeed
from edgectl.pipelines.view.picture_relay import PictureRelay
from edgectl.pipelines.view.picture_wire import packed_picture


class Fed:
    """A feed that a test gives frames, and the relay that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "0"
        self.feed = PictureFeed(self.path)
        self.kept: list[tuple[str, Sequence[str], bytes]] = []
        self.relay = PictureRelay(lambda *one: self.kept.append(one), lambda stream: self.path, max_viewers=2)
        for stream in ("gate", "door"):
            self.relay.sinks(stream)
        self.seq = 0
        self.drawn: list[int] = []

    def write(self, tap: Sink, *ids: str) -> None:
        self.seq += 1
        seq = self.seq
        stamp = Stamp(seq, seq, seq)
        records = tuple({"id": i} for i in ids)
        image = np.full((90, 160, 3), 9, np.uint8)
        shown = ShownFrame(Frame.of_bgr(image, stamp), draw=lambda image: self.drawn.append(seq))
        tap.write(StreamOutput(records, shown))


class Viewer:
    def __init__(self, relay: PictureRelay, **wanted: Look) -> None:
        self._rung = threading.Event()
        self.watch: Watch = relay.watch(wanted, self._rung.set)

    def next(self) -> list[ViewerPicture]:
        while not (found := self.watch.take()):
            assert self._rung.wait(30), "no picture came"
            self._rung.clear()
        return found


@pytest.fixture
def fed(tmp_path: Path) -> Iterator[Fed]:
    fed = Fed(tmp_path)
    yield fed
    fed.relay.close()
    fed.feed.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("picture-", "view-"))]


def test_nothing_is_encoded_before_somebody_watches_and_nothing_after(fed: Fed) -> None:
    [tap] = fed.feed.sinks("gate")
    for _ in range(5):
        fed.write(tap, "e1")
    viewer = Viewer(fed.relay, gate=Look(320))
    assert viewer.next()[0].seq == 5
    viewer.watch.close()
    wait_until(lambda: fed.feed.hub.viewers == 0, "the worker knows that nobody watches")
    for _ in range(5):
        fed.write(tap, "e2")
    assert Viewer(fed.relay, gate=Look(320)).next()[0].seq == 10
    assert fed.drawn == [5, 10], "nothing of what nobody saw, events included"


def test_only_this_user_may_connect(fed: Fed) -> None:
    assert fed.path.stat().st_mode & 0o777 == 0o600


def test_stream_may_be_asked_for_before_it_is_there(fed: Fed) -> None:
    viewer = Viewer(fed.relay, gate=Look(320))
    wait_until(lambda: bool(fed.feed._connections), "it is connected")
    [tap] = fed.feed.sinks("gate")
    fed.write(tap)
    assert viewer.next()[0].stream == "gate"


def test_a_worker_that_lacked_file_descriptors_serves_pictures_again(
    fed: Fed, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, lacked = socket.socketpair, threading.Event()

    def scarce() -> tuple[socket.socket, socket.socket]:
        if threading.current_thread().name == "picture-feed" and not lacked.is_set():
            lacked.set()
            raise OSError(errno.EMFILE, "Too many open files")
        return pair()

    monkeypatch.setattr("edgectl.pipelines.view.picture_feed._AGAIN_S", 0.01)
    monkeypatch.setattr(socket, "socketpair", scarce)
    [tap] = fed.feed.sinks("gate")
    fed.write(tap)
    viewer = Viewer(fed.relay, gate=Look(320))
    assert lacked.wait(30)
    assert viewer.next()[0].stream == "gate"


def test_looks_change_while_somebody_watches(fed: Fed) -> None:
    taps = {stream: fed.feed.sinks(stream)[0] for stream in ("gate", "door")}
    first = Viewer(fed.relay, gate=Look(320))
    fed.write(taps["gate"])
    assert first.next()[0].width == 160
    fed.write(taps["door"])
    second = Viewer(fed.relay, door=Look(640, annotated=False))
    assert second.next()[0].stream == "door"
    assert first.watch.take() == []


def test_event_while_somebody_watches_gets_its_picture(fed: Fed) -> None:
    [tap] = fed.feed.sinks("gate")
    viewer = Viewer(fed.relay, gate=Look(320))
    fed.write(tap)
    viewer.next()
    fed.write(tap, "e1", "e2")
    wait_until(lambda: bool(fed.kept), "the picture of the event is kept")
    stream, ids, jpeg = fed.kept[0]
    assert (stream, tuple(ids), jpeg[:2]) == ("gate", ("e1", "e2"), b"\xff\xd8")


def test_too_many_viewers_are_told(fed: Fed) -> None:
    watches = [fed.relay.watch({}, lambda: None) for _ in range(2)]
    with pytest.raises(BusyError, match="2 viewers are watching already"):
        fed.relay.watch({}, lambda: None)
    watches[0].close()
    fed.relay.watch({}, lambda: None)


def test_closing_tells_who_watches_and_ends_every_thread(fed: Fed) -> None:
    rung = threading.Event()
    watch = fed.relay.watch({"gate": Look(320)}, rung.set)
    fed.relay.close()
    assert rung.is_set()
    assert watch.over
    assert not [t for t in threading.enumerate() if t.name == "view-0"]


def test_worker_that_says_nothing_is_left_and_tried_again(tmp_path: Path) -> None:
    """It accepts, sends a picture and then half of one; the next connection is a whole one."""
    path = tmp_path / "0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        relay = PictureRelay(lambda *one: None, lambda stream: path, deadline_s=0.2)
        relay.sinks("gate")
        viewer = Viewer(relay, gate=Look(320))

        def picture(seq: int) -> bytes:
            return packed_picture(Look(320), ViewerPicture("gate", seq, 160, 90, seq, None, b"jpeg"))

        first, _ = listening.accept()
        with first:
            first.sendall(picture(1))
            assert viewer.next()[0].seq == 1
            first.sendall(picture(2)[:-2])
            second, _ = listening.accept()
            with second:
                assert relay.newest({"gate": Look(320)}) == [], "who comes now is not shown how it was"
                second.sendall(picture(3))
                assert viewer.next()[0].seq == 3
                # of a stream that nobody asked for
                second.sendall(picture(4).replace(b"gate", b"hall"))
                second.sendall(picture(5))
                assert viewer.next()[0].seq == 5
                assert relay.newest({"hall": Look(320)}) == []
        relay.close()


def test_stream_that_gets_a_worker_of_its_own_is_followed_there(tmp_path: Path) -> None:
    places = {"gate": tmp_path / "0"}
    feeds = [PictureFeed(tmp_path / str(i)) for i in range(2)]
    relay = PictureRelay(lambda *one: None, places.__getitem__)
    relay.sinks("gate")
    viewer = Viewer(relay, gate=Look(320))
    try:
        for i, feed in enumerate(feeds):
            places["gate"] = tmp_path / str(i)
            [tap] = feed.sinks("gate")
            stamp = Stamp(i, i + 1, i + 1)
            tap.write(StreamOutput((), ShownFrame(Frame.of_bgr(np.zeros((90, 160, 3), np.uint8), stamp))))
            assert viewer.next()[0].seq == i
    finally:
        relay.close()
        for feed in feeds:
            feed.close()


def test_worker_that_is_away_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked: list[str] = []

    def socket_of(stream: str) -> Path:
        asked.append(stream)
        return tmp_path / "0"

    with caplog.at_level("INFO"):
        relay = PictureRelay(lambda *one: None, socket_of)
        relay.sinks("gate")
        relay.watch({"gate": Look(320)}, lambda: None)
        # several tries
        wait_until(lambda: len(asked) > 12, "it is tried again")
        relay.close()
    assert len([r for r in caplog.records if "no pictures from the worker" in r.message]) == 1
