"""Bring a graph to a form that the other passes know: a recent opset, no initializers among the inputs, a name
for every node."""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import ModelProto

from edgectl.builder.passes.base import Pass
from edgectl.core.errors import ModelError

__all__ = ["MIN_OPSET", "Upgrade"]

MIN_OPSET = 17


class Upgrade(Pass):
    """Old opsets upgraded to 17, initializers out of the inputs, every node named."""

    name = "upgrade"
    hint = "export the model with opset 17"

    def requires(self, model: ModelProto) -> None:
        if not model.graph.output:
            raise ModelError("the model has no outputs")

    def run(self, model: ModelProto) -> tuple[ModelProto, bool]:
        before = model.SerializeToString(deterministic=True)
        changed = ModelProto()
        changed.CopyFrom(model)
        initializers = {t.name for t in changed.graph.initializer}
        inputs = [i for i in changed.graph.input if i.name not in initializers]
        del changed.graph.input[:]
        changed.graph.input.extend(inputs)
        # what opset 17 needs, and every ONNX Runtime we support reads
        changed.ir_version = min(max(changed.ir_version, 8), 10)
        if _opset(changed) < MIN_OPSET:
            stretched = _stretched(changed)
            try:
                changed = onnx.version_converter.convert_version(changed, MIN_OPSET)
            except Exception as e:
                # the converter is C++ and raises RuntimeError and others
                reason = str(e).strip().splitlines()[0][:200]
                raise ModelError(
                    f"opset {_opset(model)} cannot be upgraded to {MIN_OPSET}: {reason}",
                    hint="export the model with opset 17",
                ) from e
            _stretch_as_before(changed, stretched)
        taken = {n.name for n in changed.graph.node}
        for i, node in enumerate(changed.graph.node):
            if not node.name:
                node.name = next(n for n in (f"{node.op_type}_{i}", f"{node.op_type}_{i}_") if n not in taken)
        return changed, changed.SerializeToString(deterministic=True) != before

    def ensures(self, model: ModelProto) -> None:
        if _opset(model) < MIN_OPSET:
            raise ModelError(f"opset is still {_opset(model)}")
        names = Counter(n.name for n in model.graph.node)
        if twice := [n for n, count in names.items() if count > 1]:
            raise ModelError(f"node names are not unique: {', '.join(twice[:3])}")


def _stretched(model: ModelProto) -> frozenset[str]:
    """What is resized by the rule that was the only one before opset 11: output pixel i comes from input
    pixel i / scale."""
    old = _opset(model) < 11
    return frozenset(n.output[0] for n in model.graph.node if old and n.op_type in ("Upsample", "Resize"))


def _stretch_as_before(model: ModelProto, stretched: frozenset[str]) -> None:
    """The converter writes a Resize and leaves out the rule, which is another one by default since then."""
    for n in model.graph.node:
        if n.op_type == "Resize" and n.output[0] in stretched:
            rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            kept = [a for a in n.attribute if a.name not in rule]
            del n.attribute[:]
            n.attribute.extend([*kept, *(onnx.helper.make_attribute(k, v) for k, v in rule.items())])


def _opset(model: ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
