"""Small models that are made here, for benches that need one whose answers mean something: a ResNet8-shaped
classifier of ten classes.

The shape is that of MLPerf Tiny's image classification (32 × 32 × 3, three residual blocks of 16, 32 and 64
channels, 12.5 M multiply-accumulates). Its convolutions are drawn, its head is fitted in closed form (ridge
regression) to ten kinds of stripes, over which another kind shines through, with noise: like a real one it is
sure of most pictures, and the others are near ties. numpy alone; seconds.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from shapes import _Net

from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model

__all__ = ["TASK", "classifier", "pictures", "resnet8", "write_classifier"]

_CLASSES = 10
_RIDGE = 1e-3

TASK = """\
name = "ten-stripes"
metric = "top1"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
[input]
kind = "image"
width = 32
height = 32
fit = "stretch"
[decode]
kind = "keyword"
"""


def resnet8(seed: int = 0) -> ModelProto:
    """The shape with drawn weights."""
    n = _Net("resnet8", 32, seed)
    x = n.relu(n.conv("image", 16, 3))
    for out, stride in ((16, 1), (32, 2), (64, 2)):
        y = n.conv(n.relu(n.conv(x, out, 3, stride)), out, 3, gain=0.5)
        skip = x if stride == 1 else n.conv(x, out, 1, stride, gain=1.0)
        x = n.relu(n.op("Add", [y, skip], out))
    return n.model([n.classifier(x, _CLASSES)])


def pictures(seed: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(count, 32, 32, 3) RGB, and the kind of stripes (their direction) of each."""
    rng = np.random.default_rng(seed)
    kind, ghost = (rng.integers(0, _CLASSES, count) for _ in range(2))
    rows, columns = np.mgrid[0:32, 0:32]

    def stripes(of: NDArray[np.int64]) -> NDArray[np.float64]:
        angle = np.pi * (of + rng.uniform(-0.15, 0.15, count)) / _CLASSES
        across = rows * np.sin(angle)[:, None, None] + columns * np.cos(angle)[:, None, None]
        wave = np.sin(
            2 * np.pi * across / rng.uniform(4, 6, count)[:, None, None]
            + rng.uniform(0, 6.3, count)[:, None, None]
        )
        return (0.5 + 0.5 * wave)[..., None] * rng.uniform(0.5, 1.0, (count, 1, 1, 3))

    share = rng.uniform(0.0, 0.35, (count, 1, 1, 1))
    shown = stripes(kind) * (1 - share) + stripes(ghost) * share + rng.normal(0, 0.05, (count, 32, 32, 3))
    return (np.clip(shown, 0, 1) * 255).round().astype(np.uint8), kind.astype(np.int64)


@functools.cache
def classifier() -> tuple[ModelProto, float]:
    """The model with its head, and its top-1 on pictures that it was not fitted to."""
    model = resnet8()
    features = _features(model, pictures(0, 3000)[0])
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    x = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
    wanted = 4 * (np.eye(_CLASSES)[pictures(0, 3000)[1]] - 0.1)
    fitted = np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ wanted)
    weight = (fitted[:-1] / scale[:, None]).T
    bias = fitted[-1] - weight @ mean
    head = model.graph.node[-1]
    for t in model.graph.initializer:
        if t.name in head.input:
            t.CopyFrom(
                numpy_helper.from_array((weight if len(t.dims) == 2 else bias).astype(np.float32), t.name)
            )
    test, truth = pictures(1, 1000)
    said = (_features(model, test) @ weight.T + bias).argmax(axis=1)
    return model, float(np.mean(said == truth))


def _features(model: ModelProto, shown: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the head reads of each picture (count, 64)."""
    body = ModelProto()
    body.CopyFrom(model)
    body.graph.output[0].name = body.graph.node[-1].input[0]
    body.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 64
    del body.graph.node[-1]
    engine = open_model(body.SerializeToString(), SessionSettings())
    inputs = shown.astype(np.float32).transpose(0, 3, 1, 2) / 255
    rows = [next(iter(engine.run({"image": picture[None]}).values())).ravel() for picture in inputs]
    engine.close()
    return np.asarray(rows, np.float64)


def write_classifier(folder: Path, count: int = 227) -> float:
    """``classifier.onnx``, ``classifier.toml`` and ``pictures/`` (PNG, ``count`` of them). Returns the
    model's top-1."""
    import cv2

    model, top1 = classifier()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    (folder / "classifier.onnx").write_bytes(model.SerializeToString())
    (folder / "classifier.toml").write_text(TASK)
    for i, picture in enumerate(pictures(3, count)[0]):
        cv2.imwrite(str(folder / "pictures" / f"{i:04d}.png"), picture[:, :, ::-1])
    return top1
