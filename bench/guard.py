"""Does anything ship that is slower than float or over the accuracy budget? Generated graphs, real builds,
real timings.

    python bench/guard.py --seeds 12

Each seed makes a graph that int8 does not like (SiLU chains, one channel 100 × the others, tiny and
depth-wise convolutions, matrix-vector products; the generator is that of the tests). Every quantized variant
that `edgectl build` ships is then measured again in new processes, in turn with the float fallback, and
judged again on pictures that the build never saw. *Slower* is a paired ratio whose whole 95 % interval is
above 1; *over* a drop above the budget, *surely over* one whose whole interval is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.builder.adversarial import adversarial, pictures

from edgectl.builder.build import build_bundle
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import LAYER_ENGINE, Bundle, Variant
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.open import open_engine
from edgectl.engines.measure.processes import MeasuredEngine, measure_in_processes, summarise_processes
from edgectl.engines.timing import load_1m

TASK = TaskSpec(name="tensor", input=TensorInput())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--max-drop", type=float, default=0.002, help="1 - cosine of the outputs")
    parser.add_argument("--minutes", type=float, default=0.1)
    a = parser.parse_args()
    print(f"{probe().summary}, load {load_1m()}; budget {a.max_drop:g}\n")
    print(
        "| seed | variant | at the build | measured again × float [95 %] | drop on new pictures [95 %] | |\n| - | - | - | - | - | - |"
    )
    counts = dict.fromkeys(("shipped", "slower", "over", "surely over"), 0)
    for seed in range(a.first, a.first + a.seeds):
        with tempfile.TemporaryDirectory(prefix="edgectl-guard-") as folder:
            one(seed, a, Path(folder), counts)
    print(
        f"\n{a.seeds} graphs; of {counts['shipped']} quantized variants that shipped, {counts['slower']} slower than float, "
        f"{counts['over']} over the budget ({counts['surely over']} surely)"
    )


def one(seed: int, a: argparse.Namespace, folder: Path, counts: dict[str, int]) -> None:
    (folder / "model.onnx").write_bytes(
        adversarial(seed, size=a.size, channels=a.channels).SerializeToString()
    )
    np.savez(folder / "data.npz", image=np.concatenate(pictures(128, seed=seed, size=a.size)))
    build_bundle(
        folder / "model.onnx",
        profiles=["cpu"],
        task=TASK,
        calibration=str(folder / "data.npz"),
        out=folder / "out",
        max_drop=a.max_drop,
        minutes=a.minutes,
        name=f"seed-{seed}",
    )
    variants = Bundle(folder / "out").variants
    fallback = variants[-1]
    fresh = [Sample({"image": p}) for p in pictures(64, seed=seed + 10_000, size=a.size)]
    judge = Judge(TASK, fresh, open_engine(fallback))
    quantized = [v for v in variants if v.config.recipe.precision == "int8"]
    if not quantized:
        print(f"| {seed} | float | | | | |")
    for v in quantized:
        times = measure_in_processes(
            {"variant": contender(v), "float": contender(fallback)}, [s.feeds for s in fresh[:4]]
        )
        again = summarise_processes(times["variant"], times["float"])
        accuracy = judge.judge(open_engine(v))
        slower = (again.ratio_low or 0) > 1
        over, surely = accuracy.drop > a.max_drop, accuracy.low > a.max_drop
        for key, hit in (("shipped", True), ("slower", slower), ("over", over), ("surely over", surely)):
            counts[key] += hit
        m = v.config.measured
        verdict = ", ".join(
            w
            for w, hit in (("SLOWER", slower), ("OVER", over and not surely), ("SURELY OVER", surely))
            if hit
        )
        print(
            f"| {seed} | {v.config.variant} | {m.ratio_to_float if m else '-'} | {again.ratio_to_float} [{again.ratio_low}, {again.ratio_high}] "
            f"| {accuracy.drop:.5f} [{accuracy.low:.5f}, {accuracy.high:.5f}] | {verdict} |",
            flush=True,
        )


def contender(v: Variant) -> MeasuredEngine:
    return MeasuredEngine(v.need(LAYER_ENGINE).read_bytes(), v.config.runtime, v.config.session)


if __name__ == "__main__":
    main()
