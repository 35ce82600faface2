"""One graph through all that a build does with numbers, without the clock: canonical form, calibration,
each family's graph, its linter, ONNX Runtime with and without graph optimisation, and float16. What does
not hold raises; the timed search is left out."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto

from edgectl.builder.ingest.canonical import canonical
from edgectl.builder.int8 import lint
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.int8.matmul import matmuls_dominate, rewrite_matmuls
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.core.bundle import SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise.golden import measure
from edgectl.engines.finalise.open import open_model

__all__ = ["DATA", "TENSOR", "through_every_family"]

TENSOR = TaskSpec(name="tensor", input=TensorInput())
DATA = "sha256:" + "0" * 64
# cosine with float, plain rounding of noise: what is below is wired wrongly, not rounded
_SANE = 0.9
_SANE_4_BITS = 0.85


def through_every_family(model: ModelProto, feeds: list[Feeds]) -> dict[str, ModelProto]:
    """Family and form → graph, of all that were written. Raises AssertionError, or what the builder
    raises."""
    ends = [(o.name, o.type.tensor_type.elem_type) for o in model.graph.output]
    graph, _, _ = canonical(model, TENSOR)
    assert [(o.name, o.type.tensor_type.elem_type) for o in graph.graph.output] == ends
    want = _run(model, feeds, "disabled")
    table = calibrate(graph, feeds, data_digest=DATA)
    largest = {t: max(-r.low, r.high) for t, r in table.ranges.items()}
    made: dict[str, ModelProto] = {"float": graph, "float16": to_float16(graph, largest)[0]}
    for family in FAMILIES.values():
        written: dict[str, Quantized] = {}
        if family.placement == "matmul":
            if matmuls_dominate(graph):
                written["plain"] = rewrite_matmuls(graph, family.name, FAMILIES["x86-vnni"])  # type: ignore[arg-type]
        else:
            written["plain"] = quantize(graph, table, family)
            written["alone"] = quantize(graph, table, family, chains=False)
            written["rebuilt"] = reconstruct(written["plain"], graph, family, feeds[:4], rows=256)
        for form, quantized in written.items():
            lint.check(quantized.model, quantized.family)
            made[f"{family.name} {form}"] = quantized.model
            if family.name.startswith("trt"):
                made[f"{family.name} {form} float16"] = to_float16(quantized.model, largest)[0]
    for name, changed in made.items():
        onnx.checker.check_model(changed)
        assert [(o.name, o.type.tensor_type.elem_type) for o in changed.graph.output] == ends, name
        for optimization in ("disabled",) if name.startswith("trt") else ("all", "disabled"):
            alike = _cosine(want, _run(changed, feeds, optimization))
            assert alike > (_SANE_4_BITS if name.startswith("weights-4") else _SANE), (
                f"{name}, {optimization}: {alike:.4f}"
            )
    return made


def _run(model: ModelProto, feeds: list[Feeds], optimization: str) -> list[Outputs]:
    engine = open_model(
        model.SerializeToString(), SessionSettings.model_validate({"optimization": optimization})
    )
    outputs = [engine.run(f) for f in feeds]
    engine.close()
    return outputs


def _cosine(want: list[Outputs], got: list[Outputs]) -> float:
    """Of the worst output, over all samples; one that float has at nought counts as alike."""
    worst = 1.0
    for name in want[0]:
        a, b = (np.concatenate([o[name].astype(np.float64).ravel() for o in side]) for side in (want, got))
        worst = min(worst, measure(a, b).cosine) if np.linalg.norm(a) > 1e-6 else worst
    return worst
