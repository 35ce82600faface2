"""Decoders that judge a whole picture beside their authors' own post-processing, on exports with random weights.

    pip install ultralytics torch torchvision onnx onnxruntime onnxscript
    python bench/whole_picture_vs_authors.py [--only NAME …] [--inputs 20]

Run it in an environment of its own, as decoders_vs_authors.py, whose other half this is. Prints the largest difference
of a probability and whether the five most probable classes come in the same order. Fails above 1e-3 and where they do
not.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from decoders_vs_authors import WITHIN, exported, quietly, restless, session

from edgectl.core.task import TaskSpec
from edgectl.pipelines.decoders import make_reader

SIDE = 224
TOP = 5


@dataclass
class Classifier:
    """A model, and what its authors make of its outputs: probabilities (C,)."""

    run: Callable[[np.random.Generator], dict[str, np.ndarray]]
    theirs: Callable[[dict[str, np.ndarray]], np.ndarray]
    softmax: bool


def ultralytics(name: str) -> Classifier:
    import torch
    from ultralytics import YOLO
    from ultralytics.engine.results import Results

    torch.manual_seed(1)
    model = YOLO(f"{name}.yaml")
    model.model.eval()
    restless(model.model, (1, 3, SIDE, SIDE))
    # no class that is sure of every picture
    model.model.model[-1].linear.weight.data.mul_(20)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quietly():
        path = model.export(format="onnx", imgsz=SIDE, simplify=False, opset=17)
        run = session(Path(path).read_bytes())

    def theirs(outputs: dict[str, np.ndarray]) -> np.ndarray:
        probabilities = torch.tensor(next(iter(outputs.values())))[0]
        found = Results(np.zeros((SIDE, SIDE, 3), np.uint8), path="", names={}, probs=probabilities)
        return found.probs.data.numpy()

    return Classifier(run, theirs, softmax=False)


def torchvision(name: str) -> Classifier:
    import torch
    import torchvision

    torch.manual_seed(1)
    model: Any = torchvision.models.get_model(name, weights=None).eval()
    restless(model, (1, 3, SIDE, SIDE))
    run = exported(model, torch.rand(1, 3, SIDE, SIDE))

    def theirs(outputs: dict[str, np.ndarray]) -> np.ndarray:
        # as the examples of torchvision's own documentation
        return torch.tensor(outputs["o0"]).squeeze(0).softmax(0).numpy()

    return Classifier(run, theirs, softmax=True)


CLASSIFIERS: dict[str, Callable[[str], Classifier]] = {
    **dict.fromkeys(("yolov8n-cls", "yolo11n-cls", "yolo26n-cls"), ultralytics),
    **dict.fromkeys(("resnet18", "mobilenet_v3_small", "efficientnet_b0"), torchvision),
}


def compare(model: Classifier, inputs: int) -> tuple[float, bool, int]:
    """Largest difference of a probability, whether the most probable come in the same order, and how many classes came
    first in some picture."""
    worst, same, firsts = 0.0, True, set()
    decode = None
    for seed in range(inputs):
        outputs = model.run(np.random.default_rng(seed))
        wanted = model.theirs(outputs)
        if decode is None:
            decode = make_reader("classifier", *[task(len(wanted), softmax=model.softmax)] * 2)
        found = decode(outputs)
        worst = max(worst, float(np.abs(found.p - wanted).max()))
        order = np.argsort(-wanted, kind="stable")[:TOP].tolist()
        same &= [label for label, _ in found.top(TOP)] == order
        firsts.add(order[0])
    return worst, same, len(firsts)


def task(classes: int, *, softmax: bool) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": SIDE, "height": SIDE},
            "decode": {"kind": "classify", "softmax": softmax},
            "labels": [f"c{i}" for i in range(classes)],
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=list(CLASSIFIERS))
    parser.add_argument("--inputs", type=int, default=20)
    args = parser.parse_args()
    failed = False
    print("| model | decoder | pictures | probability | top 5 in order |\n| --- | --- | --- | --- | --- |")
    for name in args.only:
        worst, same, firsts = compare(CLASSIFIERS[name](name), args.inputs)
        failed |= worst > WITHIN or not same
        order = "yes" if same else "no"
        print(f"| {name} | `classify` | {args.inputs} ({firsts} first) | {worst:.1e} | {order} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
