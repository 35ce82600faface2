"""Layers that the user keeps in float, whatever int8 would cost them: found by name. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from onnx import ModelProto

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import WEIGHTED, weighted_nodes
from edgectl.core.errors import UsageError
from edgectl.core.nearest import did_you_mean, nearest

__all__ = ["kept_in_float", "told_kept"]

_ABSORBED = ("Relu", "Clip")
_NAMED = 8
"""Layers that a note names."""


def kept_in_float(model: ModelProto, patterns: Sequence[str]) -> dict[str, frozenset[str]]:
    """Pattern → names of the nodes that it keeps in float.

    A pattern is a name, or has ``*``, ``?`` and ``[…]``: of a node, as reports print it; of a tensor, which means
    the node that makes it; of a weight or an input of the graph, which means its readers. An activation that its
    layer absorbs takes the layer along. Raises :class:`UsageError` for one that nothing is called.

    >>> kept_in_float(model, ["/head/*"])
    {'/head/*': frozenset({'/head/cls/Conv', '/head/box/Conv'})}
    """
    index = GraphIndex(model)
    named = _by_name(index)
    found = {}
    for pattern in patterns:
        names = [pattern] if pattern in named else [n for n in named if fnmatchcase(n, pattern)]
        if not names:
            near = nearest(pattern.strip("*"), named)
            layers = [n.name for n in weighted_nodes(index)]
            raise UsageError(
                f"--keep-float {pattern[:120]}: nothing in the model is called so",
                hint=f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else did_you_mean(pattern, layers, there_are="its layers are: "),
            )
        found[pattern] = _with_their_layers(index, {node for n in names for node in named[n]})
    return found


def told_kept(model: ModelProto, kept: Mapping[str, frozenset[str]]) -> list[str]:
    """For each pattern a sentence that names what stays in float."""
    nodes = [n for n in model.graph.node if n.name]
    notes = []
    for pattern, names in kept.items():
        layers = [n.name for n in nodes if n.name in names and n.op_type in WEIGHTED]
        beside = len(names) - len(layers)
        of = ", ".join(layers[:_NAMED]) + (f" and {len(layers) - _NAMED} more" if layers[_NAMED:] else "")
        count = f"{len(layers)} layer{'s' if len(layers) != 1 else ''}" + (f" ({of})" if layers else "")
        more = f" and {beside} other node{'s' if beside != 1 else ''}" if beside else ""
        notes.append(f"kept in float by --keep-float {pattern}: {count}{more}")
    return notes


def _by_name(index: GraphIndex) -> dict[str, set[str]]:
    """Every name that a user may have read → the nodes that are meant."""
    named: dict[str, set[str]] = {}
    for t in (*index.inputs, *index.initializers):
        readers = {n.name for n, _ in index.readers.get(t, ()) if n.name}
        if readers:
            named[t] = readers
    for n in index.nodes:
        for name in (n.name, *n.output):
            if name and n.name:
                named.setdefault(name, set()).add(n.name)
    return named


def _with_their_layers(index: GraphIndex, nodes: set[str]) -> frozenset[str]:
    """A layer and its activation are one in int8, so they are one in float."""
    layers = set()
    for n in index.nodes:
        made = index.producer.get(n.input[0]) if n.input else None
        if n.name in nodes and n.op_type in _ABSORBED and made is not None and made.op_type in WEIGHTED:
            layers.add(made.name)
    return frozenset(nodes | layers)
