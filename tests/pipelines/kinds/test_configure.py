"""Another configuration under a running stream: between two frames, with nothing lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from support.pipelines import BoxEngine, box_task, make_variant, write_clip

from edgectl.core.bundle import Variant
from edgectl.core.errors import EngineError, StorageError, UsageError
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.replay import open_track_log, replay
from edgectl.pipelines.kinds import configurable
from edgectl.pipelines.kinds.base import PipelineArgs, make_pipeline
from edgectl.pipelines.kinds.config_change import Reconfigured
from edgectl.pipelines.kinds.difference import NewStartNeeded
from edgectl.pipelines.rules.loiter import LoiterRule
from edgectl.pipelines.sinks.base import Record, Sink, StreamOutput
from edgectl.pipelines.stream.part import PartVariant

FRAMES = 60
EVERYWHERE = {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}
TOP = {"polygon": [0, 0, 1, 0, 1, 0.15, 0, 0.15]}
LEFT = {"polygon": [0, 0, 0.4, 0, 0.4, 1, 0, 1]}


class Eye(Sink):
    """Sees every picture that leaves the stream."""

    name = "eye"
    pictures = True
    tracks = True

    def __init__(self) -> None:
        self.seen: list[tuple[int, float, tuple[int, ...]]] = []
        """Frame, how bright its upper edge is, and the tracks in it."""

    def write(self, output: StreamOutput) -> None:
        if output.frame is not None and output.stamp is not None and output.tracks is not None:
            light = output.frame.bgr()[:4].mean()
            # the first picture of the clip is black
            light = max(light, output.stamp.seq == 0)
            self.seen.append((output.stamp.seq, float(light), tuple(output.tracks.ids.tolist())))


class Stream:
    """A file whose frames go on one by one when they are let."""

    def __init__(
        self, tmp_path: Path, config: dict[str, Any], *, source: str = "", kind: str = "surveillance"
    ) -> None:
        self.events: list[Record] = []
        self.eye = Eye()
        self.out = tmp_path / "out"
        self.kind = kind
        self._may = threading.Semaphore(0)
        self._free = bool(source)
        self.ran = 0
        self.light = 0.0
        """How bright the last picture was that the detector saw."""
        self.slow_s = 0.0
        self._asked = threading.Event()
        source = source or str(write_clip(tmp_path / "clip.mp4", frames=FRAMES))
        slot = PartVariant(make_variant(tmp_path / "blobs", box_task()), "yard@1", "sha256:" + "1" * 64)
        self.old = {"detector": slot}
        self.ran_by: dict[int, str] = {}
        """Frame → release of the engine that it ran on."""
        self.opened: list[BoxEngine] = []
        self.pipeline = make_pipeline(
            kind,
            PipelineArgs(
                "gate",
                source,
                {"detector": slot},
                parse_config(kind, config),
                self.events.append,
                self._open,
                self.out,
                sinks=(self.eye,),
            ),
        )

    def other(
        self, tmp_path: Path, labels: tuple[str, ...] = ("person", "vehicle")
    ) -> dict[str, PartVariant]:
        """Another engine."""
        variant = make_variant(tmp_path / "other", box_task(labels), b"another model")
        return {"detector": PartVariant(variant, "yard@2", "sha256:" + "2" * 64)}

    def _open(self, variant: Variant) -> BoxEngine:
        self.opened.append(BoxEngine(self._boxes, classes=len(variant.config.task.labels)))
        return self.opened[-1]

    def _boxes(self, tensor: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
        """Somebody who goes from left to right."""
        if threading.current_thread().name.startswith("engine"):
            if self.slow_s:
                threading.Event().wait(self.slow_s)
            if not self._free:
                self._may.acquire()
            self.ran += 1
            self.light = float(tensor.max())
        x = 0.1 + 0.7 * self.ran / FRAMES
        return [(x, 0.3, x + 0.2, 0.8, 0.9, 0)]

    def begin(self) -> None:
        self.pipeline.start()
        path = self.pipeline._path  # type: ignore[attr-defined]
        change = path.change

        def asked(what: Any) -> None:
            change(what)
            self._asked.set()

        path.change = asked
        analysis = self.pipeline._analysis  # type: ignore[attr-defined]
        analyse = analysis._analyse

        def analysed(result: Any) -> None:
            self.ran_by[result.frame.stamp.seq] = result.detector.slot.release
            analyse(result)

        analysis._analyse = analysed

    def let(self, frames: int) -> None:
        self._may.release(frames)

    def configure(
        self, config: dict[str, Any], engines: dict[str, PartVariant] | None = None, **told: Any
    ) -> Reconfigured:
        return self.pipeline.configure(parse_config(self.kind, config), told, engines=engines or {})

    def change(self, frames: int, config: dict[str, Any]) -> None:
        """Change the configuration, and let so many frames go with it."""
        self._asked.clear()
        thread = threading.Thread(target=self.configure, args=(config,))
        thread.start()
        assert self._asked.wait(30)
        self.let(frames)
        thread.join()
        self.settle(self.ran)

    def change_after(
        self, frames: int, config: dict[str, Any], engines: dict[str, PartVariant] | None = None
    ) -> Reconfigured:
        """Let so many frames go, change the configuration, let the rest go."""
        self.let(frames)
        self.settle(frames)
        found: list[Reconfigured] = []
        thread = threading.Thread(
            target=lambda: found.append(self.configure(config, engines, digest="sha256:2"))
        )
        thread.start()
        assert self._asked.wait(10)
        self.let(FRAMES)
        thread.join()
        return found[0]

    def settle(self, frames: int) -> None:
        """Until so many are through, and those that are read ahead wait."""
        captured = -1
        while self.frames().processed < frames or captured != (captured := self.frames().captured):
            threading.Event().wait(0.05)

    def end(self) -> None:
        self.let(FRAMES)
        assert self.pipeline.wait(30)
        self.pipeline.stop()

    def frames(self) -> Any:
        return self.pipeline.ledger.frames()  # type: ignore[attr-defined]

    def of(self, type_: str) -> list[Record]:
        return [event for event in self.events if event["type"] == type_]


Make = Callable[..., Stream]


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Make]:
    made: list[Stream] = []

    def make(config: dict[str, Any], **more: Any) -> Stream:
        made.append(Stream(tmp_path, config, **more))
        made[-1].begin()
        return made[-1]

    yield make
    for one in made:
        one.let(FRAMES)
        one.pipeline.stop()


BEFORE: dict[str, Any] = {"zones": {"all": EVERYWHERE}, "annotate": False, "tracklog": True}
AFTER: dict[str, Any] = {
    **BEFORE,
    "zones": {"all": EVERYWHERE, "left": LEFT},
    "rules": [{"id": "mid", "line": [0.6, 1, 0.6, 0]}],
    "privacy": {"masks": [TOP]},
    "track": {"lost_s": 2.0},
}


def test_between_two_frames_and_none_is_lost(stream: Make) -> None:
    s = stream(BEFORE)
    done = s.change_after(20, AFTER)
    s.end()
    assert done == Reconfigured(("zones.left", "rules.mid", "track.lost_s", "privacy.masks"), True)
    frames = s.frames()
    assert (frames.captured, frames.processed, frames.dropped, frames.in_flight) == (FRAMES, FRAMES, {}, 0)
    (event,) = s.of("configuration")
    assert (event["phase"], event["digest"]) == ("applied", "sha256:2")
    assert event["changed"] == list(done.changed)
    assert (event["kept"], event["begun"]) == (["all"], ["left", "mid"])
    assert [seq for seq, _, _ in s.eye.seen] == list(range(FRAMES))


def test_a_mask_holds_from_the_very_frame_that_tells_it(stream: Make) -> None:
    s = stream(BEFORE)
    s.change_after(20, AFTER)
    s.end()
    first = s.of("configuration")[0]["seq"]
    assert 20 < first < 30
    dark = [seq for seq, light, _ in s.eye.seen if light < 1]
    assert dark == list(range(first, FRAMES))


def test_tracks_go_on_and_new_rules_know_who_is_there(stream: Make) -> None:
    s = stream(BEFORE)
    s.change_after(20, AFTER)
    s.end()
    assert [e["phase"] for e in s.of("tracked_object")].count("new") == 1
    assert {ids for _, _, ids in s.eye.seen[10:]} == {(1,)}
    first = s.of("configuration")[0]["seq"]
    left = [(e["phase"], e["seq"], e.get("reason")) for e in s.of("zone") if e["zone"] == "left"]
    assert left[0] == ("enter", first, "configuration")
    assert [e["rule"] for e in s.of("line_crossing")] == ["mid"]


def test_the_log_says_the_same_again_and_no_file_begins_anew(stream: Make) -> None:
    s = stream(BEFORE)
    s.change_after(20, AFTER)
    s.end()
    with open_track_log(s.out) as log:
        length, (again,) = replay(log, [None])
    assert length.frames == FRAMES
    assert length.switched_s == (pytest.approx(s.of("configuration")[0]["t_s"]),)

    def plain(records: list[Record]) -> list[str]:
        edge = {"id", "latency_ms", "releases", "seq"}
        rules = [r for r in records if r["type"] != "capability"]
        return [json.dumps({k: v for k, v in r.items() if k not in edge}) for r in rules]

    assert plain(again.records) == plain(s.events)
    written = [json.loads(line) for line in (s.out / "events.jsonl").read_text().splitlines()]
    assert written == s.events


def test_under_overload_the_ledger_stays_exact(stream: Make) -> None:
    s = stream(BEFORE, source="synth://yard?fps=60&width=160&height=96&seconds=4")
    s.slow_s = 0.03
    for number in range(6):
        done = s.configure(AFTER if number % 2 == 0 else BEFORE, number=number)
        assert done.in_force
    s.end()
    frames = s.frames()
    assert frames.processed > 6
    assert frames.captured == frames.processed + sum(frames.dropped.values())
    # of a loaded machine frames may be late at the end, too
    assert set(frames.dropped) <= {"superseded", "degraded", "deadline", "shutdown"}
    assert frames.dropped["superseded"] + frames.dropped.get("degraded", 0) > 6
    assert [e["number"] for e in s.of("configuration")] == list(range(6))


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"flow": {"mode": "fifo"}}, NewStartNeeded, "flow.mode cannot change"),
        ({"zones": {"all": {**EVERYWHERE, "classes": ["dragon"]}}}, UsageError, "dragon"),
        ({"privacy": {"blur": {"classes": ["dragon"]}}}, UsageError, "dragon"),
    ],
)
def test_what_cannot_be_changes_nothing(
    stream: Make, more: dict[str, Any], error: type[Exception], words: str
) -> None:
    s = stream(BEFORE)
    with pytest.raises(error, match=words):
        s.configure({**AFTER, **more})
    assert s.configure(BEFORE) == Reconfigured((), True)
    s.end()
    assert not s.of("configuration")
    assert all(light >= 1 for _, light, _ in s.eye.seen)


def test_what_is_only_prepared_says_what_would_change_and_changes_nothing(stream: Make) -> None:
    s = stream(BEFORE)
    s.let(20)
    s.settle(20)
    done = s.pipeline.configure(parse_config(s.kind, AFTER), {}, check=True)
    assert done == Reconfigured(("zones.left", "rules.mid", "track.lost_s", "privacy.masks"), False)
    bad = parse_config(s.kind, {**AFTER, "privacy": {"blur": {"classes": ["dragon"]}}})
    with pytest.raises(UsageError, match="dragon"):
        s.pipeline.configure(bad, {}, check=True)
    assert s.configure(BEFORE) == Reconfigured((), True), "it has what it had"
    s.end()
    assert not s.of("configuration")
    assert not s.of("line_crossing")
    assert all(light >= 1 for _, light, _ in s.eye.seen)


def test_sinks_come_and_go_and_events_that_come_meanwhile_are_not_lost(stream: Make) -> None:
    s = stream(BEFORE)
    s.change_after(20, {**AFTER, "events": False, "snapshots": {"on": ["mid"]}})
    for thread in s.pipeline._sinks._replacing:  # type: ignore[attr-defined]
        thread.join()
    s.end()
    (crossing,) = s.of("line_crossing")
    assert (s.out / crossing["snapshot"]).stat().st_size > 500
    written = [json.loads(line) for line in (s.out / "events.jsonl").read_text().splitlines()]
    assert written == [e for e in s.events if e["t_s"] < s.of("configuration")[0]["t_s"]]


def test_a_sink_that_cannot_be_opened_is_told_and_the_stream_goes_on(
    stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str, config: Any, context: Any) -> Sink:
        raise StorageError("the disk is full")

    s = stream(BEFORE)
    monkeypatch.setattr(configurable, "open_sink", full)
    s.change_after(20, {**BEFORE, "snapshots": {"best": True}})
    for thread in s.pipeline._sinks._replacing:  # type: ignore[attr-defined]
        thread.join()
    s.end()
    told = [e for e in s.of("capability") if e["name"] == "sink"]
    assert (told[0]["reason"], told[0]["sink"]) == ("failed", "snapshots")
    assert s.frames().processed == FRAMES


def test_a_rule_that_fails_brings_the_whole_configuration_before_back(
    stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, step = stream(BEFORE), LoiterRule.step

    def fails(self: LoiterRule, now: Any) -> Any:
        if s.ran > 30:
            raise ZeroDivisionError("no")
        return step(self, now)

    monkeypatch.setattr(LoiterRule, "step", fails)
    s.change_after(20, {**AFTER, "rules": [{"id": "lurk", "loiter": {"zone": "left", "seconds": 1}}]})
    s.end()
    applied, reverted = s.of("configuration")
    assert (applied["phase"], reverted["phase"]) == ("applied", "reverted")
    assert "rule 'lurk' failed" in reverted["detail"]
    dark = [seq for seq, light, _ in s.eye.seen if light < 1]
    assert dark[0] == applied["seq"]
    assert reverted["seq"] <= dark[-1] + 1 < FRAMES - 5
    assert s.pipeline.error is None
    assert s.frames().processed == FRAMES
    with pytest.raises(EngineError, match="not running"):
        s.configure(AFTER)


def test_a_camera_that_gives_no_frames_keeps_nobody_waiting(
    stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurable, "_IN_FORCE_S", 0.05)
    s = stream(BEFORE)
    s.settle(0)
    assert not s.configure(AFTER).in_force
    s.end()
    assert [e["phase"] for e in s.of("configuration")] == ["applied"]
    assert all(light < 1 for seq, light, _ in s.eye.seen if seq > 5)


def test_the_frame_rate_changes(stream: Make) -> None:
    s = stream(BEFORE)
    s.change_after(20, {**BEFORE, "flow": {"target_fps": 5}})
    s.end()
    frames = s.frames()
    assert 10 < frames.dropped["gated"] < 40
    assert frames.captured == frames.processed + frames.dropped["gated"] == FRAMES


def test_warnings_that_nobody_named_are_the_same_after_a_change(stream: Make) -> None:
    s = stream(
        {"annotate": False}, kind="driving", source="synth://road?fps=20&width=320&height=180&seconds=2"
    )
    assert s.configure({"annotate": False, "update_s": 5}).changed == ("update_s",)
    s.end()
    (event,) = s.of("configuration")
    assert (event["kept"], event["begun"]) == (["ldw", "fcw"], [])
    assert np.isfinite(s.frames().processed)


def test_a_sink_that_opens_late_does_not_take_off_a_mask_that_came_meanwhile(
    stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, may = threading.Event(), threading.Event()

    def late(*_: Any) -> None:
        opening.set()
        assert may.wait(30)

    monkeypatch.setattr(configurable, "open_sink", late)
    running = stream({})
    running.change(10, {"snapshots": {"best": True}})
    assert opening.wait(30)
    mask = {"masks": [{**EVERYWHERE, "detect": False}]}
    running.change(10, {"snapshots": {"best": True}, "privacy": mask})
    dark = running.light
    may.set()
    for thread in running.pipeline._sinks._replacing:  # type: ignore[attr-defined]
        thread.join(30)
    running.let(FRAMES)
    running.end()
    assert running.light == dark


def test_a_sink_that_is_made_anew_knows_who_is_there(stream: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[Any] = []

    def note(name: str, config: Any, context: Any) -> Sink | None:
        contexts.append(context)
        return None

    s = stream({**BEFORE, "rules": [{"id": "mid", "line": [0.38, 1, 0.38, 0]}]})
    monkeypatch.setattr(configurable, "open_sink", note)
    s.change_after(40, {**AFTER, "snapshots": {"best": True}})
    s.end()
    (context,) = contexts
    assert context.inside == {"all": {1: "person"}}
    assert sum(context.counted["mid"].values()) == 1
    assert context.zones == ("all", "left")


def test_a_camera_that_goes_dark_is_told_with_a_picture_and_its_rules_are_blind(
    tmp_path: Path, stream: Make
) -> None:
    config = {**BEFORE, "health": {"after_s": 1, "clear_s": 0}, "snapshots": {"on": ["camera"]}}
    clip = tmp_path / "dark.mp4"
    black = write_dark(clip, 4.0)
    s = stream(config, source=str(clip))
    s.end()
    start = next(e for e in s.of("capability") if e["name"] == "picture" and e["reason"] == "dark")
    assert (start["phase"], start["rule"], start["because"]["unit"]) == ("start", "camera", "grey levels")
    assert (s.out / start["snapshot"]).stat().st_size > 300
    blind = next(e for e in s.of("capability") if e["name"] == "rules")
    assert (blind["reason"], blind["rules"]) == ("dark", ["all"])
    assert s.pipeline.stats().reason == "dark"
    assert black > 10
    with open_track_log(s.out) as log:
        assert {frame.blind for frame in log.frames} == {None, "dark"}
    with open_track_log(s.out) as log:
        _, (again,) = replay(log, [None])
    assert [e.data["name"] for e in again.events if e.type == "capability"] == ["rules"]


def write_dark(path: Path, seconds: float) -> int:
    """A picture with noise that goes dark after a second. Returns how many frames are dark."""
    rng = np.random.default_rng(3)
    place = rng.integers(0, 255, (12, 16)).repeat(16, axis=0).repeat(16, axis=1)
    frames = []
    for i in range(round(seconds * 15)):
        light = 1.0 if i < 15 else 0.02
        picture = np.clip(place * light + rng.integers(0, 6, place.shape), 0, 255).astype(np.uint8)
        frames.append(np.repeat(picture[..., None], 3, axis=2))
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=15)
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = place.shape[1], place.shape[0], "yuv420p"
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(video.encode(None))
    return len(frames) - 15


def test_filters_are_another_set_between_two_frames(tmp_path: Path) -> None:
    stream = Stream(tmp_path, {})
    stream.begin()
    done = stream.change_after(20, {"filters": {"person": {"max_area": 0.01}}})
    stream.end()
    assert (done.changed, done.in_force) == (("filters.person",), True)
    followed = {seq: bool(ids) for seq, _, ids in stream.eye.seen}
    assert followed[15]
    assert not followed[FRAMES - 1]


def test_a_filter_of_a_label_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    stream = Stream(tmp_path, {"filters": {"persn": {"max_area": 0.01}}})
    with pytest.raises(UsageError, match="'persn'"):
        stream.pipeline.start()


def test_engines_and_rules_of_a_set_take_over_between_the_same_two_frames(
    stream: Make, tmp_path: Path
) -> None:
    s = stream(BEFORE)
    done = s.change_after(20, AFTER, s.other(tmp_path))
    s.end()
    assert done.in_force
    assert done.changed[-1] == "detector"
    assert s.frames().processed == FRAMES
    (event,) = s.of("configuration")
    by_rules = [light < 1 for _, light, _ in s.eye.seen]
    assert [s.ran_by[seq] == "yard@2" for seq, _, _ in s.eye.seen] == by_rules
    assert by_rules.index(True) == event["seq"] > 19
    assert event["releases"] == {"detector": "yard@2"}


def test_set_before_comes_back_as_it_went_and_its_engine_was_warm_all_the_time(
    stream: Make, tmp_path: Path
) -> None:
    s = stream(BEFORE)
    s.let(10)
    s.settle(10)
    for number, (config, engines) in enumerate([(AFTER, s.other(tmp_path)), (BEFORE, s.old)]):
        s._asked.clear()
        thread = threading.Thread(target=s.configure, args=(config, engines))
        thread.start()
        assert s._asked.wait(30)
        s.let(15 + number)
        thread.join()
    s.end()
    assert len(s.opened) == 2, "the first engine was kept"
    by_rules = [light < 1 for _, light, _ in s.eye.seen]
    assert [s.ran_by[seq] == "yard@2" for seq, _, _ in s.eye.seen] == by_rules
    assert (by_rules[0], any(by_rules), by_rules[-1]) == (False, True, False)


def test_engine_with_other_labels_needs_a_new_start_and_nothing_changes(stream: Make, tmp_path: Path) -> None:
    s = stream(BEFORE)
    with pytest.raises(NewStartNeeded, match="the new engine's 1 labels are not the 2 of the running one"):
        s.configure(AFTER, s.other(tmp_path, ("person",)))
    assert s.opened[1].closed.is_set()
    s.end()
    assert set(s.ran_by.values()) == {"yard@1"}
    assert s.of("configuration") == []


def test_set_that_is_only_prepared_leaves_nothing_behind(stream: Make, tmp_path: Path) -> None:
    s = stream(BEFORE)
    config = parse_config(s.kind, AFTER)
    s.pipeline.configure(config, {}, check=True, engines=s.other(tmp_path))
    assert s.opened[1].closed.is_set()
    s.end()
    assert set(s.ran_by.values()) == {"yard@1"}


def test_rule_of_a_set_that_fails_does_not_bring_other_rules_behind_its_engine(
    stream: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s, step = stream(BEFORE), LoiterRule.step

    def fails(self: LoiterRule, now: Any) -> Any:
        if s.ran > 30:
            raise ZeroDivisionError("no")
        return step(self, now)

    monkeypatch.setattr(LoiterRule, "step", fails)
    rules = [{"id": "lurk", "loiter": {"zone": "left", "seconds": 1}}]
    s.change_after(20, {**AFTER, "rules": rules}, s.other(tmp_path))
    s.let(FRAMES)
    assert s.pipeline.wait(30)
    s.pipeline.stop()
    assert "rule 'lurk' failed" in str(s.pipeline.error)
    assert [e["phase"] for e in s.of("configuration")] == ["applied"]
