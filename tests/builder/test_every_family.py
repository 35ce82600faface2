"""Everything that kernels fuse, at every place where a graph can be cut, in every family."""

from __future__ import annotations

from dataclasses import astuple

import onnx
import pytest
from support.builder.every_family import through_every_family
from support.builder.fused import ACTIVATIONS, LAYERS, NORMS, PLACES, WIDTHS, Case, cases, feeds_of, make

pytestmark = pytest.mark.slow

COUNT = 64
"""Each value of each property, and each pair of layer and place, several times;
``bench/generated_graphs.py`` runs as many as it is told."""


@pytest.mark.parametrize("case", cases(COUNT), ids=lambda case: case.name)
def test_a_block_is_written_for_every_family_wherever_the_graph_is_cut(case: Case) -> None:
    model = make(case)
    through_every_family(model, feeds_of(model, 12))


def test_the_cases_are_different_valid_and_have_all_that_they_say() -> None:
    drawn = cases(500)
    assert len({c.name for c in drawn}) == 500
    assert drawn[:COUNT] == cases(COUNT)
    seen = [set(column) for column in zip(*map(astuple, drawn), strict=True)]
    assert seen == [set(LAYERS), set(NORMS), set(ACTIVATIONS), set(PLACES), set(WIDTHS)]
    for case in drawn[:COUNT]:
        onnx.checker.check_model(make(case))
        assert make(case).SerializeToString(deterministic=True) == make(case).SerializeToString(
            deterministic=True
        )
