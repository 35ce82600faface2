"""What each compression costs and gains on a trained model: the digits CNN of the tests (torch and
scikit-learn needed).

    python bench/compression.py --steps 300
    python bench/compression.py --detector yard --share 0.15/16 --frames 2000 --steps 600
    python bench/compression.py --detector yard --share 0.5/16 --frames 2000 --steps 3000    # half the width
    python bench/compression.py --detector yard --cluster 256 64 32 16
    python bench/compression.py --shapes

Recovery is given in steps, so that the figures do not depend on how busy the machine is (or in minutes; then the
steps that these were are printed). ``--frames``: pictures of as many moments of other scenes, which only teach, as
``edgectl build --teach`` takes them; drawing them takes a minute or two before anything else. Top-1 on test labels
that nothing was trained or chosen on; latency as a paired ratio to the float model, one thread, interleaved.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from shapes import SHAPES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.builder.digits import digits, top1

from edgectl.builder.compress.channel import prune_channels
from edgectl.builder.compress.coupling import couple
from edgectl.builder.compress.importance import channel_damage
from edgectl.builder.compress.options import CompressOptions, Importance, parse_options
from edgectl.builder.compress.run import CompressionStep, compress
from edgectl.builder.compress.weights import macs
from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.samples import Sample, collect, slice_samples
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, load_1m, paired_ratio
from edgectl.pipelines.synth import open_scene
from edgectl.pipelines.tasks import load_task
from edgectl.pipelines.video.preprocess import Preprocessor


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300, help="of recovery, where it is tried; 0: none")
    parser.add_argument(
        "--scale", type=int, default=1, help="show each pixel of the digits as so many squared"
    )
    parser.add_argument("--detector", choices=["yard", "road"], help="prune this reference detector instead")
    parser.add_argument("--share", default="0.3/8", help="of the detector's channels")
    parser.add_argument("--minutes", type=float, default=0.0, help="of recovery, instead of --steps")
    parser.add_argument(
        "--frames", type=int, default=0, help="of other scenes, which teach the detector, too"
    )
    parser.add_argument(
        "--cluster", type=int, nargs="+", help="values a weight tensor of the detector, instead of pruning it"
    )
    parser.add_argument(
        "--importance", nargs="+", choices=get_args(Importance), default=["hessian"], help="for the detector"
    )
    parser.add_argument("--shapes", action="store_true", help="channel pruning of shapes instead: speed only")
    args = parser.parse_args()
    print(f"{probe().summary}; load {load_1m()}")
    if args.shapes:
        speed()
    elif args.detector:
        tries = (
            [parse_options(cluster=k) for k in args.cluster]
            if args.cluster
            else [
                replace(
                    parse_options([f"channel:{args.share}"], importance=i, recover_minutes=args.minutes),
                    recover_steps=None if args.minutes else args.steps or None,
                )
                for i in args.importance
            ]
        )
        detector(args.detector, tries, args.frames)
    else:
        classifier(args.steps, args.scale)


def classifier(steps: int, scale: int) -> None:
    model, samples, tests, labels = digits(scale)
    engine = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(
        TaskSpec(name="digits", input=TensorInput(), metric="top1"), [Sample(f) for f in tests], engine
    )
    print(f"float top-1 {top1(model, tests, labels):.4f} on {len(labels)} pictures")
    print(
        "| asked for | step | top-1 | MACs × | latency × | speed-up / MAC reduction | bytes | packed |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    tries = [
        (f"channel:0.5/8 by {i}", parse_options(["channel:0.5/8"], importance=i))
        for i in get_args(Importance)
    ]
    taught = [
        ("channel:0.3/16", ["channel:0.3/16"]),
        ("channel:0.5/16", ["channel:0.5/16"]),
        ("magnitude:0.8", ["magnitude:0.8"]),
        ("2:4", ["2:4"]),
    ]
    tries += [
        (name, replace(parse_options(asked, importance="hessian"), recover_steps=steps))
        for name, asked in taught
    ]
    tries += [(f"cluster {k}", parse_options(cluster=k)) for k in (256, 32, 16, 8)]
    for name, options in tries:
        seen: list[ModelProto] = []
        _, report = compress(model, options, samples, judge, max_drop=1.0, each=seen.append)
        for s, small in zip(report.steps, seen, strict=True):
            row(f"{name} | {s.step} | {top1(small, tests, labels):.4f}", s)


def detector(name: str, tries: Sequence[CompressOptions], frames: int) -> None:
    """AP drop against what float is sure of, on pictures that nothing was trained on."""
    folder = Path(__file__).resolve().parents[1] / "models" / "edgectl" / "models"
    task = load_task(str(folder / f"{name}-detector.toml"))
    graph, inputs, _ = prepare(folder / f"{name}-detector.onnx", task)
    engine = open_model(graph.SerializeToString(), SessionSettings())
    with tempfile.TemporaryDirectory() as spool:
        store = collect(
            f"synth://{name}?seed=1&fps=15&seconds=120&paced=0", task, inputs, engine, Path(spool)
        )
        slices = slice_samples(store, None)
        samples = [s.feeds for s in slices.calibration]
        more = _OtherScenes(name, task, frames)
        judge = Judge(task, slices.confirmation, engine)
        print(
            f"{name}-detector, {len(samples)} samples and {len(more)} frames teach, {len(slices.confirmation)} judge"
        )
        print(
            "| asked for | step | AP drop | MACs × | latency × | speed-up / MAC reduction | bytes | packed | note |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        )
        for options in tries:
            asked = (
                f"channel:{options.channel:g}/{options.channel_step} by {options.importance}"
                if options.channel
                else f"cluster {options.cluster}"
            )
            _, report = compress(graph, options, samples, judge, max_drop=1.0, decode=task.decode, more=more)
            for s in report.steps:
                row(f"{asked} | {s.step} | {s.drop:.4f}", s, s.note)


class _OtherScenes(Sequence[Feeds]):
    """Moments of scenes with other seeds, ten of each, kept as pixels: drawn beforehand, as a build reads what
    ``--teach`` names before it trains."""

    def __init__(self, name: str, task: TaskSpec, count: int) -> None:
        assert isinstance(task.input, ImageInput)
        preprocess, self._tensor = Preprocessor(task.input), task.input.tensor or "image"
        self._seen: list[NDArray[np.float16]] = []
        for first in range(0, count, 10):
            scene = open_scene(name, seed=20_000 + first // 10)
            for index in range(first, min(first + 10, count)):
                picture = scene.render(int(np.random.default_rng(index).integers(0, 9000)))
                # pixels over 255: float16 keeps them to a fifth of a grey level
                self._seen.append(preprocess(picture)[0].astype(np.float16))

    def __len__(self) -> int:
        return len(self._seen)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return {self._tensor: self._seen[index].astype(np.float32)}


def row(start: str, s: CompressionStep, note: str = "") -> None:
    print(
        f"| {start} | {s.macs_ratio:.3f} | {s.latency_ratio:.3f} [{s.latency_low:.3f}, {s.latency_high:.3f}] "
        f"| {s.macs_ratio / s.latency_ratio:.2f} | {s.bytes} | {s.packed_bytes} |"
        + (f" {note} |" if note else ""),
        flush=True,
    )


def speed() -> None:
    """Channel pruning of shapes with seeded weights: only latency and MACs mean anything."""
    print(
        "\n| shape | asked for | convolutions pruned, left whole | MACs × | latency × [95 %] | speed-up / MAC reduction |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name, make in SHAPES.items():
        model = make()
        size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        feeds = {"image": np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)}
        for step in (1, 16):
            coupling = couple(model)
            small, done, left = prune_channels(model, coupling, 0.3, step, channel_damage(coupling, None))
            engines = {
                n: open_model(m.SerializeToString(), SessionSettings())
                for n, m in (("float", model), ("small", small))
            }
            times = interleave(
                {n: partial(e.run, feeds) for n, e in engines.items()}, seconds=4, min_rounds=30
            )
            r, work = paired_ratio(times["small"], times["float"]), macs(small) / macs(model)
            print(
                f"| {name} | channel:0.3/{step} | {len(done)}, {len(left)} | {work:.3f} | {r.median:.3f} [{r.low:.3f}, {r.high:.3f}] | {work / r.median:.2f} |"
            )


if __name__ == "__main__":
    main()
