"""SiLU made HardSwish where int8 gains by it, and the layers refitted to answer as before.

``x · sigmoid(x)`` costs a small int8 network more than its convolutions: no kernel of ONNX Runtime or OpenVINO
computes it on codes in one step (two tables and a product there; an exponential and a division for each value here),
while OpenVINO computes HardSwish, ``x · clip(x / 6 + 1/2, 0, 1)``, in the convolution's own loop for a fraction of
that. The two functions differ by at most 0.14. What that changes is won back in closed form, layer by layer, without
labels or training (:mod:`edgectl.builder.int8.refit`). Howard et al., *Searching for MobileNetV3*, 2019, section 5.2,
make the same change before training.

Left out: whether that pays, and how many activations the budget allows (:mod:`edgectl.builder.int8.escalate`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.basis import QuantizationBasis, spread
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.refit import refit
from edgectl.engines.base import Feeds

__all__ = [
    "Silu",
    "calibrated_again",
    "has_hard_swish",
    "largest",
    "silus",
    "told_hard_swish",
    "with_hard_swish",
]

_REFIT_SAMPLES = 32
_NAME = "hard-swish"


@dataclass(frozen=True)
class Silu:
    """Names of the two nodes; ``source``: the tensor that both read; ``elements`` of it."""

    sigmoid: str
    multiply: str
    source: str
    elements: int


def silus(index: GraphIndex, kept: Collection[str] = ()) -> list[Silu]:
    """Every SiLU whose parts nobody else reads, in graph order; without those of which a node is ``kept``."""
    found = []
    for n in index.nodes:
        if n.op_type != "Mul" or n.name in kept:
            continue
        for source, gate in ((n.input[0], n.input[1]), (n.input[1], n.input[0])):
            sigmoid, shape = index.producer.get(gate), index.shape(source)
            if (
                sigmoid is not None
                and sigmoid.op_type == "Sigmoid"
                and sigmoid.input[0] == source
                and index.only_reader(gate) is not None
                and index.is_float(source)
                and shape is not None
                and sigmoid.name not in kept
            ):
                found.append(Silu(sigmoid.name, n.name, source, math.prod(shape)))
                break
    return found


def largest(found: Sequence[Silu], share: float) -> list[Silu]:
    """The fewest that have ``share`` of all elements between them, in graph order: time goes with the elements,
    and what is changed counts once more for each layer."""
    wanted, taken = share * sum(s.elements for s in found), 0
    chosen = set()
    for s in sorted(found, key=lambda s: -s.elements):
        if taken >= wanted:
            break
        chosen.add(s.multiply)
        taken += s.elements
    return [s for s in found if s.multiply in chosen]


def with_hard_swish(
    basis: QuantizationBasis, found: Sequence[Silu], chosen: Sequence[Silu], samples: Sequence[Feeds]
) -> QuantizationBasis:
    """The basis with HardSwish in the place of ``chosen``, refitted; its table is still that of the graph before
    (:func:`calibrated_again`). ``samples`` calibrate."""
    swapped = _swapped(basis.model, chosen)
    model = refit(swapped, basis.model, {}, spread(samples, _REFIT_SAMPLES))
    return replace(
        basis,
        model=model,
        passes=(*basis.passes, f"{_NAME}:{len(chosen)}/{len(found)}"),
        easy=False,
    )


def calibrated_again(basis: QuantizationBasis, samples: Sequence[Feeds]) -> QuantizationBasis:
    """With the ranges of the graph as it is now."""
    return replace(basis, table=calibrate(basis.model, samples, data_digest=basis.table.data_digest))


def has_hard_swish(recipe_pass: str) -> bool:
    """Whether a pass of a recipe is that of :func:`with_hard_swish`."""
    return recipe_pass.startswith(f"{_NAME}:")


def told_hard_swish(basis: QuantizationBasis) -> str:
    """One sentence about a basis of :func:`with_hard_swish`."""
    count = next(p for p in basis.passes if has_hard_swish(p)).partition(":")[2]
    changed, _, all_of_them = count.partition("/")
    return f"{changed} of {all_of_them} SiLU activations are HardSwish in it, and its layers were refitted to answer as before"


def _swapped(model: ModelProto, chosen: Sequence[Silu]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    sources = {s.multiply: s.source for s in chosen}
    gone = {s.sigmoid for s in chosen}
    nodes = [n for n in changed.graph.node if n.name not in gone]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    for n in changed.graph.node:
        if n.name in sources:
            n.op_type = "HardSwish"
            n.input[:] = [sources[n.name]]
    return changed
