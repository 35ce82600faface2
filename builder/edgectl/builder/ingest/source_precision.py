"""A model that came quantized: told by its operators. It ships as what it is, and nothing is quantized
once more. Pure."""

from __future__ import annotations

from onnx import ModelProto

from edgectl.builder.graph import all_nodes, is_quantized
from edgectl.core.bundle import Precision

__all__ = ["AS_RECEIVED", "source_precision"]

AS_RECEIVED = "as-received"
"""Recipe family, and name among the candidates, of a model in the form that it came in."""


def source_precision(model: ModelProto) -> Precision:
    """``int8`` for a model with quantized operators, whatever else is in it; ``float32`` for any other
    (they were widened)."""
    return "int8" if any(is_quantized(n) for n in all_nodes(model.graph)) else "float32"
