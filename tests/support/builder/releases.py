"""A release, and the model that fine-tunes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, numpy_helper
from support.builder.nets import images

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.calibrate import CalibrationTable, calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.previous_release import PreviousEngine, PreviousRelease
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.pack.slim import slim
from edgectl.core.bundle import Recipe
from edgectl.core.task import TaskSpec, TensorInput

__all__ = ["FEEDS", "RECIPE", "TENSOR", "changed", "rebuilt", "release_of", "table_of", "tuned"]

FEEDS = images(8)
TENSOR = TaskSpec(name="tensor", input=TensorInput())
RECIPE = Recipe(
    family="x86-vnni", passes=("upgrade", "quantize:full", "reconstruct"), precision="int8", method="minmax"
)


def table_of(model: ModelProto) -> CalibrationTable:
    return calibrate(model, FEEDS, data_digest="sha256:" + "0" * 64)


def rebuilt(model: ModelProto, family: str = "x86-vnni") -> Quantized:
    return reconstruct(quantize(model, table_of(model), FAMILIES[family]), model, FAMILIES[family], FEEDS)


def changed(model: ModelProto, change: Callable[[str, np.ndarray], np.ndarray]) -> ModelProto:
    other = ModelProto()
    other.CopyFrom(model)
    for t in other.graph.initializer:
        t.CopyFrom(
            numpy_helper.from_array(change(t.name, numpy_helper.to_array(t)).astype(np.float32), t.name)
        )
    return other


def tuned(model: ModelProto, share: float = 0.01) -> ModelProto:
    """Every tensor moves by ``share`` of its standard deviation."""
    rng = np.random.default_rng(7)
    return changed(model, lambda _, w: w + share * w.std() * rng.standard_normal(w.shape))


def release_of(model: ModelProto, engine: ModelProto, recipe: Recipe = RECIPE) -> PreviousRelease:
    """As it is in a bundle: names are short there."""
    return PreviousRelease(
        "net@1", GraphIndex(slim(model)), (PreviousEngine(recipe, GraphIndex(slim(engine))),), {}
    )
