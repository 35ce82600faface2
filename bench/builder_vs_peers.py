"""The engine that `edgectl build` chooses, against what one could have used instead. One thread, interleaved,
paired.

    python bench/builder_vs_peers.py --models resnet50 mobilenet_v2 yolo --shared ../shared --json out.json
    python bench/builder_vs_peers.py --models --onnx EXPORTED/yolo11n.onnx --peers mnn ncnn

Peers: ONNX Runtime float, `quantize_static` as it comes (S8S8) and U8S8 per channel, OpenVINO float pinned to
f32 (and in bfloat16, where the processor multiplies it), NNCF's post-training int8 in OpenVINO, and with
`--peers` MNN, ncnn and LiteRT in float (`peer_engines.py` says what to install). NNCF lives in an environment of its own (made here in a
temporary folder, or --nncf-python); it gets the float model and the calibration samples as files and answers
with an IR file and JSON. All get the same canonical float graph and the same samples. Where the task takes
pictures, preprocessing is part of what is timed, for all: what edgectl chose may do it inside the graph. In
each round every engine runs once; ratios are of neighbours, with bootstrap 95 % intervals.

Each peer's drop is judged like ours, on the confirmation slice that nobody calibrated or chose on. A peer
that loses more than the budget is timed and reported, but is no rival of "the best inside the budget".

`--onnx` takes files of one's own (those of `architectures/export.py`, say), with pictures of smooth noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from peer_engines import PEERS, open_peer
from shapes import SHAPES

from edgectl.builder.build import build_bundle
from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.pixels import PixelFed, pixels_of
from edgectl.builder.ingest.samples import Slices, collect, slice_samples
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import Bundle, SessionSettings
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_engine, open_model
from edgectl.engines.timing import interleave, load_1m, paired_ratio
from edgectl.models.catalogue import __file__ as _catalogue
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.preprocess import Preprocessor

_REFERENCE = Path(_catalogue).parent
_ONE = SessionSettings(threads=1)
_F32 = SessionSettings(threads=1, precision_hint="f32")
_BF16 = SessionSettings(threads=1, precision_hint="bf16")
_SMOOTH = 48  # samples
# name: (model, task, calibration); SHARED/ is --shared
REAL = {
    "fastestdet": (
        "SHARED/models/fastestdet-352.onnx",
        "fastestdet",
        "SHARED/media/one-by-one-person-detection.mp4",
    ),
    "yolox-nano": (
        "SHARED/models/yolox-nano-416.onnx",
        "yolox",
        "SHARED/media/one-by-one-person-detection.mp4",
    ),
    "kws-dscnn": ("SHARED/models/kws-dscnn-mlperf-tiny.onnx", "keyword", "SHARED/media/speech-60s.wav"),
    "yard-detector": (
        str(_REFERENCE / "yard-detector.onnx"),
        str(_REFERENCE / "yard-detector.toml"),
        "synth://yard?seed=101&paced=0&fps=2&seconds=24",
    ),
    "silero-vad": ("SHARED/models/silero-vad-16k.onnx", "silero-vad", "SHARED/media/speech-60s.wav"),
    "kiosk-keyword": (
        str(_REFERENCE / "kiosk-keyword.onnx"),
        str(_REFERENCE / "kiosk-keyword.toml"),
        "synth://kiosk?seed=101&paced=0&seconds=60",
    ),
    "road-detector": (
        str(_REFERENCE / "road-detector.onnx"),
        str(_REFERENCE / "road-detector.toml"),
        "synth://road?seed=101&paced=0&fps=2&seconds=24",
    ),
}
_NNCF = """
import json, sys, time, glob
import numpy as np, nncf, openvino as ov
model, folder, out = sys.argv[1:]
start = time.time()
feeds = [dict(np.load(f)) for f in sorted(glob.glob(folder + "/*.npz"))]
core = ov.Core()
quantized = nncf.quantize(core.read_model(model), nncf.Dataset(feeds), subset_size=len(feeds))
ov.save_model(quantized, out, compress_to_fp16=False)
print(json.dumps({"nncf": nncf.__version__, "openvino": ov.__version__, "seconds": time.time() - start, "samples": len(feeds)}))
"""


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, samples) -> None:
        self._left = iter(samples)

    def get_next(self):
        sample = next(self._left, None)
        return None if sample is None else dict(sample.feeds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", default=[*REAL, *SHAPES], choices=[*REAL, *SHAPES])
    parser.add_argument("--onnx", nargs="*", default=[], type=Path, help="models of one's own")
    parser.add_argument("--peers", nargs="*", default=[], choices=list(PEERS), help="more runtimes")
    parser.add_argument("--tflite", type=Path, help="the same model for LiteRT")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seconds", type=float, default=12.0, help="of interleaved measuring a model")
    parser.add_argument("--minutes", type=float, default=0.5, help="of the build's own search")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument(
        "--nncf-python", type=Path, help="a Python that has nncf and openvino; default: a venv made here"
    )
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="edgectl-bench-") as folder:
        nncf = a.nncf_python or _environment(Path(folder) / "nncf")
        own = {p.stem: p for p in a.onnx}
        for name in (*a.models, *own):
            print(f"{name}: load {load_1m()}", file=sys.stderr)
            row = bench(name, a, Path(folder) / name, nncf, own.get(name))
            rows.append(row)
            show(row)
            if a.json:
                a.json.write_text(
                    json.dumps({"machine": probe().summary, "max_drop": a.max_drop, "rows": rows}, indent=1)
                )
    summarise(rows, a.max_drop)


def _environment(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "-q", "nncf", "openvino"], check=True)
    return folder / "bin/python"


def bench(name: str, a: argparse.Namespace, folder: Path, nncf: Path, own: Path | None) -> dict[str, object]:
    folder.mkdir()
    path, task, calibration = _material(name, a.shared, folder) if own is None else _smooth(own, folder)
    profile = folder / "one-thread.toml"
    profile.write_text('inherits = "cpu"\ndescription = "one thread"\n[cpu]\nmax_threads = 1\n')
    start = time.monotonic()
    report = build_bundle(
        path,
        profiles=[str(profile)],
        task=task,
        calibration=calibration,
        out=folder / "bundle",
        minutes=a.minutes,
        max_drop=a.max_drop,
        name=name,
    )
    build_seconds = time.monotonic() - start
    variants = Bundle(folder / "bundle").variants
    chosen = variants[0]
    # of the float fallback: what the model says itself, and no preprocessing inside
    task = variants[-1].config.task
    graph, inputs, _ = prepare(path, task)
    source = folder / "float.onnx"
    source.write_bytes(graph.SerializeToString())
    reference = open_model(source, _ONE)
    (folder / "samples").mkdir()
    slices = slice_samples(collect(calibration, task, inputs, reference, folder / "samples"), None)
    judge = Judge(task, slices.confirmation, reference)
    makers: dict[str, Callable[[], Engine]] = {
        "edgectl": lambda: open_engine(chosen, threads=1),
        "ort float": lambda: open_model(source, _ONE),
        "ort S8S8": lambda: open_model(_static(source, slices, folder, default=True), _ONE),
        "ort U8S8": lambda: open_model(_static(source, slices, folder, default=False), _ONE),
        "openvino f32": lambda: open_model(source, _F32, runtime="openvino"),
        "nncf openvino": lambda: open_model(_nncf(source, slices, folder, nncf), _F32, runtime="openvino"),
    }
    if any("bf16" in f for f in probe().isa):
        makers["openvino bf16"] = lambda: open_model(source, _BF16, runtime="openvino")
    if a.tflite is not None:
        shutil.copy(a.tflite, folder / a.tflite.name)
    for peer in a.peers:
        makers[peer] = partial(open_peer, peer, source, folder / peer)
    engines: dict[str, Engine] = {}
    failed = {}
    for peer, make in makers.items():
        try:
            engines[peer] = make()
            if peer != "edgectl":
                engines[peer].run(slices.search[0].feeds)
        except Exception as e:
            engines.pop(peer, None)
            failed[peer] = str(e).strip().splitlines()[0][:200]
    feeds = [s.feeds for s in slices.search[:8]]
    loads = [load_1m()]
    ours = chosen.config.task.input
    specs = {n: ours if n == "edgectl" else task.input for n in engines}
    times = interleave(
        {n: _caller(e, feeds, task.input, specs[n]) for n, e in engines.items()},
        seconds=a.seconds,
        min_rounds=60,
        max_rounds=20_000,
    )
    loads.append(load_1m())
    peers = {}
    for peer, engine in engines.items():
        folded = peer == "edgectl" and ours != task.input
        drop = judge.judge(PixelFed(engine, task.input) if folded else engine)
        ratio = paired_ratio(times["edgectl"], times[peer])
        peers[peer] = {
            "p10_ms": float(np.percentile(times[peer], 10)),
            "p50_ms": float(np.median(times[peer])),
            "drop": drop.drop,
            "values": drop.values,
            "ours_to_it": [ratio.median, ratio.low, ratio.high],
            "n": ratio.n,
        }
    return {
        "model": name,
        "chosen": f"{chosen.config.variant} ({chosen.config.recipe.passes[-1] if chosen.config.recipe.passes else 'float'})",
        "build_seconds": build_seconds,
        "bytes_float": source.stat().st_size,
        "bytes_chosen": report.variants[0].engine_bytes,
        "load": loads,
        "peers": peers,
        "failed": failed,
    }


def _material(name: str, shared: Path, folder: Path) -> tuple[Path, TaskSpec, str]:
    """Model file, task and calibration data. The shapes get smooth random pictures."""
    if name in REAL:
        model, task, data = (x.replace("SHARED", str(shared)) for x in REAL[name])
        return Path(model), load_task(task), data
    path = folder / f"{name}.onnx"
    path.write_bytes(SHAPES[name]().SerializeToString())
    return _smooth(path, folder)


def _smooth(path: Path, folder: Path) -> tuple[Path, TaskSpec, str]:
    """A model of one picture, and smooth random ones for it."""
    (image,) = onnx.load(path, load_external_data=False).graph.input
    _, channels, height, width = (d.dim_value for d in image.type.tensor_type.shape.dim)
    rng = np.random.default_rng(0)
    coarse = rng.random((_SMOOTH, channels, -(-height // 16), -(-width // 16))).astype(np.float32)
    blocks = np.kron(coarse, np.ones((1, 1, 16, 16), np.float32))[..., :height, :width]
    pictures = blocks * 0.8 + rng.random(blocks.shape).astype(np.float32) * 0.2
    np.savez(folder / "calibration.npz", **{image.name: pictures})
    return path, TaskSpec(name="tensor", input=TensorInput()), str(folder / "calibration.npz")


def _static(source: Path, slices: Slices, folder: Path, *, default: bool) -> Path:
    out = folder / ("s8s8.onnx" if default else "u8s8.onnx")
    more = (
        {}
        if default
        else {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
        }
    )
    quantize_static(str(source), str(out), Reader(list(slices.calibration)[:32]), **more)
    return out


def _nncf(source: Path, slices: Slices, folder: Path, python: Path) -> Path:
    data, out = folder / "nncf-samples", folder / "nncf.xml"
    data.mkdir()
    for i, s in enumerate(slices.calibration):
        np.savez(data / f"{i:04d}.npz", **s.feeds)
    command = [str(python), "-c", _NNCF, str(source), str(data), str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=900,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )
    if done.returncode:
        raise RuntimeError(f"nncf: {done.stderr.strip().splitlines()[-1]}")
    print("  ", done.stdout.strip().splitlines()[-1], file=sys.stderr)
    return out


def _caller(engine: Engine, feeds: list[dict[str, np.ndarray]], task_input, spec) -> Callable[[], object]:
    """Where the task takes pictures, the route from the picture (of the input's size) to the outputs; else
    the engine alone."""
    turn: Iterator[int] = iter(range(1 << 40))
    if not isinstance(task_input, ImageInput):
        return lambda: engine.run(feeds[next(turn) % len(feeds)])
    name = engine.inputs[0].name
    pictures = [pixels_of(f[name], task_input) for f in feeds]
    preprocess = Preprocessor(spec)
    return lambda: engine.run({name: preprocess(pictures[next(turn) % len(pictures)])[0]})


def show(row: dict) -> None:
    print(
        f"\n{row['model']}: chose {row['chosen']}; build {row['build_seconds']:.0f} s; load {row['load'][0]}–{row['load'][1]}"
    )
    for peer, p in row["peers"].items():
        m, low, high = p["ours_to_it"]
        print(
            f"  {peer:14} p10 {p['p10_ms']:8.3f}  p50 {p['p50_ms']:8.3f} ms  drop {p['drop']:.4f}  edgectl is {m:.3f} × [{low:.3f}, {high:.3f}]  n {p['n']}"
        )
    for peer, why in row["failed"].items():
        print(f"  {peer:14} failed: {why}")


def summarise(rows: list[dict], max_drop: float) -> None:
    for peer in dict.fromkeys(p for r in rows for p in r["peers"] if p != "edgectl"):
        print(f"edgectl / {peer}: {_mean(rows, peer, lambda row, it: True)} (all)")
        print(
            f"edgectl / {peer}: {_mean(rows, peer, lambda row, it: it['drop'] <= max_drop and it['p50_ms'] >= 0.2)}"
            " (within the budget, 0.2 ms or more)"
        )
    for row in rows:
        held = {n: p for n, p in row["peers"].items() if n != "edgectl" and p["drop"] <= max_drop}
        best = max(held, key=lambda n: held[n]["ours_to_it"][0])
        m, low, high = held[best]["ours_to_it"]
        print(
            f"{row['model']}: the best peer within the budget is {best}: {m:.3f} [{low:.3f}, {high:.3f}]"
            f"{'' if high <= 1.02 else '  MORE THAN 1.02'}"
        )


def _mean(rows: list[dict], peer: str, counts: Callable[[dict, dict], bool]) -> str:
    ratios = [it["ours_to_it"][0] for r in rows if (it := r["peers"].get(peer)) and counts(r, it)]
    return f"geometric mean {np.exp(np.mean(np.log(ratios))):.3f} of {len(ratios)} models" if ratios else "-"


if __name__ == "__main__":
    main()
