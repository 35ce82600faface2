"""Detectors made of depthwise layers: what each form of int8 costs and gains, as a curve of time against drop.

    python bench/depthwise.py yolox-nano fastestdet --shared ../shared --json depthwise.json --plot depthwise.svg

Every form is written by the builder's own functions from the same calibration samples, judged on the confirmation
slice (512 frames in all: 128 calibrate, 256 judge), in the runtime that it is timed in, and timed with one thread:
all forms in turn, call by call, as paired ratios to the float model as it came in ONNX Runtime. OpenVINO computes what
is float in float32 (`precision_hint` f32), also where the CPU has bfloat16. Below 1 is faster; a point counts where
its drop is inside the budget.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.fit_task import fit_input
from edgectl.builder.ingest.read import read_model
from edgectl.builder.ingest.samples import collect, slice_samples
from edgectl.builder.int8.activations import calibrated_again, largest, silus, with_hard_swish
from edgectl.builder.int8.basis import RECONSTRUCT_SAMPLES, QuantizationBasis, spread
from edgectl.builder.int8.calibrate import RANGE_KINDS, RangeKind, calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.placement import depthwise, heads, weighted_nodes
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.judge.accuracy import Accuracy, Judge
from edgectl.core.bundle import Runtime, SessionSettings
from edgectl.core.errors import EdgectlError
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Engine, Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, load_1m, paired_ratio
from edgectl.pipelines.tasks import load_task

MODELS = {
    "yolox-nano": ("models/yolox-nano-416.onnx", "yolox"),
    "fastestdet": ("models/fastestdet-352.onnx", "fastestdet"),
}
CLIPS = {"people": "media/one-by-one-person-detection.mp4", "cars": "media/car-detection.mp4"}
SETTINGS: dict[Runtime, SessionSettings] = {
    "onnxruntime": SessionSettings(),
    "openvino": SessionSettings(precision_hint="f32"),
}


@dataclass(frozen=True)
class Form:
    """``graph``: written when its turn comes; what is no longer needed can then go."""

    name: str
    runtime: Runtime
    graph: Callable[[], ModelProto]


@dataclass(frozen=True)
class Point:
    model: str
    form: str
    runtime: str
    ratio: float
    low: float
    high: float
    p50_ms: float
    drop: float
    drop_low: float
    drop_high: float
    rounds: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS), choices=[*MODELS, []])
    parser.add_argument("--clip", default="people", choices=CLIPS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--seconds", type=float, default=30.0, help="of interleaved measuring a model")
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--only", help="forms whose name has this in it, beside float")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="an SVG of the curve")
    a = parser.parse_args()
    points: list[Point] = []
    for name in a.models:
        points += measured(name, a.shared, CLIPS[a.clip], a.seconds, a.only)
        table(points, name, a.max_drop)
    if a.json:
        rows = [asdict(p) for p in points]
        a.json.write_text(json.dumps({"machine": probe().summary, "clip": a.clip, "rows": rows}, indent=1))
    if a.plot:
        a.plot.write_text(plot(points, a.max_drop))


def measured(name: str, shared: Path, clip: str, seconds: float, only: str | None) -> list[Point]:
    file, task_name = MODELS[name]
    source = read_model(shared / file)
    task = fit_input(load_task(task_name), source, {})
    graph, inputs, _ = prepare(shared / file, task)
    original = open_model(source.SerializeToString(), SETTINGS["onnxruntime"])
    with tempfile.TemporaryDirectory() as folder:
        slices = slice_samples(collect(str(shared / clip), task, inputs, original, Path(folder)), None)
        samples = [s.feeds for s in slices.calibration]
        judge = Judge(task, slices.confirmation, original)
        print(
            f"{name}: {len(samples)} samples calibrate, {len(slices.confirmation)} judge; {probe().summary}; "
            f"load {load_1m()}",
            file=sys.stderr,
        )
        engines: dict[str, Engine] = {"float as it came": original}
        lost: dict[str, Accuracy] = {"float as it came": judge.judge(original)}
        runtimes: dict[str, str] = {"float as it came": "onnxruntime"}
        for form in forms(graph, slices.digest, samples):
            if only and only not in form.name and not form.name.startswith("float"):
                continue
            key = f"{form.name}, {form.runtime}"
            try:
                engine = open_model(
                    form.graph().SerializeToString(), SETTINGS[form.runtime], runtime=form.runtime
                )
                lost[key] = judge.judge(engine)
            except EdgectlError as e:
                print(f"{key} is left out: {e.message}", file=sys.stderr)
                continue
            engines[key], runtimes[key] = engine, form.runtime
            print(f"  {key}: drop {lost[key].drop:.4f}", file=sys.stderr, flush=True)
        times = interleave(
            {n: partial(e.run, samples[0]) for n, e in engines.items()}, seconds=seconds, min_rounds=40
        )
    base = times["float as it came"]
    found = []
    for n in engines:
        r, d = paired_ratio(times[n], base), lost[n]
        found.append(
            Point(
                name,
                n.rpartition(", ")[0] or n,
                runtimes[n],
                r.median,
                r.low,
                r.high,
                float(np.median(times[n])),
                d.drop,
                d.low,
                d.high,
                r.n,
            )
        )
    print(f"load {load_1m()} after {len(base)} rounds", file=sys.stderr)
    return found


def forms(graph: ModelProto, digest: str, samples: Sequence[Feeds]) -> Iterator[Form]:
    """Float, whole chains, lone layers; depthwise layers, heads and the first layer in float; ranges cut in four ways;
    and cheaper activations where there are SiLUs."""
    index = GraphIndex(graph)
    lone, first = depthwise(index), weighted_nodes(index)[0].name
    base = QuantizationBasis(graph, calibrate(graph, samples, data_digest=digest), (), "minmax")
    for runtime in SETTINGS:
        yield Form("float", runtime, lambda: graph)
    family: dict[Runtime, str] = {"onnxruntime": "x86-vnni", "openvino": "openvino"}
    left: tuple[tuple[str, frozenset[str]], ...] = (
        ("int8", frozenset()),
        ("int8, heads float", heads(index)),
        ("int8, depthwise float", lone),
        ("int8, depthwise and heads float", lone | heads(index)),
        ("int8, depthwise and first float", lone | {first}),
    )
    for runtime, kernels in family.items():
        for name, nodes in left:
            yield Form(name, runtime, partial(_int8, base, kernels, samples, nodes))
        for kind in RANGE_KINDS:
            yield Form(
                f"int8, plain rounding, ranges {kind}",
                runtime,
                partial(_int8, base, kernels, samples, frozenset(), kind=kind, rebuilt=False),
            )
    yield Form(
        "int8, convolutions alone",
        "onnxruntime",
        partial(_int8, base, "x86-vnni", samples, frozenset(), chains=False),
    )
    found = silus(index)
    for share in (0.5, 0.75, 1.0) if found else ():
        cheap = calibrated_again(with_hard_swish(base, found, largest(found, share), samples), samples)
        what = f"hard-swish {share:g}"
        for runtime in SETTINGS:
            yield Form(f"float, {what}", runtime, partial(_graph, cheap))
        for name, nodes in left[:3:2]:
            yield Form(f"{name}, {what}", "openvino", partial(_int8, cheap, "openvino", samples, nodes))


def _graph(basis: QuantizationBasis) -> ModelProto:
    return basis.model


def _int8(
    basis: QuantizationBasis,
    kernels: str,
    samples: Sequence[Feeds],
    exclude: frozenset[str],
    *,
    kind: RangeKind = "minmax",
    chains: bool = True,
    rebuilt: bool = True,
) -> ModelProto:
    family = FAMILIES[kernels]
    q = quantize(basis.model, basis.table, family, exclude=exclude, chains=chains, ranges=kind)
    if rebuilt:
        q = reconstruct(q, basis.model, family, spread(samples, RECONSTRUCT_SAMPLES))
    return q.model


def table(points: Sequence[Point], name: str, max_drop: float) -> None:
    print(
        f"\n{name}\n\n| form | runtime | time ÷ float | drop | inside {max_drop:g} |\n| --- | --- | --- | --- | --- |"
    )
    for p in sorted((p for p in points if p.model == name), key=lambda p: p.ratio):
        print(
            f"| {p.form} | {p.runtime} | {p.ratio:.3f} [{p.low:.3f}, {p.high:.3f}] "
            f"| {p.drop:.4f} [{p.drop_low:.4f}, {p.drop_high:.4f}] | {'yes' if p.drop <= max_drop else 'no'} |"
        )


def plot(points: Sequence[Point], max_drop: float) -> str:
    """Time against drop, a dot a form; the drop on a logarithmic scale from a tenth of a percent on."""
    width, height, edge = 640, 400, 48
    span = max(1.3, *(p.ratio for p in points))

    def at(p: Point) -> tuple[float, float]:
        depth = (np.log10(max(p.drop, 1e-3)) + 3) / 3
        return edge + p.ratio / span * (width - 2 * edge), edge + (1 - depth) * (height - 2 * edge)

    budget = edge + (1 - (np.log10(max_drop) + 3) / 3) * (height - 2 * edge)
    colours = dict(zip(dict.fromkeys(p.model for p in points), ("#1b6ca8", "#c2571a"), strict=False))
    dots = "".join(
        f'<circle cx="{at(p)[0]:.1f}" cy="{at(p)[1]:.1f}" r="{5 if p.runtime == "openvino" else 3}" '
        f'fill="{colours[p.model]}"><title>{p.model}: {p.form}, {p.runtime}: {p.ratio:.3f}, {p.drop:.4f}</title></circle>'
        for p in points
    )
    ticks = "".join(
        f'<text x="{edge + x / span * (width - 2 * edge):.0f}" y="{height - edge + 18}" font-size="11">{x:g}</text>'
        for x in (0.25, 0.5, 0.75, 1.0, 1.25)
    )
    names = "".join(
        f'<text x="{edge}" y="{18 + 14 * i}" font-size="12" fill="{c}">{n} (large dots: OpenVINO)</text>'
        for i, (n, c) in enumerate(colours.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
        f'<rect width="{width}" height="{height}" fill="white"/>{names}{ticks}'
        f'<line x1="{edge}" x2="{width - edge}" y1="{budget:.1f}" y2="{budget:.1f}" stroke="#888" stroke-dasharray="4"/>'
        f'<text x="{width - edge}" y="{budget - 4:.1f}" font-size="11" text-anchor="end">budget {max_drop:g}</text>'
        f'<text x="{width / 2}" y="{height - 8}" font-size="12">time ÷ float</text>{dots}</svg>\n'
    )


if __name__ == "__main__":
    main()
