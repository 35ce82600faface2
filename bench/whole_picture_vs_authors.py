"""Decoders that judge a whole picture beside their authors' own post-processing, on exports with random weights.

    pip install ultralytics torch torchvision onnx onnxruntime onnxscript
    python bench/whole_picture_vs_authors.py [--only NAME …] [--inputs 20]

Run it in an environment of its own, as decoders_vs_authors.py, whose other half this is. Prints the largest difference
of a probability and whether the five most probable classes come in the same order; of models that say what each pixel
is, the share of pixels for which both do not say the same. Fails above 1e-3 and where the order is another one.
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
from edgectl.pipelines.video.preprocess import LetterboxMeta

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


@dataclass
class Segmenter:
    """A model, and what its authors make of its outputs: a class of each pixel (H, W)."""

    run: Callable[[np.random.Generator], dict[str, np.ndarray]]
    theirs: Callable[[dict[str, np.ndarray]], np.ndarray]
    classes: int
    side: int = SIDE


def ultralytics_semantic(name: str) -> Segmenter:
    import torch
    from ultralytics import YOLO
    from ultralytics.models.yolo.semantic import SemanticSegmentationPredictor

    torch.manual_seed(1)
    model = YOLO(f"{name}.yaml")
    model.model.eval()
    restless(model.model, (1, 3, SIDE, SIDE))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), quietly():
        path = model.export(format="onnx", imgsz=SIDE, simplify=False, opset=17)
        run = session(Path(path).read_bytes())
    head = model.model.model[-1]
    predictor = SemanticSegmentationPredictor(overrides={"save": False})
    predictor.model, predictor.batch = model.model, ([""], None, None)

    def theirs(outputs: dict[str, np.ndarray]) -> np.ndarray:
        picture = torch.zeros(1, 3, SIDE, SIDE)
        out = torch.tensor(next(iter(outputs.values())))
        found = predictor.postprocess(out, picture, [np.zeros((SIDE, SIDE, 3), np.uint8)])[0]
        return found.semantic_mask.data.squeeze().numpy()

    return Segmenter(run, theirs, head.nc)


def torchvision_semantic(name: str) -> Segmenter:
    import torch
    import torchvision

    torch.manual_seed(1)
    model: Any = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=21
    ).eval()
    restless(model, (1, 3, SIDE, SIDE))

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.model(x)["out"]
            return scores

    run = exported(Scores().eval(), torch.rand(1, 3, SIDE, SIDE))

    def theirs(outputs: dict[str, np.ndarray]) -> np.ndarray:
        # as the examples of torchvision's own documentation
        return torch.tensor(outputs["o0"])[0].argmax(0).numpy()

    return Segmenter(run, theirs, 21)


SEGMENTERS: dict[str, Callable[[str], Segmenter]] = {
    "yolo26n-sem": ultralytics_semantic,
    **dict.fromkeys(("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"), torchvision_semantic),
}


def pixels_apart(model: Segmenter, inputs: int) -> tuple[float, int]:
    """The share of pixels of which both do not say the same, and how many classes there are in all pictures."""
    decode = make_reader("segmenter", *[task(model.classes, kind="semantic")] * 2)
    meta = LetterboxMeta(1, 1, 0, 0, SIDE, SIDE, SIDE, SIDE)
    apart, seen = [], set()
    for seed in range(inputs):
        outputs = model.run(np.random.default_rng(seed))
        wanted = model.theirs(outputs)
        apart.append(float((decode(outputs, meta).classes != wanted).mean()))
        seen |= set(np.unique(wanted).tolist())
    return float(np.mean(apart)), len(seen)


def compare(model: Classifier, inputs: int) -> tuple[float, bool, int]:
    """Largest difference of a probability, whether the most probable come in the same order, and how many classes came
    first in some picture."""
    worst, same, firsts = 0.0, True, set()
    decode = None
    for seed in range(inputs):
        outputs = model.run(np.random.default_rng(seed))
        wanted = model.theirs(outputs)
        if decode is None:
            spec = task(len(wanted), kind="classify", softmax=model.softmax)
            decode = make_reader("classifier", spec, spec)
        found = decode(outputs)
        worst = max(worst, float(np.abs(found.p - wanted).max()))
        order = np.argsort(-wanted, kind="stable")[:TOP].tolist()
        same &= [label for label, _ in found.top(TOP)] == order
        firsts.add(order[0])
    return worst, same, len(firsts)


def task(classes: int, **decode: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "t",
            "input": {"kind": "image", "width": SIDE, "height": SIDE},
            "decode": decode,
            "labels": [f"c{i}" for i in range(classes)],
        }
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[*CLASSIFIERS, *SEGMENTERS])
    parser.add_argument("--inputs", type=int, default=20)
    args = parser.parse_args()
    failed = False
    print("| model | decoder | pictures | probability | top 5 in order |\n| --- | --- | --- | --- | --- |")
    for name in (n for n in args.only if n in CLASSIFIERS):
        worst, same, firsts = compare(CLASSIFIERS[name](name), args.inputs)
        failed |= worst > WITHIN or not same
        order = "yes" if same else "no"
        print(f"| {name} | `classify` | {args.inputs} ({firsts} first) | {worst:.1e} | {order} |", flush=True)
    print("\n| model | decoder | pictures | pixels that differ |\n| --- | --- | --- | --- |")
    for name in (n for n in args.only if n in SEGMENTERS):
        apart, classes = pixels_apart(SEGMENTERS[name](name), args.inputs)
        failed |= apart > WITHIN
        print(f"| {name} | `semantic` | {args.inputs} ({classes} classes) | {apart:.1e} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
