"""Whether a model, or one family of its graphs, is quantized at all. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from onnx import ModelProto

from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.source_precision import source_precision
from edgectl.builder.int8.placement import weighted_nodes

__all__ = ["NotQuantizable", "Obstacle", "obstacle_to_int8"]


class Obstacle(str, Enum):
    """Why nothing is quantized."""

    QUANTIZED = "quantized"
    NO_LAYER = "no layer"
    RECURRENT = "recurrent"
    NO_KERNELS = "no kernels"
    NO_PLACE = "no place"
    SIZE_OF_DATA = "size of data"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class NotQuantizable:
    """``what``: the inputs that are states, the output, the machine, or why of each layer."""

    obstacle: Obstacle
    what: str = ""


def obstacle_to_int8(graph: ModelProto) -> NotQuantizable | None:
    """Why nothing of a model is quantized, whatever the family; None if something may be."""
    index = GraphIndex(graph)
    if source_precision(graph) != "float32":
        return NotQuantizable(Obstacle.QUANTIZED)
    if not weighted_nodes(index):
        return NotQuantizable(Obstacle.NO_LAYER)
    if loose := [
        o.name for o in graph.graph.output if index.is_tensor(o.name) and index.shape(o.name) is None
    ]:
        return NotQuantizable(Obstacle.SIZE_OF_DATA, loose[0])
    recurrent = _states_of(index)
    return NotQuantizable(Obstacle.RECURRENT, ", ".join(recurrent)) if recurrent else None


def _states_of(index: GraphIndex) -> list[str]:
    """Recurrent inputs: of several inputs, the float ones that have the shape of an output.

    What is judged sample by sample says nothing about hundreds of steps that feed on each other.
    """
    shapes = {index.shape(o) for o in index.outputs}
    return [
        i
        for i in index.inputs
        if len(index.inputs) > 1 and index.is_float(i) and index.shape(i) in shapes - {(), None}
    ]
