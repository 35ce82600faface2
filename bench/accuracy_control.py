"""The builder's remedies against NNCF's ``quantize_with_accuracy_control``: same model, samples, metric and
budget. Wall time and drop.

    python bench/accuracy_control.py --models yard-detector fastestdet --shared ../shared --nncf-packages
    ENV/lib/python3.11/site-packages

NNCF is installed in an environment of its own and found there, behind everything of ours (it must have been
made with the same Python). Both calibrate on the calibration slice and are validated on the search slice by
our judge, in OpenVINO for NNCF and in ONNX Runtime for ours, one thread; both times include
calibration. The confirmation slice, which nobody chose on, judges what came out. Our figure is its
graph with most in int8 that holds on both slices, or float.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import onnx
from builder_vs_peers import REAL

from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.samples import Slices, collect, slice_samples
from edgectl.builder.int8.basis import prepare_basis
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import escalate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import load_1m
from edgectl.pipelines.tasks import load_task

_F32 = SessionSettings(precision_hint="f32")


class Compiled:
    """NNCF's compiled model, as our judge wants an engine."""

    def __init__(self, compiled) -> None:
        self._compiled = compiled

    def run(self, feeds: Feeds) -> Outputs:
        return {o.get_any_name(): v for o, v in self._compiled(dict(feeds)).items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["yard-detector", "fastestdet"], choices=list(REAL))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--max-drop", type=float, default=0.01)
    parser.add_argument("--nncf-packages", type=Path, required=True)
    a = parser.parse_args()
    for name in a.models:
        model, task_name, data = (x.replace("SHARED", str(a.shared)) for x in REAL[name])
        task = load_task(task_name)
        graph, inputs, _ = prepare(Path(model), task)
        with tempfile.TemporaryDirectory() as folder:
            reference = open_model(graph.SerializeToString(), SessionSettings())
            slices = slice_samples(collect(data, task, inputs, reference, Path(folder)), None)
            judge, confirm = (Judge(task, s, reference) for s in (slices.search, slices.confirmation))
            for who, make in (("edgectl", ours), ("NNCF", nncf)):
                start = time.monotonic()
                what, drop, engine = make(graph, slices, judge, confirm, a)
                seconds = time.monotonic() - start
                final = confirm.judge(engine).drop
                print(
                    f"{name:14} {who:8} {seconds:6.1f} s  {what:28} drop {drop:.4f}, confirmed {final:.4f}; load {load_1m()}",
                    flush=True,
                )


def ours(graph: onnx.ModelProto, slices: Slices, judge: Judge, confirm: Judge, a: argparse.Namespace):
    family, feeds = FAMILIES["x86-vnni"], [s.feeds for s in slices.calibration]
    table = calibrate(graph, feeds, data_digest=slices.digest)
    basis = prepare_basis(graph, table, family, feeds, judge, max_drop=a.max_drop, tell=lambda what: None)
    graphs = escalate(
        basis,
        family,
        feeds,
        judge,
        max_drop=a.max_drop,
        timed=True,
        tell=lambda what: print(f"   {what}", file=sys.stderr),
    )
    order = sorted(
        graphs.recipes.items(), key=lambda r: (len(r[1].placement.reasons), graphs.judged[r[0]].drop)
    )
    for name, chosen in order:
        engine = open_model(chosen.model.SerializeToString(), SessionSettings())
        if confirm.judge(engine, limit=a.max_drop).drop <= a.max_drop:  # as a build does; it is in the time
            return f"{name}, {len(chosen.placement.reasons)} float", graphs.judged[name].drop, engine
    best = min(graphs.judged.items(), key=lambda r: r[1].drop)
    return (
        f"float ({best[0]} lost {best[1].drop:.4f})",
        0.0,
        open_model(graph.SerializeToString(), SessionSettings()),
    )


def nncf(graph: onnx.ModelProto, slices: Slices, judge: Judge, confirm: Judge, a: argparse.Namespace):
    sys.path.append(str(a.nncf_packages))
    import nncf
    import openvino as ov

    feeds = [dict(s.feeds) for s in slices.calibration]
    validated = [0]

    def validate(compiled, data) -> tuple[float, None]:
        validated[0] += 1
        return 1 - judge.judge(Compiled(compiled)).drop, None

    core = ov.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        onnx.save(graph, file.name)
        model = core.read_model(file.name)
    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(feeds),
        nncf.Dataset([dict(s.feeds) for s in slices.search]),
        validate,
        max_drop=a.max_drop,
        subset_size=len(feeds),
    )
    compiled = Compiled(core.compile_model(quantized, "CPU"))
    left = sum(op.get_type_name() == "FakeQuantize" for op in quantized.get_ops())
    return f"{left} FakeQuantize, {validated[0]} validations", judge.judge(compiled).drop, compiled


if __name__ == "__main__":
    main()
