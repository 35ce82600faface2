"""Equations in small letters say the same."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgectl.builder.passes.canonicalise import Canonicalise
from edgectl.builder.passes.einsum import plain_equation

SIZES = {"B": 2, "G": 3, "I": 4, "J": 5, "D": 6, "a": 3, "b": 4, "i": 7}


@pytest.mark.parametrize(
    "equation",
    [
        "B G I D, B G J D -> B G I J",
        "aB, bB -> a b",
        "ab , bi->ai",
        "B i, i a",
        "a B, B b",
        "... B i, ... B a",
        "B B -> B",
    ],
)
def test_it_computes_what_it_computed(equation: str) -> None:
    rng = np.random.default_rng(0)
    terms = equation.split("->")[0].split(",")
    shapes = [[SIZES[c] for c in t if c.isalpha()] for t in terms]
    arrays = [rng.standard_normal([2, *s] if "..." in equation else s) for s in shapes]
    plain = plain_equation(equation)
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyz,->.")
    want = np.einsum(equation.replace(" ", ""), *arrays)
    assert np.allclose(np.einsum(plain, *arrays), want)


def test_more_letters_than_there_are_stay() -> None:
    every = "".join(chr(c) for c in range(65, 91)) + "a"
    assert plain_equation(f"{every}->{every}") == f"{every}->{every}"
    assert plain_equation("ij,jk->ik") == "ij,jk->ik"


def test_a_graph_is_written_so() -> None:
    node = helper.make_node("Einsum", ["x", "z"], ["y"], name="e", equation="B I D, B J D -> B I J")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, [1, 2, 3]), value("z", TensorProto.FLOAT, [1, 4, 3])],
        [value("y", TensorProto.FLOAT, [1, 2, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    changed, modified = Canonicalise().run(model)
    assert modified
    assert next(a.s for a in changed.graph.node[0].attribute if a.name == "equation") == b"abc,adc->abd"
