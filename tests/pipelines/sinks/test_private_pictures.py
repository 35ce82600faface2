"""What must not be seen is gone from the bytes that leave: each way out of a stream, decoded again.

The left half of the picture is a mask, in the right half stands somebody whom the detector finds. The source is fine
noise all over: where it comes through, neighbouring pixels differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import free_port, start_mosquitto
from numpy.typing import NDArray
from support.fleet import wait_until
from support.pipelines import BoxEngine, box_task, make_variant
from support.rtsp_recorder import Recorder

from edgectl.core.errors import UsageError
from edgectl.link.mqtt import BrokerOptions, Link
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks import SINKS
from edgectl.pipelines.sinks.base import Record
from edgectl.pipelines.stream.part import PartVariant

SIZE = (320, 240)
PERSON = (0.6, 0.3, 0.8, 0.9)
PRIVACY = {
    "masks": [{"polygon": [0, 0, 0.5, 0, 0.5, 1, 0, 1]}],
    "blur": {"classes": ["person"], "margin": 0.1},
}


def noisy_clip(path: Path, frames: int = 12) -> Path:
    """Coarse enough to survive an encoder, fine enough to be detail: squares of 4 pixels."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.gop_size = 5
        for _ in range(frames):
            squares = rng.integers(0, 256, (SIZE[1] // 4, SIZE[0] // 4, 3), dtype=np.uint8)
            image = np.kron(squares, np.ones((4, 4, 1), np.uint8))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def run(
    folder: Path,
    config: dict[str, Any],
    boxes: Any = (PERSON,),
    *,
    query: str = "",
    seconds: float | None = None,
) -> list[Record]:
    """A clip through a whole pipeline into ``folder/out``. ``query``: of its address."""
    events: list[Record] = []
    slot = PartVariant(make_variant(folder / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "gate",
            f"{noisy_clip(folder / 'clip.mp4')}{query}",
            {"detector": slot},
            parse_config("surveillance", config),
            events.append,
            lambda _: BoxEngine(lambda _: [(*box, 0.9, 0) for box in boxes]),
            folder / "out",
            seconds=seconds,
        ),
    )
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.error is None
    return events


def detail(image: NDArray[Any], x1: float, y1: float, x2: float, y2: float) -> float:
    """How much pixels 4 apart differ in a part of the picture: what comes through of the source."""
    height, width = image.shape[:2]
    part = image[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)]
    return float(np.abs(np.diff(part.astype(np.int16)[:, 2::4], axis=1)).mean())


def check(image: NDArray[Any], *, private: bool = True) -> None:
    mask, person, rest = (
        detail(image, 0.02, 0.02, 0.48, 0.98),
        detail(image, 0.63, 0.35, 0.77, 0.85),
        detail(image, 0.87, 0.02, 0.98, 0.98),
    )
    assert rest > 40
    if private:
        assert mask < 2
        assert person < 8
    else:
        assert mask > 40
        assert person > 40


def frames_of(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as video:
        return [f.to_ndarray(format="bgr24") for f in video.decode(video=0)]


def test_nothing_that_is_drawn_of_somebody_in_a_mask_sticks_out_of_it(tmp_path: Path) -> None:
    # his label is wider than what is left of the mask beside him
    alone, hidden = tmp_path / "alone", tmp_path / "hidden"
    pictures = []
    for folder, boxes in ((alone, ()), (hidden, ((0.4, 0.3, 0.55, 0.9),))):
        folder.mkdir()
        run(folder, {"privacy": {"masks": PRIVACY["masks"]}}, boxes)
        pictures.append(frames_of(folder / "out/annotated.mp4")[-1])
    apart = np.abs(pictures[0].astype(np.int16) - pictures[1])
    assert apart.max() == 0


def annotated(folder: Path, privacy: dict[str, Any]) -> list[NDArray[Any]]:
    run(folder, {"privacy": privacy})
    return frames_of(folder / "out/annotated.mp4")


def snapshots(folder: Path, privacy: dict[str, Any]) -> list[NDArray[Any]]:
    zone = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
    run(folder, {"privacy": privacy, "zones": {"all": zone}, "snapshots": {"on": ["all"]}})
    return [np.asarray(cv2.imread(str(path))) for path in (folder / "out/snapshots").iterdir()]


def published(
    folder: Path, privacy: dict[str, Any], sink: str, topic: str, **options: Any
) -> list[NDArray[Any]]:
    broker = start_mosquitto(folder, free_port())
    got: list[bytes] = []
    with Link(BrokerOptions(broker.host, broker.port), "watcher") as watcher:
        watcher.subscribe(topic, lambda _, payload: got.append(payload))
        watcher.connect()
        url = f"mqtt://{broker.host}:{broker.port}"
        run(folder, {"privacy": privacy, sink: {"url": url, "topic": "t", **options}})
        wait_until(lambda: got, "the picture comes")
    broker.process.terminate()
    broker.process.wait()
    return [np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)) for data in got]


def mqtt(folder: Path, privacy: dict[str, Any]) -> list[NDArray[Any]]:
    return published(folder, privacy, "mqtt", "t/picture", picture=True)


def clips(folder: Path, privacy: dict[str, Any]) -> list[NDArray[Any]]:
    zone = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
    run(folder, {"privacy": privacy, "zones": {"all": zone}, "clips": {"on": ["all"]}})
    [path] = (folder / "out/clips").iterdir()
    return frames_of(path)


def restreamed(folder: Path, privacy: dict[str, Any]) -> list[NDArray[Any]]:
    port = free_port()
    recorder = Recorder(port, 8)
    recorder.listens()
    config = {"privacy": privacy, "restream": {"url": f"rtsp://127.0.0.1:{port}/gate", "kbit": 20_000}}
    run(folder, config, query="?paced=1&loop=1", seconds=5)
    recorder.thread.join(30)
    assert recorder.error is None
    return recorder.pictures


WAYS: dict[str, Callable[[Path, dict[str, Any]], list[NDArray[Any]]]] = {
    "annotate": annotated,
    "snapshots": snapshots,
    "mqtt": mqtt,
    "clips": clips,
    "restream": restreamed,
}
"""Sink → the pictures that it let out."""

WITHOUT_PICTURES = {"events", "tracklog", "retention", "webhook"}
CROPS = {"frigate"}
REFUSED = {"recording"}
"""Together with privacy."""


@pytest.mark.parametrize("sink", WAYS)
def test_no_picture_that_leaves_shows_what_must_not_be_seen(tmp_path: Path, sink: str) -> None:
    pictures = WAYS[sink](tmp_path, PRIVACY)
    assert pictures
    for image in pictures:
        check(image)


@pytest.mark.parametrize("sink", WAYS)
def test_without_privacy_the_same_bytes_show_it(tmp_path: Path, sink: str) -> None:
    pictures = WAYS[sink](tmp_path, {})
    assert pictures
    for image in pictures:
        check(image, private=False)


@pytest.mark.parametrize("privacy", [PRIVACY, {}])
def test_a_crop_of_somebody_shows_nothing_of_him(tmp_path: Path, privacy: dict[str, Any]) -> None:
    crops = published(tmp_path, privacy, "frigate", "t/gate/person/snapshot")
    assert crops
    for crop in crops:
        assert (detail(crop, 0.3, 0.3, 0.7, 0.8) < 8) == bool(privacy)


@pytest.mark.parametrize("sink", sorted(REFUSED))
def test_a_sink_that_can_hide_nothing_is_refused(sink: str) -> None:
    with pytest.raises(UsageError, match=f"{sink}: it gives out the source's own packets"):
        parse_config("surveillance", {sink: True, "privacy": PRIVACY})


def test_every_sink_is_looked_at() -> None:
    assert set(SINKS.own) == set(WAYS) | WITHOUT_PICTURES | CROPS | REFUSED


def test_events_and_track_logs_say_nothing_of_where_somebody_is_in_a_mask(tmp_path: Path) -> None:
    zone = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
    config = {"privacy": PRIVACY, "zones": {"all": zone}, "tracklog": True}
    events = run(tmp_path, config, (PERSON, (0.1, 0.1, 0.2, 0.5)))
    written = [json.loads(line) for line in (tmp_path / "out/events.jsonl").read_text().splitlines()]
    assert written == events
    entered = [e["box"] for e in events if e["type"] == "zone" and e["phase"] == "enter"]
    assert len(entered) == 2
    assert sum(box is None for box in entered) == 1  # that it is there is counted, where is not told
    logged = [json.loads(line) for line in (tmp_path / "out/tracks.jsonl").read_text().splitlines()[1:]]
    assert max(len(line["box"]) for line in logged) == 1
    assert all(box[0] > 160 for line in logged for box in line["box"])
