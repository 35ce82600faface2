"""What a TensorRT plan really does, from what its engine inspector says
(``EngineInspector.get_engine_information``, JSON).

The graph asks for int8, float16 or DLA; the builder decides. A DLA that falls back to the GPU does so
silently, and a convolution that could not fuse with its Q/DQ runs in float: both show here only. The text is
TensorRT's own and differs between its versions, so what is not understood counts as ``other`` and never as
success.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from edgectl.core.errors import EngineError

__all__ = ["PlanLayers", "read_layers"]

_MAX_BYTES = 64 << 20
_FORMATS = (
    ("int8", "int8"),
    ("fp16", "float16"),
    ("half", "float16"),
    ("fp32", "float32"),
    ("float", "float32"),
)
"""A word of a tensor's ``Format/Datatype``, e.g. ``Thirty-two wide channel vectorized row major Int8
format``."""


@dataclass(frozen=True)
class PlanLayers:
    """Layers of a plan, by the type of their output. ``total`` counts those on DLA and the reformats, too."""

    total: int
    int8: int
    float16: int
    float32: int
    other: int
    """Of no type that is known, or a plan built without layer details."""
    reformats: int
    """Layers that only convert between formats: time that computes nothing."""
    dla: int
    """Subgraphs that run on a DLA core; the rest of the plan runs on the GPU."""


def read_layers(text: str) -> PlanLayers:
    """Count the layers of an inspector's JSON. Raises :class:`EngineError` if it is none."""
    if len(text) > _MAX_BYTES:
        raise EngineError(f"the engine inspector says more than {_MAX_BYTES >> 20} MiB")
    try:
        said = json.loads(text)
    except ValueError as e:
        raise EngineError("the engine inspector did not answer in JSON") from e
    layers = said.get("Layers") if isinstance(said, dict) else None
    if not isinstance(layers, list):
        raise EngineError("the engine inspector names no layers")
    kinds = [_kind(layer) for layer in layers]
    return PlanLayers(
        total=len(kinds),
        int8=kinds.count("int8"),
        float16=kinds.count("float16"),
        float32=kinds.count("float32"),
        other=kinds.count("other"),
        reformats=kinds.count("reformat"),
        dla=kinds.count("dla"),
    )


def _kind(layer: Any) -> str:
    if not isinstance(layer, dict):
        # only its name: the plan was built without details
        return "other"
    kind, name = str(layer.get("LayerType", "")).lower(), str(layer.get("Name", ""))
    if kind == "dla" or "[DlaLayer]" in name:
        return "dla"
    if kind == "reformat":
        return "reformat"
    outputs = layer.get("Outputs")
    first = outputs[0] if isinstance(outputs, list) and outputs else None
    words = (
        str(first.get("Format/Datatype", first.get("Datatype", ""))).lower()
        if isinstance(first, dict)
        else ""
    )
    return next((found for word, found in _FORMATS if word in words), "other")
