"""Rows and points of the page's table "Video", and of still pictures in "Audio and driving"."""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from cases_common import Check, Outcome, Place, Run

__all__ = ["CHECKS"]

LINE = "{id: mid, line: [0.65, 1.0, 0.65, 0.0], classes: [person]}"
WHOLE = "[0,0, 1,0, 1,1, 0,1]"


@functools.cache
def folder() -> Path:
    """One folder for all rows of a bench run."""
    path = Path(tempfile.mkdtemp(prefix="edgectl-video-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def media(cases: Path) -> Path:
    """What the page's own script makes."""
    out = folder() / "media"
    subprocess.run([sys.executable, str(cases / "make_media.py"), str(out)], check=True, timeout=300)
    return out


_BUNDLES: dict[Path, Path] = {}


def bundle(place: Place) -> Path:
    if place.cases not in _BUNDLES:
        out = folder() / "bundle"
        clip = place.cases.parent / "media" / "one-by-one-person-detection.mp4"
        run = place.edgectl(
            "build",
            place.cases.parent / "models" / "fastestdet-352.onnx",
            "--task",
            "fastestdet",
            "--profile",
            "cpu",
            "--calibration",
            clip,
            "--minutes",
            1,
            "--out",
            out,
        )
        if run.code:
            raise RuntimeError(f"the bundle was not built: {run.last_words}")
        _BUNDLES[place.cases] = out
    return _BUNDLES[place.cases]


class Seen:
    """One run of the product on a source."""

    def __init__(self, run: Run) -> None:
        self.run = run
        if run.code or run.traceback:
            raise RuntimeError(f"exit {run.code}: {run.last_words}")
        value = run.json()
        self.records: list[dict[str, Any]] = value["records"]
        self.frames: dict[str, Any] = value["frames"]
        self.told = [r["reason"] for r in self.records if r["type"] == "capability"]
        self.crossings = sum(r["type"] == "line_crossing" for r in self.records)
        self.tracks = len({r["track"] for r in self.records if r["type"] == "tracked_object"})

    @property
    def adds_up(self) -> bool:
        f = self.frames
        return bool(
            f["captured"] == f["processed"] + sum(f["dropped"].values()) + f["in_flight"]
            and not f["in_flight"]
        )

    def outcome(self, held: bool, more: str = "") -> Outcome:
        told = ", ".join(dict.fromkeys(self.told))
        figure = f"{self.crossings} crossings, {self.tracks} tracks, told: {told}; dropped {self.frames['dropped'] or 'none'}"
        return Outcome(held and self.adds_up, figure + more)


def see(
    place: Place, source: object, config: str = f"classes: [person]\nrules: [{LINE}]\n", *more: object
) -> Seen:
    path = place.out / "config.yaml"
    path.write_text(config)
    return Seen(
        place.edgectl(
            "run",
            "surveillance",
            "--bundle",
            bundle(place),
            "--source",
            source,
            "--config",
            path,
            "--json",
            *more,
        )
    )


def base(place: Place) -> Outcome:
    s = see(place, media(place.cases) / "base.mp4")
    return s.outcome((s.crossings, s.tracks, s.told) == (1, 2, ["ended"]))


def restart(place: Place) -> Outcome:
    s = see(place, media(place.cases) / "timestamps-restart.ts")
    return s.outcome(s.crossings == 2 and s.told.count("clock_restarted") == 1)


def rotated(place: Place) -> Outcome:
    s = see(place, media(place.cases) / "rotated.mp4")
    return s.outcome((s.crossings, s.tracks) == (1, 2))


def damaged(place: Place) -> Outcome:
    s = see(place, media(place.cases) / "damaged.mp4")
    return s.outcome(s.tracks == 2 and s.crossings == 1 and s.frames["dropped"].get("corrupt", 0) > 0)


def grey_levels(path: Path) -> float:
    """Mean error of the product's pictures against those of the ffmpeg on this machine."""
    from edgectl.pipelines.sources import EndOfStream, open_source

    source = open_source(str(path))
    source.open()
    pictures = []
    try:
        while len(pictures) < 20:
            frame = source.read(5)
            assert frame is not None
            pictures.append(frame.bgr().astype(np.int16))
    except EndOfStream:
        pass
    source.close()
    height, width = pictures[0].shape[:2]
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(path),
        "-vsync",
        "0",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "bgr24",
        "-",
    ]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    return float(np.mean([np.abs(a - b).mean() for a, b in zip(pictures, theirs, strict=False)]))


def full_range(place: Place) -> Outcome:
    error = grey_levels(media(place.cases) / "full-range.mp4")
    return Outcome(error <= 1.5, f"mean error {error:.2f} grey levels against ffmpeg")


FORMATS = {
    "limited601.mp4": "-c:v libx264 -crf 10",
    "limited709.mp4": "-vf scale=out_color_matrix=bt709 -colorspace bt709 -c:v libx264 -crf 10",
    "full709.mp4": "-vf scale=out_color_matrix=bt709:out_range=full -colorspace bt709 -color_range pc -c:v libx264 -crf 10",
    "full.ts": "-vf scale=out_range=full -color_range pc -c:v libx264 -crf 10",
    "ten-bit.mp4": "-vf scale=out_range=full -color_range pc -pix_fmt yuv420p10le -c:v libx264 -crf 10",
    "422.mp4": "-pix_fmt yuv422p -c:v libx264 -crf 10",
    "444.mp4": "-pix_fmt yuv444p -c:v libx264 -crf 10",
    "grey.mp4": "-pix_fmt gray -c:v libx264 -crf 10",
    "grey16.mkv": "-pix_fmt gray16le -c:v ffv1",
    "mjpeg.avi": "-c:v mjpeg -q:v 2",
    "mjpeg422.avi": "-pix_fmt yuvj422p -c:v mjpeg -q:v 2",
    "rgb.mkv": "-pix_fmt rgb24 -c:v png",
    "rgb-limited.mkv": "-pix_fmt rgb24 -color_range tv -c:v png",
    "yuyv.avi": "-pix_fmt yuyv422 -c:v rawvideo",
    "odd.mkv": "-vf crop=767:431:0:0:exact=1 -pix_fmt yuv420p -c:v ffv1",
}


def ffmpeg(*args: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, args)], check=True, timeout=120)


def formats(place: Place) -> Outcome:
    errors = {}
    for name, options in FORMATS.items():
        ffmpeg("-ss", 10, "-i", media(place.cases) / "base.mp4", "-t", 1, *options.split(), place.out / name)
        errors[name] = grey_levels(place.out / name)
    worst = max(errors, key=lambda name: errors[name])
    return Outcome(
        errors[worst] <= 1.5, f"{len(errors)} formats, worst {worst} {errors[worst]:.2f} grey levels"
    )


def door(place: Place) -> Outcome:
    config = f"""classes: [person]
zones: {{door: {{polygon: {WHOLE}}}}}
rules:
  - {{id: crowd, occupancy: {{zone: door, high: 1}}}}
  - {{id: lurk, loiter: {{zone: door, seconds: 3}}}}
"""
    s = see(place, media(place.cases) / "door.mp4", config)
    kinds = {
        k: sum(r["type"] == k and r.get("phase") in ("enter", "start") for r in s.records)
        for k in ("zone", "occupancy", "loitering")
    }
    new = sum(r["type"] == "tracked_object" and r["phase"] == "new" for r in s.records)
    return s.outcome(all(n == new > 0 for n in kinds.values()), f"; {kinds}")


def stills(place: Place) -> Outcome:
    found = []
    for source in ("stills", "stills/scene.png"):
        s = see(place, media(place.cases) / source, "classes: [person]\n")
        found += [r["found"] for r in s.records if r["type"] == "detections"]
    return Outcome(found == [{"person": 1}] * 2, f"found {found}")


def far_apart(place: Place) -> Outcome:
    """Four pictures of the street a second apart, each with another scene."""
    pictures = place.out / "pictures"
    pictures.mkdir()
    for n, at in enumerate((2, 5, 8, 12)):
        ffmpeg(
            "-ss",
            at,
            "-i",
            place.cases.parent / "media" / "car-detection.mp4",
            "-frames:v",
            1,
            pictures / f"kitti-{n}.png",
        )
    answers = []
    for kind in ("driving", "surveillance"):
        run = place.edgectl("run", kind, "--bundle", bundle(place), "--source", pictures, "--json")
        records = [r for r in Seen(run).records if r["type"] == "detections"]
        answers.append([sum(r["found"].values()) for r in records])
    return Outcome(
        all(len(a) == 4 and sum(a) > 0 for a in answers),
        f"objects per picture, driving and surveillance: {answers}",
    )


def clocks(place: Place) -> Outcome:
    """Times that jump by hours, go back a little, and are not there at all; another codec in the middle."""
    start = media(place.cases) / "base.mp4"
    parts = {
        "a.ts": "-t 12 -c:v libx264",
        "late.ts": "-ss 12 -c:v libx264 -output_ts_offset 7205 -muxdelay 0",
        "back.ts": "-ss 12 -c:v libx264 -output_ts_offset 11 -muxdelay 0",
        "other.ts": "-ss 12 -vf scale=640:360 -c:v mpeg2video -q:v 2",
    }
    for name, options in parts.items():
        before, _, after = options.partition(" -c:v") if options.startswith("-ss") else ("", "", options)
        rest = f"-c:v{after}".split() if before else after.split()
        if " -vf" in before:
            before, vf = before.split(" -vf")
            rest = ["-vf", vf.strip(), *rest]
        ffmpeg(*before.split(), "-i", start, *rest, place.out / name)
    ffmpeg("-i", start, "-c:v", "libx264", "-bsf:v", "h264_mp4toannexb", place.out / "raw.h264")
    expected = {"late.ts": "clock_jumped", "back.ts": "clock_restarted", "other.ts": "codec_changed"}
    held, words = True, []
    for name, reason in expected.items():
        whole = place.out / f"joined-{name}"
        whole.write_bytes((place.out / "a.ts").read_bytes() + (place.out / name).read_bytes())
        s = see(place, whole)
        held = held and s.crossings == 1 and reason in s.told and s.adds_up
        words.append(f"{name}: {s.crossings} crossing, {', '.join(s.told)}")
    s = see(place, place.out / "raw.h264")
    held = held and s.told == ["clock_missing", "ended"]
    return Outcome(held, "; ".join([*words, f"raw.h264: {', '.join(s.told)}"]))


def cut_short(place: Place) -> Outcome:
    ffmpeg("-i", media(place.cases) / "base.mp4", "-c", "copy", place.out / "whole.mkv")
    data = (place.out / "whole.mkv").read_bytes()
    (place.out / "cut.mkv").write_bytes(data[: len(data) * 6 // 10])
    s = see(place, place.out / "cut.mkv")
    return s.outcome(s.told == ["truncated"])


TWO_LABELS = """
name = "two-labels"
metric = "detection"
labels = ["car", "truck"]
[input]
kind = "image"
width = 64
height = 64
fit = "stretch"
[decode]
kind = "boxes-scores"
box_unit = "relative"
score = 0.3
"""


def two_labels(place: Place) -> Outcome:
    """A model that calls the one bright square both car and truck, a pixel apart; the square walks over
    the line once."""
    two_label_model(place.out / "two.onnx")
    (place.out / "two.toml").write_text(TWO_LABELS)
    square = "color=black:size=320x320:rate=10:duration=6[b];color=white:size=64x64:rate=10:duration=6[s];[b][s]overlay=x='10+35*t':y=128:shortest=1"
    ffmpeg("-filter_complex", square, "-c:v", "libx264", "-crf", 10, place.out / "square.mp4")
    run = place.edgectl(
        "build",
        "two.onnx",
        "--task",
        "two.toml",
        "--profile",
        "cpu",
        "--calibration",
        "square.mp4",
        "--minutes",
        0.2,
        "--out",
        "two",
    )
    if run.code:
        return Outcome(False, f"the bundle was not built: {run.last_words}")
    (place.out / "line.yaml").write_text("rules: [{id: mid, line: [0.5, 1.0, 0.5, 0.0]}]\n")
    s = Seen(
        place.edgectl("run", "surveillance", "-b", "two", "-s", "square.mp4", "-c", "line.yaml", "--json")
    )
    return s.outcome((s.crossings, s.tracks) == (1, 1))


def two_label_model(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> Any:
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["luma"]),
        helper.make_node("ReduceMax", ["luma"], ["columns"], axes=[1, 2], keepdims=0),
        helper.make_node("Greater", ["columns", "half"], ["bright"]),
        helper.make_node("Cast", ["bright"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["ones"], ["first"], axis=1, keepdims=1),
        helper.make_node("Cast", ["first"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "step"], ["x0"]),
        helper.make_node("Unsqueeze", ["x0", "axis"], ["x1"]),
        helper.make_node("Mul", ["x1", "along"], ["moved"]),
        helper.make_node("Add", ["moved", "box"], ["boxes"]),
        helper.make_node("Mul", ["x1", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "score"], ["scores"]),
    ]
    constants = [
        constant("w", np.full((1, 3, 1, 1), 1 / 3, np.float32)),
        constant("half", np.float32(0.5)),
        constant("step", np.float32(1 / 64)),
        constant("axis", np.array([1], np.int64)),
        constant("along", np.array([[[1, 0, 1, 0], [1, 0, 1, 0]]], np.float32)),
        constant("box", np.array([[[0, 0.4, 0.2, 0.6], [0.004, 0.396, 0.204, 0.604]]], np.float32)),
        constant("zero", np.zeros((1, 2, 2), np.float32)),
        constant("score", np.array([[[0.8, 0.0], [0.0, 0.75]]], np.float32)),
    ]
    graph = helper.make_graph(
        nodes,
        "two-labels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 2, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, 2]),
        ],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def killed(place: Place) -> Outcome:
    out = place.out / "run"
    command = [
        sys.executable,
        "-m",
        "edgectl.cli",
        "run",
        "surveillance",
        "--bundle",
        str(bundle(place)),
        "--source",
        f"{media(place.cases) / 'base.mp4'}?paced=1",
        "--out",
        str(out),
    ]
    with subprocess.Popen(
        command, cwd=place.out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (out / "annotated.mp4").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        started = time.monotonic()
        while time.monotonic() < started + 8 and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    videos = [p for p in out.iterdir() if "annotated" in p.name]
    if not videos:
        return Outcome(False, "no video is left")
    probe = [
        "ffprobe",
        "-v",
        "error",
        "-count_frames",
        "-show_entries",
        "stream=nb_read_frames",
        "-of",
        "json",
        str(videos[0]),
    ]
    done = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=60)
    streams = json.loads(done.stdout or "{}").get("streams") or [{}]
    frames = int(streams[0].get("nb_read_frames", 0))
    return Outcome(frames >= 40, f"{frames} frames of 8 s at 10 fps play, {videos[0].stat().st_size} bytes")


def clock_time(place: Place) -> Outcome:
    recorded = place.edgectl(
        "run", "surveillance", "-b", bundle(place), "-s", media(place.cases) / "base.mp4"
    )
    live = place.edgectl(
        "run",
        "surveillance",
        "-b",
        bundle(place),
        "-s",
        f"{media(place.cases) / 'base.mp4'}?paced=1",
        "--seconds",
        9,
    )
    today = time.strftime("%Y-%m-%d")
    places = re.findall(r"^\d:\d\d:\d\d\.\d{3}  tracked_object", recorded.out, re.M)
    times = re.findall(rf"^{today} \d\d:\d\d:\d\d\.\d{{3}}  tracked_object", live.out, re.M)
    seconds = re.findall(r"^ *\d+\.\d\d s ", recorded.out + live.out, re.M)
    lines = [text.splitlines()[0][:40] for text in (recorded.out, live.out) if text]
    return Outcome(bool(places and times and not seconds), " | ".join(lines))


def through_tracker(boxes: Any, fps: float) -> int:
    """Crossings of a line in the middle of 1280 × 720 by one box per frame (None: the frame was dropped)."""
    from edgectl.pipelines.host.config import parse_config
    from edgectl.pipelines.rules import RuleSet
    from edgectl.pipelines.video.decode import Detections
    from edgectl.pipelines.video.tracker import Tracker

    tracker, rules = (
        Tracker(),
        RuleSet(
            parse_config("surveillance", {"rules": [{"id": "mid", "line": [0.5, 1.0, 0.5, 0.0]}]}),
            ("person",),
        ),
    )
    crossings = 0
    for i, box in enumerate(boxes):
        if box is not None:
            xyxy = np.clip(np.array([box], np.float32), 0, [1280, 720, 1280, 720]).astype(np.float32)
            found = (
                Detections(xyxy, np.array([0.9], np.float32), np.zeros(1, np.int32))
                if np.ptp(xyxy[0, ::2]) > 2
                else Detections.none()
            )
            events = rules.step(tracker.update(found, i / fps, 1280, 720), i / fps)
            crossings += sum(e.type == "line_crossing" for e in events)
    return crossings


def standing(place: Place) -> Outcome:
    rates = []
    for height in (80, 200, 400):
        rng = np.random.default_rng(height)
        still = np.array([640 - height / 5, 200, 640 + height / 5, 200 + height])
        rates.append(through_tracker((still + rng.normal(0, 12, 4) for _ in range(15 * 60 * 5)), 15) / 5)
    return Outcome(max(rates) < 1, f"boxes of 80, 200 and 400 px: {rates} crossings a minute")


def fast(place: Place) -> Outcome:
    hits = {}
    for drops in (0.3, 0.5, 0.7):
        hits[drops] = 0
        for seed in range(30):
            rng = np.random.default_rng(seed)
            walk: list[Any] = []
            for i in range(75):  # 2 s across the picture, and 3 s of an empty one
                x = 1280 * i / 30
                walk.append(
                    None
                    if rng.random() < drops
                    else np.array([x - 40, 300, x + 40, 500]) + rng.normal(0, 2, 4)
                )
            hits[drops] += through_tracker(walk, 15) == 1
    return Outcome(
        hits[0.7] >= 20, f"counted once in {list(hits.values())} of 30 runs at 30, 50 and 70 % drops"
    )


CHECKS: dict[str, Check] = {
    "`base.mp4`": base,
    "`timestamps-restart.ts`": restart,
    "`rotated.mp4`": rotated,
    "`damaged.mp4`": damaged,
    "`full-range.mp4`": full_range,
    f"`door.mp4` with zone `{WHOLE}`, occupancy, loitering": door,
    "`stills/`, `stills/scene.png`": stills,
    "`kitti-*.png` as a folder (1 s apart)": far_apart,
    "clocks of recordings that jump, go back or are missing, and another codec": clocks,
    "colours of formats that cameras send, against ffmpeg": formats,
    "a recording that is cut short": cut_short,
    "one object that a model gives two labels": two_labels,
    "a standing box on the line with 12 px of noise": standing,
    "an object that crosses the picture in 2 s at 70 % drops": fast,
    "`kill -9` while the annotated video is written": killed,
    "the terminal shows a clock time, or the place in a recording": clock_time,
}
