"""Whether preprocessing belongs into the graph: the whole route from a picture to the outputs is measured
both ways, in turn.

A graph that takes pixels does more work than one that takes normalised planes, and the device does less
around it. So engines are not compared here, but preprocessing and engine together, by the very preprocessing
that runs on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.passes.base import FloatReference
from edgectl.builder.passes.fold_input import FoldInput, folded_spec
from edgectl.core.bundle import Runtime, SessionSettings
from edgectl.core.errors import EdgectlError, ModelError
from edgectl.core.measured import RouteGain
from edgectl.core.task import ImageInput
from edgectl.engines.base import Engine
from edgectl.engines.finalise.guarded import open_guarded
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, paired_ratio
from edgectl.pipelines.video.preprocess import Preprocessor

__all__ = ["Folded", "fold_if_faster"]

# of the time: the whole interval of the ratio must lie below
_WORTH = 0.98
_MAX_ROUNDS = 600
_COMPARED = 3  # pictures on which both must compute the same


@dataclass(frozen=True)
class Folded:
    """A graph with its preprocessing inside, and what that brought."""

    model: bytes
    spec: ImageInput
    gain: RouteGain


def fold_if_faster(
    model: ModelProto,
    spec: ImageInput,
    pictures: Sequence[NDArray[np.uint8]],
    *,
    runtime: Runtime,
    settings: SessionSettings,
    seconds: float,
) -> Folded | None:
    """The graph with preprocessing inside, if that makes the route faster; None if not.

    ``pictures``: BGR, of the size of the input. It stays outside, too, where the folded graph would not
    compute the same.
    """
    step, inner = FoldInput(spec), folded_spec(spec)
    try:
        step.requires(model)
    except ModelError:
        return None
    folded, _ = step.run(model)
    step.ensures(folded)
    name = model.graph.input[0].name
    outside, inside = Preprocessor(spec), Preprocessor(inner)
    if not all(
        _same(model, folded, {name: outside(p)[0]}, {name: inside(p)[0]}) for p in pictures[:_COMPARED]
    ):
        # codes half-way between two steps may round the other way
        return None
    data = folded.SerializeToString(deterministic=True)
    try:
        after = open_guarded(data, settings, runtime=runtime)
    except EdgectlError:
        # a runtime without kernels for it keeps the graph that it has
        return None
    before = open_model(model.SerializeToString(), settings, runtime=runtime)
    turn = [0]

    def picture_to_outputs(engine: Engine, preprocess: Preprocessor) -> object:
        turn[0] += 1
        return engine.run({name: preprocess(pictures[turn[0] % len(pictures)])[0]})

    prepared = inside(pictures[0])[0].copy()
    runs = {
        "outside": lambda: picture_to_outputs(before, outside),
        "inside": lambda: picture_to_outputs(after, inside),
        "engine": lambda: after.run({name: prepared}),
    }
    times = interleave(runs, seconds=seconds, min_rounds=20, max_rounds=_MAX_ROUNDS)
    before.close()
    after.close()
    ratio = paired_ratio(times["inside"], times["outside"])
    if ratio.high > _WORTH:
        return None
    engine_ms = float(np.median(times["engine"]))
    gain = RouteGain(
        ratio=round(ratio.median, 4),
        low=round(ratio.low, 4),
        high=round(ratio.high, 4),
        engine_p50_ms=round(engine_ms, 5),
    )
    return Folded(data, inner, gain)


def _same(
    model: ModelProto,
    folded: ModelProto,
    feeds: dict[str, NDArray[np.generic]],
    pixels: dict[str, NDArray[np.generic]],
) -> bool:
    """Whether both compute the same on the same picture, by the arithmetic of their nodes as they are."""
    reference = FloatReference.record(model.SerializeToString(), feeds)
    try:
        replace(reference, feeds=pixels).check(folded)
    except ModelError:
        return False
    return True
