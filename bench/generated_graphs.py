"""Do models build? Small graphs around every fused pattern, through the real builder, with hardly any time
for measuring.

    python bench/generated_graphs.py [--count 500] [--jobs 2] [--profiles cpu,jetson-orin] [--rtx] [--json]

Each graph (``tests/support/builder/fused.py``) ends as a *valid bundle*, in *one sentence*, or *fell* (a traceback, a
broken bundle). Valid: the ONNX checker is content with every engine, names and types of the outputs are those
of the model, ONNX Runtime reproduces the golden outputs of every CPU variant, and every variant computes what
float computes (cosine ≥ 0.9 of the worst output: a wrong wire, not rounding). With ``--rtx`` and
``tensorrt-rtx-cu12`` installed, NVIDIA's compiler builds every TensorRT-bound graph for SM 8.6, and how many
it accepts is said. Exits 1 if anything fell.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.builder.fused import Case, cases, feeds_of, make

from edgectl.builder.build import build_bundle
from edgectl.core.bundle import LAYER_ENGINE, Bundle, SessionSettings
from edgectl.core.errors import EdgectlError
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.finalise.golden import check_golden, measure
from edgectl.engines.finalise.open import open_engine, open_model
from edgectl.engines.finalise.rtx import accept, need_compiler

TASK = TaskSpec(name="tensor", input=TensorInput())
SANE = 0.9


@dataclass(frozen=True)
class Result:
    case: str
    end: str
    """``valid``, ``sentence`` or ``fell``."""
    said: str = ""
    variants: int = 0
    compiled: int = 0
    """TensorRT-bound graphs that NVIDIA's compiler was given."""
    refused: tuple[str, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--profiles", default="cpu,jetson-orin")
    parser.add_argument("--rtx", action="store_true", help="also compile what is bound for TensorRT")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    if a.rtx:
        need_compiler()
    work = [(case, a.profiles.split(","), a.rtx) for case in cases(a.count)]
    results: list[Result] = []
    with multiprocessing.get_context("spawn").Pool(a.jobs, maxtasksperchild=20) as pool:
        for r in pool.imap_unordered(tried, work):
            results.append(r)
            if r.end != "valid" or r.refused:
                print(f"{r.end}: {r.case}: {r.said or '; '.join(r.refused)}", file=sys.stderr, flush=True)
            elif len(results) % 25 == 0:
                print(f"{len(results)} of {len(work)}", file=sys.stderr, flush=True)
    ends = Counter(r.end for r in results)
    print(json.dumps([asdict(r) for r in results], indent=2) if a.json else summary(results, ends))
    return 1 if ends["fell"] else 0


def summary(results: list[Result], ends: Counter[str]) -> str:
    lines = [
        f"{len(results)} graphs: {ends['valid']} valid bundles ({sum(r.variants for r in results)} variants), "
        f"{ends['sentence']} ended in one sentence, {ends['fell']} fell"
    ]
    if compiled := sum(r.compiled for r in results):
        refused = sum(len(r.refused) for r in results)
        lines.append(
            f"{compiled - refused} of {compiled} TensorRT-bound graphs accepted by NVIDIA's compiler for SM 8.6"
        )
    return "\n".join(lines)


def tried(work: tuple[Case, list[str], bool]) -> Result:
    case, profiles, rtx = work
    model = make(case)
    with tempfile.TemporaryDirectory(prefix="edgectl-generated-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        feeds = feeds_of(model, 48)
        np.savez(Path(folder) / "data.npz", **{n: np.stack([f[n] for f in feeds]) for n in feeds[0]})
        try:
            build_bundle(
                path,
                profiles=profiles,
                task=TASK,
                calibration=str(Path(folder) / "data.npz"),
                out=Path(folder) / "out",
                minutes=0.01,
            )
            return checked(case, model, Bundle(Path(folder) / "out"), feeds[:6], rtx)
        except EdgectlError as e:
            broke = "--debug" in (e.hint or "") or not e.message or "\n" in e.message
            return Result(
                case.name, "fell" if broke else "sentence", f"{e.message} ({e.hint or 'no next step'})"
            )
        except Exception:
            return Result(case.name, "fell", traceback.format_exc())


def checked(
    case: Case, model: onnx.ModelProto, bundle: Bundle, feeds: list[dict[str, np.ndarray]], rtx: bool
) -> Result:
    plain = SessionSettings.model_validate({"optimization": "disabled"})
    reference = open_model(model.SerializeToString(), plain)
    want = [reference.run(f) for f in feeds]
    ends = [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output]
    compiled, refused = 0, []
    for variant in bundle.variants:
        data = variant.need(LAYER_ENGINE).read_bytes()
        written = onnx.load_from_string(data)
        onnx.checker.check_model(written)
        if [(o.name, o.type.tensor_type.elem_type) for o in written.graph.output] != ends:
            return Result(case.name, "fell", f"{variant.config.variant} has other outputs than the model")
        on_cpu = variant.config.runtime == "onnxruntime"
        if on_cpu:
            engine = open_engine(variant)
            check_golden(engine, variant)
        else:
            engine = open_model(data, plain)
            if rtx:
                compiled += 1
                verdict = accept(variant.need(LAYER_ENGINE))
                if not verdict.accepted:
                    refused.append(f"{variant.config.variant}: {verdict.told()[:200]}")
        got = [engine.run(f) for f in feeds]
        engine.close()
        for name in want[0]:
            a, b = (
                np.concatenate([o[name].astype(np.float64).ravel() for o in side]) for side in (want, got)
            )
            if np.linalg.norm(a) > 1e-6 and measure(a, b).cosine < SANE:
                return Result(
                    case.name,
                    "fell",
                    f"output {name} of {variant.config.variant} has nothing to do with float's",
                )
    return Result(case.name, "valid", "", len(bundle.variants), compiled, tuple(refused))


if __name__ == "__main__":
    sys.exit(main())
