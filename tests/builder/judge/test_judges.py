"""How long confirming is expected to take. A clock that advances a second each time it is asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.builder.nets import residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.judge.judges import Judges
from edgectl.builder.monitor import BuildMonitor
from edgectl.core.task import TaskSpec, TensorInput


def test_what_is_to_come_is_expected_at_the_pace_of_the_search_slice() -> None:
    seconds = itertools.count()
    net = residual_net()
    name = net.graph.input[0].name
    shape = tuple(d.dim_value for d in net.graph.input[0].type.tensor_type.shape.dim)
    samples = [Sample({name: np.full(shape, k, np.float32)}) for k in range(16)]
    slices = Slices(samples[:4], samples[4:8], samples[8:], "sha256:0")
    judges = Judges(
        TaskSpec(name="tensor", input=TensorInput()),
        slices,
        net,
        BuildMonitor(Budget(clock=lambda: float(next(seconds)))),
    )
    assert judges.search_s() == judges.confirmation_s() == 0
    _ = judges.search
    # a second for 4 samples; 8 are confirmed, by float and two variants
    assert judges.confirmation_s() == pytest.approx(2 * (1 + 2 * 0.8))
    # a second a call of float: rounds are bounded, processes call it sixty times beside their starts
    assert judges.measuring_s() == pytest.approx(30 + 20 + 60)
    assert judges.search_s() == pytest.approx(judges.confirmation_s() + judges.measuring_s() + 3 * 0.8)
    _ = judges.confirmation
    assert judges.confirmation_s() == 0
