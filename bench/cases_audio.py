"""The rows of the page on sound and driving (``bench/cases.py``)."""

from __future__ import annotations

import json
import os
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cases_common import Check, Outcome, Place, Run

from edgectl.core.bundle import Bundle
from edgectl.engines.finalise.open import open_model
from edgectl.models import reference
from edgectl.pipelines.audio.blocks import RATE, AudioBlock
from edgectl.pipelines.kinds.base import open_variant
from edgectl.pipelines.kinds.speech.session import SpeechConfig, SpeechSession
from edgectl.pipelines.sources import read_audio
from edgectl.pipelines.stream.events import Event
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.synth.kiosk import KioskScene
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.lanes import LaneFinder

__all__ = ["CHECKS"]

Sound = np.ndarray[Any, np.dtype[np.float64]]


def media(place: Place, name: str) -> Path:
    return place.cases.parent / "media" / name


def speech(place: Place, seconds: float = 60.0) -> Sound:
    return np.asarray(read_audio(media(place, "speech-60s.wav")), np.float64)[: round(seconds * RATE)]


def write(path: Path, sound: Sound, rate: int = RATE) -> Path:
    """``(n,)`` or ``(n, channels)`` in ±1 as 16-bit WAV."""
    sound = sound.reshape(len(sound), -1)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(sound.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.clip(np.rint(sound * 32767), -32768, 32767).astype("<i2").tobytes())
    return path


def vad_bundle(place: Place) -> Path:
    bundle = place.out / "vad"
    if not bundle.exists():
        model = place.cases.parent / "models" / "silero-vad-16k.onnx"
        built = place.edgectl(
            "build",
            model,
            "--task",
            "silero-vad",
            "--profile",
            "cpu",
            "--random-calibration",
            "--out",
            bundle,
        )
        if built.code:
            raise RuntimeError(f"the voice activity bundle was not built: {built.last_words}")
    return bundle


def hear(
    place: Place, source: object, *more: object, env: dict[str, str] | None = None, timeout_s: float = 120
) -> tuple[Run, list[Any]]:
    """``edgectl run speech`` on a source, and its events."""
    out = place.out / f"heard-{time.monotonic_ns()}"
    run = place.edgectl(
        "run",
        "speech",
        "--bundle",
        vad_bundle(place),
        "--source",
        source,
        "--out",
        out,
        *more,
        env=env,
        timeout_s=timeout_s,
    )
    log = out / "events.jsonl"
    return run, [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def edges(events: list[Any]) -> list[tuple[str, int]]:
    return [(e["type"], e["sample"]) for e in events if e["type"].startswith("speech")]


def capabilities(events: list[Any], name: str) -> list[Any]:
    return [e for e in events if e["type"] == "capability" and e["name"] == name]


def arecord(place: Place, body: str) -> dict[str, str]:
    """An ``arecord`` first on PATH that runs Python; ``out`` writes raw samples, ``run`` counts its
    starts."""
    folder = place.out / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / "arecord"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys, time\nimport numpy as np\n"
        "def out(x):\n    sys.stdout.buffer.write(np.rint(np.asarray(x) * 32767).astype('<i2').tobytes()); sys.stdout.buffer.flush()\n"
        f"starts = {str(folder / 'starts')!r}\nopen(starts, 'a').write(f'{{os.getpid()}}\\n')\nrun = len(open(starts).readlines()) - 1\n"
        f"sound = np.load({str(folder / 'sound.npy')!r})\n{body}\n"
    )
    program.chmod(0o755)
    np.save(folder / "sound.npy", speech(place))
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


PACED = """
def play(sound, rate=16000.0, block=1600):
    start = time.monotonic()
    for i in range(0, len(sound), block):
        time.sleep(max(0.0, start + min(i + block, len(sound)) / rate - time.monotonic()))
        out(sound[i:i + block])
"""


def stereo(place: Place) -> Outcome:
    sound = speech(place, 20)
    _, mono = hear(place, write(place.out / "mono.wav", sound))
    found = []
    for channels in (2, 6, 8):
        source = write(place.out / f"{channels}.wav", np.repeat(sound[:, None], channels, axis=1))
        _, events = hear(place, source)
        loudness = np.abs(np.asarray(read_audio(source)) - read_audio(place.out / "mono.wav")).max()
        found.append(edges(events) == edges(mono) and bool(loudness < 1e-4))
    noise = np.random.default_rng(0).normal(0, 0.2, len(sound))
    _, left = hear(place, f"{write(place.out / 'left.wav', np.stack([sound, noise], 1))}?channel=left")
    opposite, said = hear(place, write(place.out / "opposite.wav", np.stack([sound, -sound], 1)))
    cancel = [e["reason"] for e in capabilities(said, "sound")]
    missing = place.edgectl(
        "run", "speech", "--bundle", vad_bundle(place), "--source", f"{place.out / 'mono.wav'}?channel=right"
    )
    held = (
        all(found) and edges(left) == edges(mono) and cancel[:1] == ["channels_cancel"] and opposite.code == 0
    )
    held = held and missing.code == 9 and not missing.traceback
    return Outcome(
        held,
        f"2, 6, 8 alike channels as one: {found}; `channel=left`: {edges(left) == edges(mono)}; opposite channels said: {cancel}",
    )


def comes_back(place: Place, body: str, reason: str, *, most_drift_s: float = 0.3) -> Outcome:
    started = time.monotonic()
    run, events = hear(place, "mic://", "--seconds", 14, env=arecord(place, PACED + body))
    took = time.monotonic() - started
    told = capabilities(events, "source")
    starts, ends = [e for e in told if e["phase"] == "start"], [e for e in told if e["phase"] == "end"]
    lost = [e["lost_samples"] for e in ends]
    # Stream time runs with the clock: what a later event says of one and of the other is the same.
    times = [e for e in events if e["time"] is not None]
    drift = max(
        (abs((e["time"] - times[0]["time"]) - (e["t_s"] - times[0]["t_s"])) for e in times), default=9.0
    )
    pids = (place.out / "bin" / "starts").read_text().split()
    left = [p for p in pids if Path(f"/proc/{p}").exists()]
    held = (
        run.code == 0
        and bool(ends)
        and {e["reason"] for e in starts} == {reason}
        and min(lost) > 0
        and drift < most_drift_s
        and not left
    )
    figure = f"exit {run.code}, {len(starts)} outages ({reason}), lost {[round(n / RATE, 2) for n in lost]} s, started {len(pids)} times"
    return Outcome(
        held, f"{figure}; stream time against the clock {drift * 1000:.0f} ms; {took:.0f} s; left over {left}"
    )


def stops(place: Place) -> Outcome:
    return comes_back(place, "play(sound[:3 * 16000])\ntime.sleep(3600)", "timeout")


def stops_at_once(place: Place) -> Outcome:
    """Three seconds of sound in no time: stream time, which counts sound, runs ahead of the clock by as
    much at each start."""
    return comes_back(place, "out(sound[:3 * 16000])\ntime.sleep(3600)", "timeout", most_drift_s=3 * 14)


def exits(place: Place) -> Outcome:
    return comes_back(place, "play(sound[:3 * 16000])", "ended")


def no_such_device(place: Place) -> Outcome:
    body = (
        "sys.stderr.write('arecord: main:831: audio open error: No such file or directory\\n'); sys.exit(1)"
    )
    run, _ = hear(place, "mic://hw:7", env=arecord(place, body))
    return Outcome(
        run.code == 9 and not run.traceback and "arecord -L" in run.err, f"exit {run.code}: {run.last_words}"
    )


def muted(place: Place) -> Outcome:
    run, events = hear(
        place, "mic://", "--seconds", 9, env=arecord(place, PACED + "play(np.zeros(3600 * 16000))")
    )
    reasons = [e["reason"] for e in capabilities(events, "sound")]
    return Outcome(run.code == 0 and reasons == ["silent"], f"said {reasons}")


def block_sizes(place: Place) -> Outcome:
    ours = reference("kiosk-keyword")
    vad = open_variant(Bundle(vad_bundle(place)).variants[0])
    word = open_model(ours.model.read_bytes())
    sound = np.concatenate(
        [KioskScene(seed=1).render(0, 20 * RATE), np.asarray(speech(place, 20), np.float32)]
    )

    def lines(size: int) -> str:
        events: list[Event] = []
        session = SpeechSession(SpeechConfig(), events.append)
        session.use("vad", vad, load_task("silero-vad"))
        session.use("keyword", word, load_task(str(ours.task)))
        for at in range(0, len(sound), size):
            session.push(AudioBlock(at, sound[at : at + size], 0))
        session.finish()
        return "\n".join(json.dumps([e.type, e.t_s, e.phase, dict(e.data)]) for e in events)

    expected = lines(256)
    sizes = [
        1,
        2,
        3,
        7,
        16,
        64,
        100,
        160,
        255,
        256,
        257,
        320,
        400,
        480,
        511,
        512,
        513,
        640,
        777,
        1000,
        1024,
        1280,
        1500,
        1600,
        2000,
        2048,
    ]
    sizes += [2500, 3000, 3200, 3999, 4000, 4096, 4500, 5000]
    other = [size for size in sizes if lines(size) != expected]
    return Outcome(
        not other,
        f"{len(sizes)} sizes, {expected.count(chr(10)) + 1} events, other events with {other or 'none'}",
    )


def fast_clock(place: Place) -> Outcome:
    env = arecord(
        place,
        PACED
        + f"open({str(place.out / 't0')!r}, 'w').write(repr(time.time()))\nplay(sound, 16160.0, 404)\ntime.sleep(3600)",
    )
    _, events = hear(place, "mic://", "--seconds", 55, env=env)
    start = float((place.out / "t0").read_text())
    errors = [
        e["time"] - (start + e["sample"] / 16160)
        for e in events
        if e["type"].startswith("speech") and e["sample"] > 30 * 16160
    ]
    worst = max((abs(e) for e in errors), default=9.0) * 1000
    return Outcome(
        len(errors) >= 8 and worst < 20, f"{len(errors)} events after 30 s, at most {worst:.1f} ms off"
    )


def soft(place: Place) -> Outcome:
    sound = speech(place)
    _, normal = hear(place, write(place.out / "normal.wav", sound))
    _, events = hear(place, write(place.out / "soft.wav", sound * 0.01))
    first = [next(s for kind, s in edges(e) if kind == "speech_start") for e in (normal, events)]
    said = [e["reason"] for e in capabilities(events, "sound")]
    held = first[1] - first[0] <= RATE // 10 and "too_quiet" in said and not capabilities(normal, "sound")
    return Outcome(
        held, f"speech begins at {first[1] / RATE:.2f} s, {first[0] / RATE:.2f} s at full level; said {said}"
    )


def without_markings(place: Place) -> Outcome:
    detector = place.out / "fastestdet"
    built = place.edgectl(
        "build",
        place.cases.parent / "models" / "fastestdet-352.onnx",
        "--task",
        "fastestdet",
        "--profile",
        "cpu",
        "--random-calibration",
        "--out",
        detector,
    )
    if built.code:
        return Outcome(False, f"the detector was not built: {built.last_words}")

    def lanes(source: object) -> tuple[int, int]:
        run = place.edgectl(
            "run", "driving", "--bundle", detector, "--source", source, "--json", timeout_s=300
        )
        result = run.json()
        return result["counters"]["frames_with_lane"], result["frames"]["processed"]

    highway = lanes(media(place, "highway-lanes.mp4"))
    roads: dict[str, tuple[int, int]] = {}
    for markings in ("none", "left", "right", "lanes"):
        counts = [
            lanes(f"synth://road?seed={seed}&seconds=6&paced=0&markings={markings}&clutter=1")
            for seed in (2, 3)
        ]
        roads[markings] = sum(n for n, _ in counts), sum(n for _, n in counts)
    unpainted = painted_out(media(place, "highway-lanes.mp4"))
    held = (
        highway == (221, 221) and not unpainted[0] and not any(roads[m][0] for m in ("none", "left", "right"))
    )
    held = held and roads["lanes"][0] >= 0.98 * roads["lanes"][1]
    return Outcome(
        held,
        f"frames with a lane: highway {highway}, its paint taken out {unpainted}, roads with seams and rails {roads}",
    )


def painted_out(film: Path) -> tuple[int, int]:
    """Frames in which a lane is seen after all that is brighter than the road about it was taken out, and
    all frames."""
    finder, seen, k = LaneFinder(), 0, 0
    capture = cv2.VideoCapture(str(film))
    while (read := capture.read())[0]:
        small = cv2.resize(
            cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY), (480, 270), interpolation=cv2.INTER_AREA
        )
        bright = ((small.astype(int) - cv2.medianBlur(small, 25)) > 7).astype(np.uint8)
        bright[:150] = 0
        plain = cv2.inpaint(small, cv2.dilate(bright, np.ones((5, 9), np.uint8)), 3, cv2.INPAINT_TELEA)
        grain = np.random.default_rng(k).normal(0, 2, plain.shape)
        seen += finder.find(np.clip(plain + grain, 0, 255).astype(np.uint8), k / 25) is not None
        k += 1
    return seen, k


def gravel(_: Place) -> Outcome:
    """A road of noise in perspective, and the road scene's own picture without its ridges' sides."""
    seen = frames = 0
    for seed in range(4):
        rng = np.random.default_rng(50 + seed)
        texture = cv2.GaussianBlur(rng.normal(0, 1, (4000, 800)).astype(np.float32), (0, 0), 1.0 + seed)
        texture *= (14 + 6 * seed) / texture.std()
        v, u = np.mgrid[0:360, 0:640].astype(np.float32)
        z = 576 * 1.35 / np.maximum(v - 165, 1)
        across = ((u - 320) * z / 576 * 30 + 400).astype(np.float32)
        finder = LaneFinder()
        for k in range(40):
            along = ((z + k / 15 * 20) * 30 % 3900).astype(np.float32)
            image = cv2.remap(texture, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) + 105
            image[:165] = 200
            seen += finder.find(np.clip(image, 0, 255).astype(np.uint8), k / 15) is not None
            frames += 1
    scene = open_scene("road", seed=3)
    finder = LaneFinder()
    kept = sum(finder.find(scene.render(k)[..., 1], k / 15) is not None for k in range(60))
    return Outcome(
        seen == 0 and kept >= 59, f"gravel: {seen} of {frames} frames; a marked road: {kept} of 60"
    )


CHECKS: dict[str, Check | Callable[[Place], Outcome]] = {
    "stereo, both channels alike": stereo,
    "`arecord` that stops delivering (a script that writes 3 s and sleeps)": stops,
    "`arecord` that exits": exits,
    "block sizes 1 … 5000": block_sizes,
    "microphone clock 1 % fast": fast_clock,
    "speech at −40 dB": soft,
    "a drive without markings": without_markings,
    "`arecord` that gives 3 s at once and sleeps": stops_at_once,
    "a microphone that does not exist": no_such_device,
    "a muted microphone": muted,
    "a road of gravel": gravel,
}
