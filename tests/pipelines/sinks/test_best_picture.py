"""The best picture of an object: of all that were seen, the large, sharp and whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgectl.pipelines.sinks.base import StreamOutput
from edgectl.pipelines.sinks.best_picture import BestPictures
from edgectl.pipelines.sinks.snapshot import SnapshotConfig, SnapshotSink
from edgectl.pipelines.stream.frame import Frame, Stamp
from edgectl.pipelines.video.shown import ShownFrame
from edgectl.pipelines.video.tracker import Tracks

SIZE = (320, 240)


def at(box: tuple[float, ...], score: float = 0.9, track: int = 7, seen: bool = True) -> Tracks:
    return Tracks(
        np.array([track]),
        np.array([box], np.float32),
        np.array([score], np.float32),
        np.zeros(1, np.int32),
        np.array([seen]),
        *SIZE,
    )


def picture(colour: int, *, blur: bool = False) -> ShownFrame:
    """Detail of one colour: which picture it was shows in the JPEG."""
    image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    image[::8] = image[:, ::8] = 255
    image[..., colour] = 255
    if blur:
        image = np.asarray(cv2.GaussianBlur(image, (31, 31), 9), np.uint8)
    return ShownFrame(Frame.of_bgr(image, Stamp(0, 0, 0)))


def colour_of(data: bytes | None) -> int:
    assert data is not None
    image: NDArray[Any] = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    return int(image.mean(axis=(0, 1)).argmax())


SMALL, LARGE, CUT = (100, 100, 120, 140), (80, 60, 160, 200), (0, 60, 80, 200)


def best_of(*views: tuple[Tracks, ShownFrame]) -> int:
    found = set()
    for order in (views, views[::-1]):
        best = BestPictures(90)
        for tracks, frame in order:
            best.see(tracks, frame)
        found.add(colour_of(best.take(7)))
        assert best.take(7) is None
    assert len(found) == 1, "whichever came first"
    return found.pop()


def test_large_beats_small_sure_beats_unsure_sharp_beats_blurred_whole_beats_cut_off() -> None:
    assert best_of((at(SMALL), picture(0)), (at(LARGE), picture(1))) == 1
    assert best_of((at(LARGE, 0.5), picture(0)), (at(LARGE, 0.9), picture(2))) == 2
    assert best_of((at(LARGE), picture(0, blur=True)), (at(LARGE), picture(1))) == 1
    assert best_of((at(CUT), picture(0)), (at(LARGE), picture(2))) == 2
    assert best_of((at(SMALL), picture(1)), (at(LARGE, seen=False), picture(2))) == 1


def test_what_is_kept_is_bounded_and_of_those_seen_last() -> None:
    best = BestPictures(50)
    for track in range(200):
        best.see(at(LARGE, track=track), picture(0))
    assert [track for track in range(200) if best.take(track)] == list(range(136, 200))


def test_it_is_written_when_the_object_has_gone_and_named_in_its_last_event(tmp_path: Path) -> None:
    sink = SnapshotSink(tmp_path, SnapshotConfig(best=True))
    end = {"id": "e", "type": "tracked_object", "phase": "end", "track": 7}
    sink.write(StreamOutput((), picture(0), at(SMALL)))
    sink.write(StreamOutput((), picture(2), at(LARGE)))
    sink.write(StreamOutput((), picture(1), at(SMALL)))
    assert not (tmp_path / "snapshots").exists()
    assert sink.file_of(end) == {"snapshot": "snapshots/e.jpg"}
    assert sink.file_of({**end, "phase": "update"}) == {}
    sink.write(StreamOutput((end, {**end, "id": "f", "track": 8})))
    assert colour_of((tmp_path / "snapshots/e.jpg").read_bytes()) == 2
    assert [p.name for p in (tmp_path / "snapshots").iterdir()] == ["e.jpg"]
