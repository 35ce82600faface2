"""Pictures for viewers: none while nobody watches, one for all of a width, the newest for each."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgectl.core.errors import BusyError
from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.view.looks import Look, ViewerPicture, Watch, width_for
from edgectl.pipelines.view.pictures import PictureHub

SIZE = (640, 360)


def output(
    seq: int,
    *,
    records: tuple[dict[str, Any], ...] = (),
    draw: Callable[[NDArray[Any]], None] | None = None,
    live: bool = True,
) -> StreamOutput:
    image = np.full((SIZE[1], SIZE[0], 3), seq * 10 % 256, np.uint8)
    now = time.monotonic_ns()
    stamp = Stamp(seq, now, now, wall_offset_ns=time.time_ns() - now if live else None)
    return StreamOutput(records, ShownFrame(Frame.of_bgr(image, stamp), draw=draw))


class Viewer:
    """Takes when it is rung."""

    def __init__(self, hub: PictureHub, wanted: dict[str, int], *, annotated: bool = True) -> None:
        self._rung = threading.Event()
        self.watch = hub.watch({s: Look(w, annotated) for s, w in wanted.items()}, self._rung.set)

    def next(self) -> ViewerPicture:
        while not (found := self.watch.take()):
            assert self._rung.wait(30), "no picture came"
            self._rung.clear()
        [picture] = found
        return picture


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


@pytest.fixture
def kept() -> list[tuple[str, Sequence[str], bytes]]:
    return []


@pytest.fixture
def hub(kept: list[tuple[str, Sequence[str], bytes]]) -> Iterator[PictureHub]:
    hub = PictureHub(lambda *one: kept.append(one), fps=1000.0, max_viewers=3)
    yield hub
    hub.close()


def test_nothing_is_drawn_or_encoded_while_nobody_watches(hub: PictureHub) -> None:
    tap = hub.tap("gate")
    drawn: list[int] = []
    for seq in range(50):
        tap.write(output(seq, draw=lambda image, seq=seq: drawn.append(seq)))  # type: ignore[misc]
    # who comes now sees the newest frame, and nothing was done for the others
    picture = Viewer(hub, {"gate": 640}).next()
    assert (picture.seq, drawn, hub.encoded) == (49, [49], 1)


def test_all_viewers_of_a_width_get_one_and_the_same_picture(hub: PictureHub) -> None:
    tap = hub.tap("gate")
    viewers = [Viewer(hub, {"gate": width}) for width in (640, 640, 320)]
    tap.write(output(7))
    pictures = [viewer.next() for viewer in viewers]
    assert pictures[0].jpeg is pictures[1].jpeg
    assert [(p.width, p.height) for p in pictures] == [(640, 360), (640, 360), (320, 180)]
    assert hub.encoded == 2
    image = cv2.imdecode(np.frombuffer(pictures[2].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert abs(float(image.mean()) - 70) < 3


def test_what_is_drawn_goes_into_the_picture_and_not_into_the_frame(hub: PictureHub) -> None:
    tap = hub.tap("gate")

    def draw(image: NDArray[Any]) -> None:
        image[:] = 255

    viewer = Viewer(hub, {"gate": 640})
    frame = output(0, draw=draw)
    tap.write(frame)
    image = cv2.imdecode(np.frombuffer(viewer.next().jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.min() > 250
    assert frame.frame is not None
    assert frame.frame.bgr().max() == 0


def test_who_draws_zones_gets_the_picture_plain_and_the_others_as_ever(hub: PictureHub) -> None:
    tap = hub.tap("gate")

    def draw(image: NDArray[Any]) -> None:
        image[:] = 255

    viewers = [Viewer(hub, {"gate": 640}, annotated=annotated) for annotated in (True, False)]
    tap.write(output(0, draw=draw))
    found = [cv2.imdecode(np.frombuffer(v.next().jpeg, np.uint8), 0) for v in viewers]
    assert [round(float(image.mean())) for image in found if image is not None] == [255, 0]


def test_a_slow_viewer_misses_pictures_and_gets_the_newest(hub: PictureHub) -> None:
    tap = hub.tap("gate")
    slow, quick = Viewer(hub, {"gate": 640}), Viewer(hub, {"gate": 640})
    for seq in range(20):
        tap.write(output(seq))
        assert quick.next().seq == seq
    assert slow.next().seq == 19
    assert slow.watch.take() == []


def test_who_comes_later_is_not_shown_how_it_was(hub: PictureHub) -> None:
    tap = hub.tap("gate")
    first = Viewer(hub, {"gate": 640})
    tap.write(output(1))
    assert first.next().seq == 1
    first.watch.close()
    tap.write(output(2))
    assert Viewer(hub, {"gate": 640}).next().seq == 2


def test_rate_is_bounded_and_frames_that_come_a_little_early_are_not_lost() -> None:
    hub = PictureHub(lambda *_: None, fps=10.0)
    clock = [100.0]
    jobs: list[float] = []
    tap = hub.tap("gate")
    watch = Watch(hub, {"gate": Look(640)}, lambda: None)
    hub._watches.append(watch)  # without waking the hub's own thread: time is ours here
    entry = hub._streams["gate"]
    with hub._change:
        for due_s in np.arange(
            100, 110, 0.1
        ):  # a camera of 10 fps whose frames come up to 30 ms early or late
            clock[0] = float(due_s) + 0.03 * (-1) ** len(jobs)
            entry.newest = output(1)
            found, _ = hub._jobs(clock[0])
            jobs += [clock[0]] * len(found)
            entry.source = entry.newest
        assert len(jobs) == 100
        jobs.clear()
        for due_s in np.arange(110, 120, 0.02):  # fifty a second
            entry.newest = output(1)
            found, wait_s = hub._jobs(float(due_s))
            jobs += [1.0] * len(found)
            if found:
                entry.source = entry.newest
            else:
                assert wait_s is not None
        assert 98 <= len(jobs) <= 102
        hub._watches.clear()
    hub.close()
    tap.close()


def test_events_get_a_picture_of_their_frame_though_nobody_watches(
    hub: PictureHub, kept: list[tuple[str, Sequence[str], bytes]]
) -> None:
    tap = hub.tap("gate")
    update = {"id": "e0", "type": "tracked_object", "phase": "update"}
    tap.write(output(0, records=(update,)))
    tap.write(output(3, records=({"id": "e1", "type": "zone"}, update)))
    wait_for(lambda: len(kept) == 1)
    [(stream, ids, jpeg)] = kept
    assert (stream, list(ids)) == ("gate", ["e1"])
    assert jpeg.startswith(b"\xff\xd8")


def test_a_storm_of_events_gets_few_pictures(
    hub: PictureHub, kept: list[tuple[str, Sequence[str], bytes]]
) -> None:
    tap = hub.tap("gate")
    started = time.monotonic()
    for seq in range(200):
        tap.write(output(seq, records=({"id": str(seq), "type": "zone"},)))
        wait_for(lambda: not hub._snapshots)
    other = hub.tap("yard")
    other.write(output(0, records=({"id": "last", "type": "zone"},)))
    wait_for(lambda: any(stream == "yard" for stream, _, _ in kept))
    assert [list(ids) for stream, ids, _ in kept if stream == "gate"][:6] == [[str(i)] for i in range(6)]
    assert len(kept) <= 8 + 2 * (time.monotonic() - started)


def test_too_many_viewers_are_told_and_one_that_leaves_makes_room(hub: PictureHub) -> None:
    hub.tap("gate")
    viewers = [Viewer(hub, {"gate": 640}) for _ in range(3)]
    with pytest.raises(BusyError, match="3 viewers"):
        Viewer(hub, {"gate": 640})
    viewers[0].watch.close()
    Viewer(hub, {"gate": 640})
    assert hub.viewers == 3


def test_a_picture_that_cannot_be_drawn_stops_nobody(
    hub: PictureHub, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: NDArray[Any]) -> None:
        raise ValueError("another package's kind")

    bad, good = hub.tap("bad"), hub.tap("good")
    viewer = Viewer(hub, {"bad": 640, "good": 640})
    for seq in range(3):
        bad.write(output(seq, draw=broken))
    good.write(output(5))
    assert viewer.next().stream == "good"
    assert caplog.text.count("cannot be drawn") == 1


def test_packed_pictures_say_how_old_they_are() -> None:
    picture = ViewerPicture("gate", 3, 640, 360, 1_000_000_000, 1.7e9, b"\xff\xd8jpeg")
    packed = picture.packed(1_250_000_000)
    head, jpeg = struct.unpack_from(">II", packed)
    about = json.loads(packed[8 : 8 + head])
    assert about == {
        "stream": "gate",
        "seq": 3,
        "width": 640,
        "height": 360,
        "taken_ns": 1_000_000_000,
        "time_s": 1.7e9,
        "age_ms": 250.0,
    }
    assert packed[8 + head :] == picture.jpeg
    assert len(picture.jpeg) == jpeg


def test_of_a_file_the_age_counts_from_when_it_was_decoded(hub: PictureHub) -> None:
    tap = hub.tap("clip")
    viewer = Viewer(hub, {"clip": 640})
    shown = output(0, live=False)
    tap.write(shown)
    picture = viewer.next()
    assert picture.time_s is None
    assert shown.frame is not None
    assert picture.taken_ns == shown.frame.stamp.avail_ns


@pytest.mark.parametrize(("asked", "given"), [(1, 320), (320, 320), (321, 640), (1300, 1920), (9999, 1920)])
def test_widths_are_few(asked: int, given: int) -> None:
    assert width_for(asked) == given
