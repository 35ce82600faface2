"""``run_stream``: one pipeline in this process, and a summary that adds up."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import free_port
from numpy.typing import NDArray
from support.pipelines import (
    BoxEngine,
    ClassEngine,
    OracleEngine,
    box_task,
    bundle_of,
    class_task,
    make_variant,
    open_ort,
    write_clip,
)
from support.web import pictures, web

from edgectl.core.bundle import MEDIA_CONFIG, MEDIA_INDEX, MEDIA_MANIFEST, Bundle, Descriptor, Index
from edgectl.core.errors import EdgectlError, StorageError, UsageError
from edgectl.core.files import digest_of, hex_of
from edgectl.core.histogram import Histogram
from edgectl.pipelines.host.config import parse_config
from edgectl.pipelines.host.run import (
    StreamToRun,
    part_of,
    part_variants,
    percentiles,
    run_stream,
    run_streams,
)
from edgectl.pipelines.kinds.video_runner import VideoPipeline
from edgectl.pipelines.sinks.base import Sink, StreamOutput
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.tasks import load_task


def middle(_: NDArray[Any]) -> list[tuple[float, float, float, float, float, int]]:
    return [(0.4, 0.3, 0.6, 0.8, 0.9, 0)]


def run(tmp_path: Path, source: str, **more: Any) -> Any:
    variant = make_variant(tmp_path / "blobs", box_task())
    return run_stream(
        "surveillance",
        [],
        source,
        variants={"detector": variant},
        open_engine=lambda v: BoxEngine(middle),
        **more,
    )


def test_a_summary_adds_up(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=100)
    events: list[Any] = []
    config = parse_config("surveillance", {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}})
    s = run(tmp_path, str(clip), config=config, out=tmp_path / "out", on_event=events.append)
    assert (s.frames.captured, s.frames.processed, s.frames.dropped) == (100, 100, {})
    assert sum(s.events.values()) == len(events)
    assert s.rules == {"all": 1}
    assert s.stages["engine"]["n"] == 100
    assert s.stages["engine"]["p90"] is not None
    assert s.stages["engine"]["p99"] is None  # 100 samples do not tell
    assert {p.name for p in s.outputs} == {"events.jsonl", "annotated.mp4"}


def test_an_endless_source_stops_after_its_seconds(tmp_path: Path) -> None:
    seen: list[Any] = []
    s = run(
        tmp_path,
        "synth://yard?fps=30&width=160&height=96",
        seconds=1.2,
        on_progress=lambda s, share: seen.append(share),
    )
    assert 1.0 < s.seconds < 5
    assert s.frames.in_flight == 0
    assert len(seen) >= 2
    assert seen[-1] == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("source", ["file", "synth://yard?fps=10&paced=0&width=96&height=64"])
def test_seconds_are_those_of_the_source_not_of_the_clock(tmp_path: Path, source: str) -> None:
    clip = write_clip(tmp_path / "c.mp4", frames=100, fps=10)
    shares: list[float | None] = []
    uri = str(clip) if source == "file" else source
    s = run(tmp_path, uri, seconds=3.0, on_progress=lambda s, share: shares.append(share))
    assert (s.frames.captured, s.frames.processed, s.frames.dropped) == (30, 30, {})
    assert shares[-1] == 1.0


def test_progress_of_a_file_is_known(tmp_path: Path) -> None:
    shares: list[float | None] = []
    run(
        tmp_path,
        str(write_clip(tmp_path / "c.mp4", frames=30)),
        on_progress=lambda s, share: shares.append(share),
    )
    assert shares[-1] == 1.0


def test_a_listener_that_fails_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    """``edgectl run … | head``: nobody reads, so nothing needs to run."""

    def gone(_: Any) -> None:
        raise BrokenPipeError

    config = parse_config("surveillance", {"zones": {"all": {"polygon": [0, 0, 1, 0, 1, 1, 0, 1]}}})
    with pytest.raises(BrokenPipeError):
        run(tmp_path, "synth://yard?fps=30&width=160&height=96", config=config, on_event=gone)


def test_a_full_disk_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/events.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="full"):
        run(tmp_path, str(write_clip(tmp_path / "c.mp4")), out=tmp_path / "out")


def test_parts_come_from_the_task(tmp_path: Path) -> None:
    assert part_of(make_variant(tmp_path / "a", box_task())) == "detector"
    assert part_of(make_variant(tmp_path / "b", load_task("silero-vad"))) == "vad"
    assert part_of(make_variant(tmp_path / "c", load_task("keyword"))) == "keyword"
    with pytest.raises(UsageError, match="no pipeline runs"):
        part_of(make_variant(tmp_path / "d", load_task("tensor")))


def test_percentiles_need_samples() -> None:
    h = Histogram()
    for i in range(6):
        h.record(1000.0 + i)
    assert percentiles(h) == {"p50": None, "p90": None, "p99": None, "max": 1.005, "n": 6}


def oracle(
    tmp_path: Path, kind: Any, scene_name: str, seed: int, seconds: int, config: dict[str, Any]
) -> Any:
    scene = open_scene(scene_name, seed=seed)
    variant = make_variant(tmp_path / "oracle", box_task(scene.labels, (scene.width, scene.height)))
    uri = f"synth://{scene_name}?seed={seed}&paced=0&seconds={seconds}"
    return run_stream(
        kind,
        [],
        uri,
        parse_config(kind, config),
        variants={"detector": variant},
        open_engine=lambda v: OracleEngine(scene),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_counts_over_a_line_are_the_truth_of_the_scene(tmp_path: Path, seed: int) -> None:
    s = oracle(tmp_path, "surveillance", "yard", seed, 40, {"rules": [{"id": "l", "line": [0.5, 0, 0.5, 1]}]})
    scene = open_scene("yard", seed=seed)
    paths: dict[int, list[float]] = {}
    for seq in range(40 * 15):
        truth = scene.truth(seq)
        for ident, box in zip(truth.ids.tolist(), truth.boxes, strict=True):
            paths.setdefault(ident, []).append(float(box[0] + box[2]) / 2 - scene.width / 2)
    # pixels: whoever turns or is cut off nearer to the line is not asked for
    beyond = 40
    clear = [np.array(p) for p in paths.values() if abs(p[0]) > beyond and abs(p[-1]) > beyond]
    expected = sum(int(p[0] * p[-1] < 0) for p in clear)
    counted = sum(sum(v.values()) for v in s.last_counts["l"].values())
    assert expected >= 8
    assert expected <= counted <= expected + len(paths) - len(clear)
    assert s.events["tracked_object:new"] <= len(paths) + 2


@pytest.mark.slow
def test_free_driving_on_the_synthetic_road_has_lanes_and_no_warning(tmp_path: Path) -> None:
    s = oracle(tmp_path, "driving", "road", 2, 40, {})
    assert s.counters["frames_with_lane"] == s.frames.processed == 600
    assert not [e for e in s.events if e.startswith(("lane_departure", "collision_warning"))]


@pytest.mark.slow
def test_people_on_the_real_clip_are_counted_one_track_each(tmp_path: Path, shared: Path) -> None:
    """Six people come in, stand still, and leave to the right one after another."""
    variant = make_variant(
        tmp_path / "blobs", load_task("fastestdet"), (shared / "models/fastestdet-352.onnx").read_bytes()
    )
    config = parse_config(
        "surveillance",
        {
            "classes": ["person"],
            "track": {"confirm_s": 0.3, "lost_s": 1.5},
            "rules": [{"id": "gate", "line": [0.72, 1.0, 0.72, 0.0], "anchor": "center"}],
        },
    )
    clip = shared / "media/one-by-one-person-detection.mp4"
    s = run_stream(
        "surveillance", [], str(clip), config, variants={"detector": variant}, open_engine=open_ort
    )
    assert s.frames.processed == 1394
    assert s.last_counts["gate"] == {"in": {"person": 6}, "out": {}}
    assert s.events["tracked_object:new"] == 6


@pytest.mark.slow
def test_the_real_highway_has_lanes_and_vehicles_and_no_warning(tmp_path: Path, shared: Path) -> None:
    variant = make_variant(
        tmp_path / "blobs", load_task("fastestdet"), (shared / "models/fastestdet-352.onnx").read_bytes()
    )
    config = parse_config("driving", {"ego": {"speed_mps": 27}})
    clip = shared / "media/highway-lanes.mp4"
    s = run_stream("driving", [], str(clip), config, variants={"detector": variant}, open_engine=open_ort)
    assert s.counters["frames_with_lane"] == s.frames.processed == 221
    assert s.events["tracked_object:new"] >= 5
    assert not [e for e in s.events if e.startswith(("lane_departure", "collision_warning"))]


def test_several_streams_share_an_engine_and_a_dead_one_does_not_stop_the_others(tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{i}.mp4", frames=20 + 10 * i) for i in range(2)]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    engines: list[BoxEngine] = []
    events: list[Any] = []
    told: list[tuple[str, str, bool]] = []

    def opened(_: Any) -> BoxEngine:
        engines.append(BoxEngine(middle))
        return engines[-1]

    def failed(name: str, error: EdgectlError) -> None:
        told.append((name, error.code, any(engine.closed.is_set() for engine in engines)))

    trace = tmp_path / "trace.json"
    sources = {"gate": clips[0], "dead": tmp_path / "none.mp4", "yard": clips[1], "bad": broken}
    results = run_streams(
        "surveillance",
        [],
        [StreamToRun(name, str(uri), out=tmp_path / name) for name, uri in sources.items()],
        on_event=events.append,
        variants={"detector": make_variant(tmp_path / "blobs", box_task())},
        open_engine=opened,
        trace=trace,
        on_failure=failed,
    )
    assert [r.name for r in results] == list(sources)
    # at once, while the others run
    assert sorted(told) == [("bad", "data", False), ("dead", "source", False)]
    assert [None if r.summary is None else r.summary.frames.processed for r in results] == [
        20,
        None,
        30,
        None,
    ]
    assert [None if r.error is None else r.error.code for r in results] == [None, "source", None, "data"]
    assert {e["stream"] for e in events} == {"gate", "yard"}
    for name in ("gate", "yard"):
        lines = (tmp_path / name / "events.jsonl").read_text().splitlines()
        assert len(lines) == sum(e["stream"] == name for e in events)
    assert all(engine.closed.is_set() for engine in engines)
    threads = {
        e["args"]["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["name"] == "thread_name"
    }
    assert {"capture-gate", "capture-yard", "analysis-gate", "analysis-yard", "engine-double"} <= threads


def patient_runs(tmp_path: Path, sources: dict[str, str], **more: Any) -> Any:
    return run_streams(
        "surveillance",
        [],
        [StreamToRun(name, uri) for name, uri in sources.items()],
        variants={"detector": make_variant(tmp_path / "blobs", box_task())},
        open_engine=lambda v: BoxEngine(middle),
        patient=True,
        **more,
    )


def test_a_camera_that_is_off_at_the_start_is_waited_for_while_the_others_run(tmp_path: Path) -> None:
    """It is told once what is wrong, and seen when it is there."""
    port, stop, back = free_port(), threading.Event(), contextlib.ExitStack()
    events: list[dict[str, Any]] = []
    seen: dict[str, Any] = {}

    def moving(stats: dict[str, Any], share: float | None) -> None:
        if len(stats) < 2 or not stats["yard"].frames.processed:
            return
        if stats["off"].state == "outage" and not seen:
            seen["off"] = stats["off"]
            back.enter_context(web(pictures(itertools.repeat(jpeg)), port=port))
        if stats["off"].frames.processed:
            stop.set()

    jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()
    sources = {"off": f"http://127.0.0.1:{port}/", "yard": "synth://yard?fps=30&width=160&height=96"}
    with back:
        results = patient_runs(tmp_path, sources, on_event=events.append, on_progress=moving, stop=stop)
    assert [r.error for r in results] == [None, None]
    assert seen["off"].reason == "refused"
    assert "Connection refused" in seen["off"].detail
    assert seen["off"].retry_s is not None
    told = [(e["phase"], e["reason"]) for e in events if e["stream"] == "off" and e.get("name") == "source"]
    assert told[:2] == [("start", "refused"), ("end", "refused")]


def test_a_camera_that_never_came_within_the_seconds_of_a_run_is_its_error(tmp_path: Path) -> None:
    sources = {"off": f"rtsp://127.0.0.1:{free_port()}/x", "yard": "synth://yard?width=160&height=96"}
    off, yard = patient_runs(tmp_path, sources, seconds=1.5)
    assert (off.error.code, yard.error) == ("source", None)
    assert "no picture came in 1.5 s: cannot " in off.error.message
    assert "Connection refused" in off.error.message


def test_a_password_that_is_wrong_is_not_waited_for(tmp_path: Path) -> None:
    def refuse(handler: Any) -> None:
        handler.send_error(401)

    with web(refuse) as url:
        address = url.replace("//", "//me:secret@")
        (result,) = patient_runs(tmp_path, {"gate": address})
    assert result.summary is None
    assert result.error.code == "source"
    assert "401" in result.error.message
    assert "secret" not in str(result.error)


def test_a_camera_that_does_not_answer_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, stop = threading.Event(), threading.Event()

    class Slow(VideoPipeline):
        def start(self) -> None:
            if self._args.stream == "silent":
                assert running.wait(60)
            super().start()

    monkeypatch.setattr("edgectl.pipelines.kinds.surveillance.pipeline.VideoPipeline", Slow)

    def started(pipelines: Any) -> None:
        if "yard" in pipelines:
            running.set()
        else:
            stop.set()

    source = "synth://yard?fps=30&width=160&height=96"
    results = patient_runs(tmp_path, {"silent": source, "yard": source}, started=started, stop=stop)
    assert [r.error for r in results] == [None, None]


def test_two_streams_of_one_name_are_refused(tmp_path: Path) -> None:
    streams = [StreamToRun("gate", "a.mp4"), StreamToRun("gate", "b.mp4")]
    with pytest.raises(UsageError, match="two streams are called 'gate'"):
        run_streams("surveillance", [], streams)


def test_a_sink_that_is_given_gets_every_frame_and_is_closed(tmp_path: Path) -> None:
    class Counting(Sink):
        name = "counting"
        pictures = True
        seen = 0
        closed = False

        def write(self, output: StreamOutput) -> None:
            self.seen += output.frame is not None

        def close(self) -> None:
            self.closed = True

    sink = Counting()
    summary = run(tmp_path, str(write_clip(tmp_path / "c.mp4", frames=20)), sinks=[sink])
    assert (sink.seen, sink.closed) == (20, True)
    assert summary.frames.processed == 20


def test_a_run_that_is_asked_to_stop_gives_its_summary(tmp_path: Path) -> None:
    stop = threading.Event()
    summary = run(
        tmp_path,
        "synth://yard?fps=30&width=160&height=96",
        stop=stop,
        on_progress=lambda stats, share: stop.set() if stats.frames.processed else None,
    )
    assert summary.frames.processed > 0
    assert summary.frames.in_flight == 0


def bundle(folder: Path, *variants: tuple[str, tuple[str, ...], tuple[str, ...]]) -> Bundle:
    """Of variants: name, what each is best at, what it requires."""
    blobs = folder / "blobs" / "sha256"
    entries = []
    for name, preferences, requires in variants:
        made = make_variant(blobs, box_task(), name=name)
        config = made.config.model_copy(update={"preferences": preferences, "requires": requires})
        data = config.model_dump_json().encode()
        (blobs / hex_of(digest_of(data))).write_bytes(data)
        blob = Descriptor(mediaType=MEDIA_CONFIG, digest=digest_of(data), size=len(data))
        manifest = made.manifest.model_copy(update={"config": blob}).encode()
        (blobs / hex_of(digest_of(manifest))).write_bytes(manifest)
        entries.append(Descriptor(mediaType=MEDIA_MANIFEST, digest=digest_of(manifest), size=len(manifest)))
    (folder / "index.json").write_bytes(
        Index(mediaType=MEDIA_INDEX, manifests=tuple(entries), annotations={}).encode()
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return Bundle(folder)


def test_a_bundles_other_variants_go_along_for_less_work(tmp_path: Path) -> None:
    whole = bundle(
        tmp_path / "whole",
        ("fast", ("fast", "accurate"), ()),
        ("low", ("low-power",), ()),
        ("small", ("small-input",), ()),
    )
    slot = part_variants([whole], frozenset())["detector"]
    assert slot.variant.config.name == "fast"
    assert {name: v.config.name for name, v in slot.lighter.items()} == {
        "low-power": "low",
        "small-input": "small",
    }


def test_a_variant_that_this_machine_cannot_run_or_runs_already_does_not_go_along(tmp_path: Path) -> None:
    one = bundle(
        tmp_path / "one", ("all", ("fast", "low-power"), ()), ("small", ("small-input",), ("sm:8.7",))
    )
    assert part_variants([one], frozenset())["detector"].lighter == {}
    small = part_variants(
        [bundle(tmp_path / "two", ("small", ("small-input",), ()))], frozenset(), prefer="small-input"
    )
    assert small["detector"].lighter == {}


GEAR = {"part": "gear", "min_height_px": 8, "every_s": 0, "votes": 1, "again_s": None}


def _open_either(variant: Any) -> Any:
    return BoxEngine(middle) if variant.config.task.name == "double" else ClassEngine(lambda crop: [4.0, 0.0])


def test_a_bundle_is_taken_for_the_part_that_it_is_named_for(tmp_path: Path) -> None:
    clip, events = write_clip(tmp_path / "c.mp4"), []
    detector = Bundle(bundle_of(tmp_path / "yard", box_task(), b"boxes"))
    gear = Bundle(bundle_of(tmp_path / "gear", class_task(), b"classes"))
    s = run_stream(
        "surveillance",
        [detector],
        str(clip),
        parse_config("surveillance", {"second_stage": [GEAR]}),
        on_event=events.append,
        parts={"gear": gear},
        open_engine=_open_either,
    )
    assert s.crops["gear"].captured == s.crops["gear"].processed == 1
    told = [e["attributes"]["gear"]["value"] for e in events if "attributes" in e]
    assert set(told) == {"helmet"}
    assert events[0]["releases"] == {"detector": "double@1.0.0", "gear": "double@1.0.0"}


def test_each_stream_gets_the_parts_that_it_names(tmp_path: Path) -> None:
    clip, events = write_clip(tmp_path / "c.mp4"), []
    plain, second = (parse_config("surveillance", {"second_stage": s}) for s in ([], [GEAR]))
    variants = {
        "detector": make_variant(tmp_path / "a", box_task()),
        "gear": make_variant(tmp_path / "b", class_task()),
    }
    streams = [StreamToRun("plain", str(clip), plain), StreamToRun("second", str(clip), second)]
    results = run_streams(
        "surveillance", [], streams, on_event=events.append, variants=variants, open_engine=_open_either
    )
    assert [r.error for r in results] == [None, None]
    assert {e["stream"] for e in events if "attributes" in e} == {"second"}
    with pytest.raises(UsageError, match="a bundle for the part 'gear', which no stream has"):
        run_streams("surveillance", [], streams[:1], variants=variants, open_engine=_open_either)


def test_two_bundles_of_one_part_are_refused(tmp_path: Path) -> None:
    both = [Bundle(bundle_of(tmp_path / name, box_task(), b"boxes")) for name in "ab"]
    with pytest.raises(UsageError, match="both for the part 'detector'") as e:
        part_variants(both, frozenset())
    assert "PART=FOLDER" in str(e.value.hint)
