"""The equation of an Einsum in the letters that every compiler reads.

ONNX allows spaces and capitals (``B G H I D, B G H J D -> B G H I J``, as people write with PyTorch); TensorRT takes small
letters alone: "Invalid character(s) in Einsum equation".
"""

from __future__ import annotations

import string

from onnx import ModelProto

from edgectl.builder.graph import all_nodes

__all__ = ["plain_equation", "write_plain_equations"]


def plain_equation(equation: str) -> str:
    """The same products in small letters without spaces; as it is where it has more than 26 letters.

    >>> plain_equation("B i, B j -> B i j")
    'ai,aj->aij'
    """
    plain = "".join(equation.split())
    letters = list(dict.fromkeys(c for c in plain if c.isalpha()))
    free = [c for c in string.ascii_lowercase if c not in letters]
    capitals = [c for c in letters if c not in string.ascii_lowercase]
    if len(capitals) > len(free):
        return equation
    if "->" not in plain and capitals:
        # what is left out is ordered by the alphabet, capitals first
        once = sorted(c for c in letters if plain.count(c) == 1)
        plain += "->" + ("..." if "..." in plain else "") + "".join(once)
    small = dict(zip(capitals, free, strict=False))
    return "".join(small.get(c, c) for c in plain)


def write_plain_equations(model: ModelProto) -> None:
    """In place."""
    for node in all_nodes(model.graph):
        for a in node.attribute:
            if node.op_type == "Einsum" and not node.domain and a.name == "equation":
                a.s = plain_equation(a.s.decode()).encode()
