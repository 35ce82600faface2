"""Clips of events: exact, from the key frame before, one for what belongs together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.pipelines import BoxEngine, box_task, make_variant, turn, write_h264

from edgectl.core.errors import EdgectlError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.sinks.base import Record, StreamOutput
from edgectl.pipelines.sinks.clips import ClipsConfig, ClipSink
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.sources.media.reader import VideoReader
from edgectl.pipelines.sources.media.ring import PacketRing
from edgectl.pipelines.stream.frame import Stamp
from edgectl.pipelines.stream.part import PartVariant

ZONE = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}


def run(folder: Path, source: str, clips: dict[str, Any], *, find: Any = None, **config: Any) -> list[Record]:
    """Somebody is there from the 21st frame on, or where ``find`` sees him in a tensor."""
    events: list[Record] = []
    looked = iter(range(10_000))

    def boxes(_: Any) -> list[Any]:
        return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)] if next(looked) >= 22 else []

    slot = PartVariant(make_variant(folder / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
    values = {"zones": {"all": ZONE}, "clips": {"on": ["all"], **clips}, "annotate": False, **config}
    pipeline = make_pipeline(
        "surveillance",
        PipelineArgs(
            "gate",
            source,
            {"detector": slot},
            parse_config("surveillance", values),
            events.append,
            lambda _: BoxEngine(find or boxes),
            folder / "out",
        ),
    )
    pipeline.start()
    assert pipeline.wait(60)
    pipeline.stop()
    assert pipeline.error is None, pipeline.error
    return events


def test_an_event_names_its_clip_which_begins_before_it_and_has_the_sources_own_frames(
    tmp_path: Path,
) -> None:
    source = write_h264(tmp_path / "clip.mp4", frames=80)
    events = run(tmp_path, str(source), {"before_s": 0.5, "after_s": 1})
    [entered] = [e for e in events if e["type"] == "zone"]
    clip = tmp_path / "out" / entered["clip"]
    with av.open(str(source)) as video:
        whole = [f.to_ndarray(format="yuv420p") for f in video.decode(video=0)]
    with av.open(str(clip)) as video:
        assert video.streams.video[0].start_time == 0
        got = [f.to_ndarray(format="yuv420p") for f in video.decode(video=0)]
    first = int((entered["t_s"] - 0.5) * 10) // 10 * 10  # a key frame every ten
    for a, b in zip(got, whole[first:], strict=False):
        assert (a == b).all()
    assert first + len(got) >= (entered["t_s"] + 1) * 10
    assert len(got) <= 40
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["clip"] == entered["clip"]
    assert told["events"] == [entered["id"]]
    assert told["start_pts_s"] == pytest.approx(first / 10)
    assert told["before_s"] == pytest.approx(entered["t_s"] - first / 10, abs=0.002)
    assert (told["frames"], told["seconds"]) == (len(got), pytest.approx(len(got) / 10))
    assert [p.name for p in clip.parent.iterdir()] == [clip.name]


def test_what_belongs_together_is_one_clip(tmp_path: Path) -> None:
    source = write_h264(tmp_path / "clip.mp4", frames=80)
    line = {"id": "all2", "occupancy": {"zone": "all", "high": 1}}
    events = run(tmp_path, str(source), {"on": ["all", "all2"], "after_s": 1}, rules=[line])
    named = [e for e in events if "clip" in e and e["type"] != "clip"]
    assert {e["type"] for e in named} == {"zone", "occupancy"}
    assert len({e["clip"] for e in named}) == 1
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["events"] == [e["id"] for e in named]


def walking(path: Path, frames: int = 60, **options: str) -> Path:
    """Somebody, fine noise of 24 x 40 pixels, walks 3 pixels a frame to the right over an even floor. 25 a second."""
    rng = np.random.default_rng(3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12", **options})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size = 25
        for i in range(frames):
            image = np.full((240, 320, 3), 40, np.uint8)
            squares = rng.choice(np.array([150, 255], np.uint8), (10, 6, 1))
            x = place(i)
            image[100:140, x : x + 24] = np.kron(squares, np.ones((4, 4, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def place(i: int) -> int:
    return 20 + 3 * i


def who_is_bright(image: Any) -> list[Any]:
    """Of a tensor: where it is brighter than the floor."""
    rows, columns = np.nonzero(image[0].mean(axis=0) > 70 / 255)
    # the double's input is 64 x 64 of a picture of 4:3, with borders above and below
    if not len(columns) or len(columns) > 1000:
        return []
    return [(columns.min() / 64, rows.min() / 64, (columns.max() + 1) / 64, (rows.max() + 1) / 64, 0.9, 0)]


def seen(picture: Any, i: int) -> float:
    """How much of somebody comes through in the picture of frame ``i``: how much pixels 4 apart differ where he is."""
    x = place(i)
    part = picture[100:140, x : x + 24, 0].astype(int)
    return float(np.abs(np.diff(part[2::4, 2::4], axis=1)).mean())


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("fps", [None, 5])
def test_with_privacy_nobody_is_seen_in_any_frame_of_a_clip(
    tmp_path: Path, suffix: str, fps: int | None
) -> None:
    """Also where only some of its frames were looked at, and the others lie between them; with pictures that are not
    decoded in the order in which they are shown."""
    source = walking(tmp_path / f"clip.{suffix}", bf="3")
    config = {
        "privacy": {"blur": {"classes": ["person"], "margin": 0.3, "mode": "fill"}},
        "flow": {"target_fps": fps},
    }
    events = run(tmp_path, str(source), {"before_s": 0.4, "after_s": 1}, find=who_is_bright, **config)
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["written"]
    with av.open(str(source)) as video:
        whole = [f.to_ndarray(format="bgr24") for f in video.decode(video=0)]
    with av.open(str(tmp_path / "out" / told["clip"])) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        got = [(f.time, f.to_ndarray(format="bgr24")) for f in video.decode(video=0)]
    base = told["start_pts_s"] - float(first_pts(source))
    assert len(got) == told["frames"] > 20
    for t, picture in got:
        i = round((base + t) * 25)
        assert seen(whole[i], i) > 30
        assert seen(picture, i) < 5
        assert abs(float(picture[110:130, place(i) + 4 : place(i) + 20].mean()) - 128) < 20
        # and no more than needed: the floor elsewhere is as it was
        assert abs(int(picture[200, 10, 0]) - 40) < 12
    # exactly as asked for, not from a key frame on
    [entered] = [e for e in events if e["id"] in told["events"]]
    assert base == pytest.approx(max(0.0, entered["t_s"] - 0.4), abs=0.041)


def first_pts(path: Path) -> float:
    with av.open(str(path)) as video:
        return float(next(video.decode(video=0)).time or 0)


def test_without_privacy_the_same_clip_shows_him(tmp_path: Path) -> None:
    source = walking(tmp_path / "clip.mp4")
    events = run(tmp_path, str(source), {"before_s": 0.4, "after_s": 1}, find=who_is_bright)
    [told] = [e for e in events if e["type"] == "clip"]
    with av.open(str(tmp_path / "out" / told["clip"])) as video:
        picture = next(video.decode(video=0)).to_ndarray(format="bgr24")
    assert seen(picture, round(told["start_pts_s"] * 25)) > 30


def test_a_turned_camera_is_hidden_upright(tmp_path: Path) -> None:
    """Boxes are those of the upright picture, and the source's packets lie on their side."""
    source = walking(tmp_path / "clip.mp4")
    turn(source, (-1, 0, 0, -1))
    config = {"privacy": {"blur": {"classes": ["person"], "margin": 0.3, "mode": "fill"}}}
    events = run(tmp_path, str(source), {"before_s": 0.4, "after_s": 1}, find=who_is_bright, **config)
    [told] = [e for e in events if e["type"] == "clip"]
    with av.open(str(tmp_path / "out" / told["clip"])) as video:
        got = [(f.time, f.to_ndarray(format="bgr24")) for f in video.decode(video=0)]
    assert len(got) > 20
    for t, picture in got:
        i = round((told["start_pts_s"] + t) * 25)
        upright = picture[::-1, ::-1]
        assert seen(upright, i) < 5
        assert abs(float(upright[110:130, place(i) + 4 : place(i) + 20].mean()) - 128) < 20
        assert abs(int(picture[40, 310, 0]) - 40) < 12


@pytest.mark.parametrize(
    ("frames", "after_s"),
    # Open at the end; and complete with the last group of pictures, which the end of the source completes: it is written
    # when nobody hears of the source any more.
    [(40, 60), (30, 0.9)],
)
def test_a_clip_that_is_written_at_the_end_is_told_before_it(
    tmp_path: Path, frames: int, after_s: float
) -> None:
    source = write_h264(tmp_path / "clip.mp4", frames=frames)
    events = run(tmp_path, str(source), {"before_s": 0.5, "after_s": after_s})
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["written"]
    lines = (tmp_path / "out/events.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == told


def test_in_a_hurry_a_clip_ends_where_its_encoding_has_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl.pipelines.sinks.clips._HURRIED_S", 0.0)
    monkeypatch.setattr("edgectl.pipelines.sinks.clips.ClipSink.hurried", True, raising=False)
    source = walking(tmp_path / "clip.mp4")
    config = {"privacy": {"blur": {"classes": ["person"]}}}
    events = run(tmp_path, str(source), {"before_s": 0.4, "after_s": 1}, find=who_is_bright, **config)
    [told] = [e for e in events if e["type"] == "clip"]
    assert told["frames"] == 1
    with av.open(str(tmp_path / "out" / told["clip"])) as video:
        assert sum(1 for _ in video.decode(video=0)) == 1


@pytest.mark.parametrize(
    "privacy", [{"masks": [{"polygon": ZONE["polygon"]}]}, {"blur": {"classes": ["person"]}}]
)
def test_a_sink_that_hides_nothing_in_packets_is_refused_with_privacy(
    privacy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"privacy": privacy, "zones": {"all": ZONE}, "clips": {"on": ["all"]}}
    parse_config("surveillance", config)
    # as one of another package
    monkeypatch.setattr(ClipsConfig, "hides", False)
    with pytest.raises(
        UsageError, match="clips: it gives out the source's own packets, in which nothing can be hidden"
    ):
        parse_config("surveillance", config)


def test_a_source_without_packets_says_so(tmp_path: Path) -> None:
    with pytest.raises(EdgectlError, match="this source gives no packets"):
        run(tmp_path, "synth://yard?seconds=1&paced=0", {})


class Watched:
    """A clip sink on its own, and a source whose packets it cuts: ten frames a second, a key frame each second."""

    def __init__(self, folder: Path, **clips: Any) -> None:
        self.ring = PacketRing(60)
        self.said: list[dict[str, Any]] = []
        self.out = folder / "out"
        self._path = write_h264(folder / "source.mp4", frames=40)
        self._seq = 0
        config = ClipsConfig(on=("all",), **clips)
        self.sink = ClipSink(self.out, config, OutFiles(self.out), self.ring, self._say)

    def _say(self, make: Any) -> None:
        self.said.append(make(0.0).data)

    def source(self, frames: int, *, ends: bool) -> None:
        """Its packets are there; the analysis has seen nothing of it yet."""
        reader = VideoReader(str(self._path), "source")
        reader.keep_packets(self.ring)
        for _ in zip(range(frames), reader.frames(), strict=False):
            pass
        if ends:
            reader.close()

    def frame(self, i: int, t_s: float, *, rings: bool = False) -> str | None:
        """Frame ``i`` of the source, taken at ``t_s``. The name of the clip of its event."""
        stamp = Stamp(self._seq, round(t_s * 1e9), 0, i / 10)
        self._seq += 1
        record = {"id": f"e{self._seq}", "seq": stamp.seq, "t_s": t_s, "rule": "all"}
        record |= self.sink.file_of(record) if rings else {}
        self.sink.write(StreamOutput((record,) if rings else (), stamp=stamp))
        return record.get("clip")


def test_an_event_that_comes_when_the_packets_are_there_already_is_in_the_same_clip(tmp_path: Path) -> None:
    watched = Watched(tmp_path, before_s=0.5, after_s=0.5)
    watched.source(40, ends=False)
    names = {watched.frame(i, i / 10, rings=i in (10, 14, 18)) for i in range(30)}
    assert len(names - {None}) == 1
    [told] = watched.said
    assert told["events"] == ["e11", "e15", "e19"]
    assert told["before_s"] >= 0.5
    assert told["end_pts_s"] >= 1.8 + 0.5


def test_a_clip_is_not_made_longer_than_it_may_be(tmp_path: Path) -> None:
    watched = Watched(tmp_path, before_s=0.5, after_s=0.5, max_s=1.0)
    watched.source(40, ends=False)
    names = [watched.frame(i, i / 10, rings=i >= 5) for i in range(35)]
    assert len(set(names) - {None}) == 3
    first, *_ = watched.said
    # whole groups of pictures: up to 1.5 s is asked for
    assert first["end_pts_s"] == pytest.approx(2.0)


def test_a_camera_that_dies_right_after_an_event_leaves_its_clip(tmp_path: Path) -> None:
    watched = Watched(tmp_path, before_s=0.5, after_s=5)
    watched.source(25, ends=True)
    name = watched.frame(20, 2.0, rings=True)
    assert name is not None
    watched.frame(24, 2.4)
    assert watched.said == []
    away = {"type": "capability", "name": "source", "available": False, "reason": "refused"}
    watched.sink.write(StreamOutput((away,)))
    [told] = watched.said
    assert told["written"]
    assert told["events"] == ["e1"]
    with av.open(str(watched.out / name)) as video:
        kept = sum(1 for _ in video.decode(video=0))
    # what belongs to it when the camera is back has a clip of its own, with other packets of the same times
    watched.source(40, ends=False)
    other = watched.frame(1, 4.0, rings=True)
    assert other not in (None, name)
    for i in range(2, 40):
        watched.frame(i, 4.0 + i / 10, rings=i == 20)
    watched.sink.finish()
    with av.open(str(watched.out / name)) as video:
        assert sum(1 for _ in video.decode(video=0)) == kept
    assert (watched.out / str(other)).exists()


def test_a_clip_that_the_sink_comes_to_late_is_of_the_source_of_its_event(tmp_path: Path) -> None:
    watched = Watched(tmp_path, before_s=0.5, after_s=0.5)
    watched.source(40, ends=True)
    record = {"id": "e", "seq": 0, "t_s": 2.0, "rule": "all"}
    record |= watched.sink.file_of(record)
    watched.source(5, ends=False)
    watched.sink.write(StreamOutput((record,), stamp=Stamp(0, 2_000_000_000, 0, 2.0)))
    watched.sink.write(StreamOutput((), stamp=Stamp(1, 2_600_000_000, 0, 2.6)))
    [told] = watched.said
    assert told["written"]
    assert told["start_pts_s"] == pytest.approx(1.0)


def test_an_event_of_a_first_frame_without_a_time_of_its_own_has_its_clip(tmp_path: Path) -> None:
    """As RTSP sources have."""
    watched = Watched(tmp_path, before_s=0.5, after_s=0.5)
    watched.source(40, ends=False)
    record = {"id": "first", "seq": 0, "t_s": 100.0, "rule": "all"}
    record |= watched.sink.file_of(record)
    watched.sink.write(StreamOutput((record,), stamp=Stamp(0, 100_000_000_000, 0)))
    for i in range(1, 20):
        watched.frame(i, 100 + i / 10)
    [told] = watched.said
    assert (told["clip"], told["events"], told["written"]) == (record["clip"], ["first"], True)
    assert told["start_pts_s"] == pytest.approx(0)


def test_an_event_of_a_source_without_times_is_told_to_have_none(tmp_path: Path) -> None:
    watched = Watched(tmp_path, before_s=0.5, after_s=0.5)
    record = {"id": "e", "seq": 0, "t_s": 100.0, "rule": "all"}
    record |= watched.sink.file_of(record)
    watched.sink.write(StreamOutput((record,), stamp=Stamp(0, 100_000_000_000, 0)))
    [told] = watched.sink.finish()
    assert told(0.0).data == {"clip": record["clip"], "events": ["e"], "written": False}
