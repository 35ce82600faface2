"""How many bytes a bundle takes to send: int8 engine against float ONNX, and what each further variant adds.

    python bench/bundle_sizes.py --models yard-detector road-detector fastestdet resnet50 --cluster 32

Bundles are built as ``edgectl build`` builds them, with little time for measuring: bytes do not depend on it.
FastestDet is read from ../shared/models if it is there. The shapes have seeded weights, so they are built
with a budget of 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import onnx
from shapes import SHAPES

from edgectl.builder.build import build_bundle
from edgectl.builder.compress.options import parse_options
from edgectl.core.bundle import LAYER_ENGINE, LAYER_PACKED, Bundle
from edgectl.pipelines.tasks import load_task

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
CLIPS = {
    "yard-detector": "synth://yard?seed=1&fps=15&seconds=20&paced=0",
    "road-detector": "synth://road?seed=1&fps=15&seconds=20&paced=0",
    "fastestdet": str(SHARED / "media" / "one-by-one-person-detection.mp4"),
}
ENGINES = (LAYER_ENGINE, LAYER_PACKED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=["yard-detector", "road-detector", "fastestdet", "resnet50"]
    )
    parser.add_argument("--profiles", nargs="+", default=["cpu", "cpu-x86-vnni"])
    parser.add_argument("--cluster", type=int, default=0)
    args = parser.parse_args()
    print(
        "| model | variant | engine bytes | of float ONNX | adds | of the bundle so far |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            show(name, make(name, Path(folder), args.profiles, args.cluster))


def make(name: str, folder: Path, profiles: list[str], cluster: int) -> Bundle:
    model, task, drop = folder / f"{name}.onnx", None, 1.0
    if name in SHAPES:
        onnx.save(SHAPES[name](), model)
        clip, random = None, True
        from edgectl.core.task import TaskSpec, TensorInput

        task = TaskSpec(name=name, input=TensorInput())
    else:
        ours = ROOT / "models" / "edgectl" / "models" / f"{name}.onnx"
        model = ours if ours.is_file() else SHARED / "models" / "fastestdet-352.onnx"
        if not model.is_file():
            sys.exit(f"{model} is not there")
        clip, random, drop = CLIPS[name], False, 0.03
        task = load_task(str(ours.with_suffix(".toml")) if ours.is_file() else "fastestdet")
    build_bundle(
        model,
        profiles=profiles,
        task=task,
        calibration=clip,
        out=folder / "bundle",
        max_drop=drop,
        minutes=0.1,
        name=name,
        random_calibration=random,
        compression=parse_options(cluster=cluster) if cluster else None,
    )
    return Bundle(folder / "bundle")


def show(name: str, bundle: Bundle) -> None:
    """A blob that an earlier variant of the bundle has counts nothing."""
    whole = next(v for v in bundle.variants if v.config.recipe.precision == "float32")
    onnx_bytes = (
        whole.config.unpacked.size if whole.config.unpacked else whole.need(LAYER_ENGINE).stat().st_size
    )
    known: set[str] = set()
    total = 0
    for v in bundle.variants:
        fresh = {d.digest: d.size for d in v.descriptors() if d.digest not in known}
        engine = next(d.size for d in v.manifest.layers if d.mediaType in ENGINES)
        share = f"{sum(fresh.values()) / total:.1%}" if total else "–"
        print(
            f"| {name} | {v.config.profile}/{v.config.variant} | {engine:,} | {engine / onnx_bytes:.1%} | {sum(fresh.values()):,} | {share} |",
            flush=True,
        )
        known |= fresh.keys()
        total += sum(fresh.values())


if __name__ == "__main__":
    main()
