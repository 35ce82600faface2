"""Train the reference keyword net on words spoken by espeak-ng and export it to ONNX.

    apt-get install espeak-ng; pip install torch onnx onnxscript
    python models/train_keyword.py          # writes models/edgectl/models/kiosk-keyword.onnx, its .json card,
    and the demo's word clips

Voices are split: those that the held-out clips are spoken with are never trained on. The score is honest for
synthetic speech only; nothing here was measured on people. The shipped files were made with torch 2.13.0 and
onnx 1.23.2.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import time
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from edgectl.core.task import AudioInput, FeatureSpec
from edgectl.pipelines.audio.features import windows

HERE = Path(__file__).parent / "edgectl" / "models"
CLIPS = HERE.parents[2] / "pipelines/edgectl/pipelines/synth/words"
KEYWORDS = ("tickets", "platform", "help", "repeat", "cancel")
LABELS = ("silence", "unknown", *KEYWORDS)
OTHERS = [
    "hello",
    "window",
    "seven",
    "orange",
    "table",
    "music",
    "lights",
    "weather",
    "open",
    "close",
    "yes",
    "no",
    "up",
    "down",
    "left",
    "right",
    "go",
    "wait",
    "station",
    "train",
    "ticking",
    "flat",
    "form",
    "healthy",
    "pete",
    "council",
    "candle",
    "piglet",
    "thicket",
    "formal",
    "happy",
    "repair",
    "peter",
    "canteen",
    "people",
    "coffee",
    "water",
    "morning",
    "evening",
    "today",
    "tomorrow",
    "please",
    "thanks",
    "sorry",
    "maybe",
    "never",
    "always",
    "number",
    "five",
    "three",
    "eight",
    "paper",
    "pencil",
]
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-us-nyc")
TRAIN_VOICES = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "f1",
    "f2",
    "f3",
    "Alex",
    "Andrea",
    "Denis",
    "Gene",
    "Jacky",
    "Lee",
    "adam",
    "steph",
    "robert",
    "david",
)
HELD_VOICES = ("m6", "m7", "m8", "f4", "f5", "linda", "Michael", "paul", "Annie", "travis")
AUDIO = AudioInput(
    features=FeatureSpec(
        kind="log_mel", window=480, hop=320, fft=512, mels=40, mel_low=20, mel_high=7600, frames=49
    ),
    shape=(1, 1, 49, 40),
)
SPAN = AUDIO.features.samples


def speak(word: str, accent: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """One spoken word, float32 16 kHz in ±1, silence trimmed; empty if espeak-ng lacks the voice."""
    run = subprocess.run(
        ["espeak-ng", "-v", f"{accent}+{voice}", "-s", str(speed), "-p", str(pitch), "--stdout", word],
        capture_output=True,
        check=False,
    )
    if run.returncode or len(run.stdout) < 1000:
        return np.zeros(0, np.float32)
    with wave.open(io.BytesIO(run.stdout)) as w:
        rate, data = w.getframerate(), np.frombuffer(w.readframes(10**7), np.int16)
    frame = av.AudioFrame.from_ndarray(data[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=16000)
    pieces = [f.to_ndarray().ravel() for f in [*resampler.resample(frame), *resampler.resample(None)]]
    x = np.concatenate(pieces)
    loud = np.flatnonzero(np.abs(x) > 0.02 * np.abs(x).max())
    return x[loud[0] : loud[-1] + 1].astype(np.float32) if len(loud) else x[:0]


def spoken(
    words: tuple[str, ...] | list[str], voices: tuple[str, ...], takes: int, rng: np.random.Generator
) -> dict[str, list[np.ndarray]]:
    jobs = [
        (
            w,
            str(rng.choice(ACCENTS)),
            str(rng.choice(voices)),
            int(rng.integers(110, 210)),
            int(rng.integers(25, 80)),
        )
        for w in words
        for _ in range(takes)
    ]
    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(lambda j: speak(*j), jobs))
    out: dict[str, list[np.ndarray]] = {w: [] for w in words}
    for job, clip in zip(jobs, clips, strict=True):
        if 1600 < len(clip) < SPAN - 800:
            out[job[0]].append(clip)
    return out


def noise(rng: np.random.Generator, n: int) -> np.ndarray:
    """White to brown: a random spectral slope, unit power."""
    spectrum = np.fft.rfft(rng.normal(size=n)) / np.maximum(1, np.arange(n // 2 + 1)) ** rng.uniform(0, 1)
    x = np.fft.irfft(spectrum, n)
    return (x / (x.std() + 1e-9)).astype(np.float32)


def scene(
    clip: np.ndarray | None, rng: np.random.Generator, babble: list[np.ndarray]
) -> tuple[np.ndarray, float]:
    """One input's worth of sound around a clip: level, room, noise. Also the fraction of the clip that is
    inside."""
    x = np.zeros(SPAN, np.float32)
    inside = 1.0
    if clip is not None:
        at = (
            int(rng.integers(-len(clip) // 3, SPAN - len(clip) + len(clip) // 3))
            if rng.random() < 0.25
            else int(rng.integers(0, SPAN - len(clip)))
        )
        a, b = max(0, at), min(SPAN, at + len(clip))
        x[a:b] = clip[a - at : b - at] / np.abs(clip).max()
        inside = (b - a) / len(clip)
        if rng.random() < 0.4:  # a room: exponentially decaying echoes
            tail = rng.normal(size=2400) * np.exp(-np.arange(2400) / rng.uniform(150, 700))
            tail[0] = 8.0
            x = np.convolve(x, tail / np.abs(tail).sum() * 2)[:SPAN].astype(np.float32)
        x *= 10 ** rng.uniform(-1.5, 0) / (np.abs(x).max() + 1e-6)
    level = (np.abs(x).max() if clip is not None else 10 ** rng.uniform(-2, -0.3)) * 10 ** rng.uniform(
        -2.2, -0.7
    )
    x = x + noise(rng, SPAN) * np.float32(level)
    if babble and rng.random() < 0.2:
        other = babble[int(rng.integers(len(babble)))][:SPAN]
        x[: len(other)] += other * np.float32(0.05 * np.abs(x).max() / (np.abs(other).max() + 1e-6))
    return np.clip(x, -1, 1).astype(np.float32), inside


def dataset(
    clips: dict[str, list[np.ndarray]], per_clip: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    babble = [c for w in OTHERS for c in clips[w]]
    features, labels = [], []

    def add(clip: np.ndarray | None, label: int) -> None:
        sound, inside = scene(clip, rng, babble)
        if label >= 2 and inside < 0.8:
            if inside > 0.55:
                return  # half a word: neither one nor the other
            label = 1
        features.append(next(windows(AUDIO, sound))[0])
        labels.append(label)

    for word, takes in clips.items():
        for clip in takes:
            for _ in range(per_clip if word in KEYWORDS else max(1, per_clip // 3)):
                add(clip, LABELS.index(word) if word in KEYWORDS else 1)
    for _ in range(len(labels) // 8):
        add(None, 0)
    return np.stack(features), np.array(labels)


class KeywordNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(inplace=True)
            )

        self.body = nn.Sequential(
            block(1, 16, 2), block(16, 32), block(32, 32, 2), block(32, 64), block(64, 64, 2), block(64, 64)
        )
        self.head = nn.Linear(64, len(LABELS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Features are natural logs, roughly -14..6: bring them near ±1 inside the graph, where every runtime
        # sees it.
        return self.head(self.body((x + 4.0) * 0.2).mean(dim=(2, 3)))


def ship_clips(clips: dict[str, list[np.ndarray]]) -> None:
    """Three held-out takes of every keyword and a few other words, as FLAC, for ``synth://kiosk``."""
    CLIPS.mkdir(parents=True, exist_ok=True)
    for old in CLIPS.glob("*.flac"):
        old.unlink()
    for word in (*KEYWORDS, "hello", "station", "coffee", "window"):
        for k, clip in enumerate(clips[word][: 3 if word in KEYWORDS else 1]):
            with av.open(str(CLIPS / f"{word}-{k}.flac"), "w") as out:
                stream = out.add_stream("flac", rate=16000, layout="mono")
                frame = av.AudioFrame.from_ndarray(
                    (clip / np.abs(clip).max() * 30000).astype(np.int16)[None], format="s16", layout="mono"
                )
                frame.sample_rate = 16000
                out.mux([*stream.encode(frame), *stream.encode(None)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--takes", type=int, default=60, help="spoken takes of every keyword")
    args = parser.parse_args()
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    started = time.monotonic()
    train = spoken(KEYWORDS, TRAIN_VOICES, args.takes, rng) | spoken(
        OTHERS, TRAIN_VOICES, max(4, args.takes // 6), rng
    )
    held = spoken(KEYWORDS, HELD_VOICES, 24, rng) | spoken(OTHERS, HELD_VOICES, 3, rng)
    ship_clips(held)
    x, y = dataset(train, 12, rng)
    hx, hy = dataset(held, 3, np.random.default_rng(2))
    print(
        f"{len(x)} training and {len(hx)} held-out inputs in {time.monotonic() - started:.0f} s", flush=True
    )
    model, batch = KeywordNet(), 64
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 5e-3, total_steps=args.epochs * (len(x) // batch)
    )
    weight = torch.tensor(
        np.sqrt(len(y) / np.maximum(1, np.bincount(y, minlength=len(LABELS)))), dtype=torch.float32
    )
    for epoch in range(args.epochs):
        model.train()
        order, total = rng.permutation(len(x)), 0.0
        for at in range(0, len(order) - batch + 1, batch):
            index = order[at : at + batch]
            loss = F.cross_entropy(
                model(torch.from_numpy(x[index])),
                torch.from_numpy(y[index]),
                weight=weight,
                label_smoothing=0.05,
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}/{args.epochs} loss {total / (len(order) // batch):.3f} {time.monotonic() - started:.0f} s",
            flush=True,
        )
    model.eval()
    with torch.no_grad():
        predicted = model(torch.from_numpy(hx)).argmax(1).numpy()
    path = HERE / "kiosk-keyword.onnx"
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, 49, 40),),
        str(path),
        input_names=["features"],
        output_names=["scores"],
        opset_version=17,
        dynamo=False,
    )
    card = {
        "labels": LABELS,
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out_inputs": len(hx),
        "epochs": args.epochs,
        "top1": round(float((predicted == hy).mean()), 4),
        "recall": {w: round(float((predicted[hy == k] == k).mean()), 4) for k, w in enumerate(LABELS)},
        "false_keywords": round(float((predicted[hy < 2] >= 2).mean()), 4),
        "command": f"python models/train_keyword.py --epochs {args.epochs} --takes {args.takes}",
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(json.dumps(card), path.stat().st_size)


if __name__ == "__main__":
    main()
