"""Graphs that int8 does not like, through calibration, quantization, the real judge and the linter of every
family.

Only the clock is made up: it makes int8 slower than float now and then. Nothing that ships may be slower than
float or over the budget when it is judged again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.builder.adversarial import adversarial, pictures
from support.builder.fakes import Behaviour, FakeMachine

from edgectl.builder.ingest.canonical import prepare
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.lint import lint
from edgectl.builder.int8.matmul import rewrite_matmuls
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.search.candidates import Candidate, CandidateGraph
from edgectl.builder.search.search import Goal, search
from edgectl.builder.search.tuning_log import TuningLog
from edgectl.core.bundle import SessionSettings, TensorSpec
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.engines.base import Engine, Feeds, Outputs
from edgectl.engines.finalise.open import open_model

pytestmark = pytest.mark.slow

TASK = TaskSpec(name="tensor", input=TensorInput())
GOAL = Goal(max_drop=0.002, min_speedup=1.02)


class ClockedLab(FakeMachine):
    """Real engines; the clock is the test's."""

    def open(self, c: Candidate) -> Engine:
        return _Clocked(self, c)


class _Clocked:
    def __init__(self, machine: FakeMachine, c: Candidate) -> None:
        self._machine, self._ms = machine, machine.ms(c)
        self._engine = open_model(c.graph.model, c.settings, runtime=c.runtime)
        self.inputs: tuple[TensorSpec, ...] = self._engine.inputs
        self.outputs: tuple[TensorSpec, ...] = self._engine.outputs
        self.runtime = self._engine.runtime

    def run(self, feeds: Feeds) -> Outputs:
        self._machine.now += round(self._ms * 1e6)
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_ships_is_slower_than_float_or_over_the_budget(tmp_path: Path, seed: int) -> None:
    (tmp_path / "model.onnx").write_bytes(adversarial(seed).SerializeToString())
    graph, inputs, _ = prepare(tmp_path / "model.onnx", TASK)
    samples = [Sample({inputs[0].name: p}) for p in pictures(32, seed=seed)]
    table = calibrate(graph, (s.feeds for s in samples[:16]), data_digest="sha256:" + "0" * 64)
    float_model = graph.SerializeToString(deterministic=True)
    reference = open_model(float_model)
    judge, confirm = Judge(TASK, samples[16:24], reference), Judge(TASK, samples[24:], reference)

    rng = np.random.default_rng(seed)
    graphs = [CandidateGraph("float", float_model, "float32")]
    for name, family in FAMILIES.items():
        if family.placement == "matmul":
            if not any(n.op_type in ("MatMul", "Gemm") for n in graph.graph.node):
                continue
            written = rewrite_matmuls(graph, name, family)
        else:
            written = quantize(graph, table, family)
        assert lint(written.model, family) == []
        graphs.append(CandidateGraph(name, written.model.SerializeToString(deterministic=True), "int8"))
    speeds = {
        (g.recipe, "onnxruntime"): Behaviour(10.0 * rng.choice([0.4, 0.9, 0.97, 0.99, 1.1, 2.0]))
        for g in graphs[1:]
    }
    machine = ClockedLab({("float", "onnxruntime"): Behaviour(10.0), **speeds}, noise=0.01)
    machine.feeds = [s.feeds for s in samples[16:20]]
    bases = [Candidate(g, "onnxruntime", SessionSettings()) for g in graphs]
    choice = search(bases, judge, lambda: confirm, GOAL, machine, TuningLog(None, {}), seconds=1)

    assert choice.fallback is not None
    for pick in choice.picks:
        c = pick.outcome.candidate
        if not c.is_float:
            assert machine.ms(c) <= 10.0 / GOAL.min_speedup
            again = open_model(c.graph.model, c.settings)
            assert confirm.judge(again).drop <= GOAL.max_drop
            assert judge.judge(again).drop <= GOAL.max_drop


def test_the_generator_makes_all_that_it_says() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(8):
        model = adversarial(seed)
        assert model.SerializeToString() == adversarial(seed).SerializeToString()
        ops = {n.op_type for n in model.graph.node}
        weights = {w.name: list(w.dims) for w in model.graph.initializer}
        kinds.update(ops & {"Sigmoid", "MatMul", "Add"})
        groups = [a.i for n in model.graph.node for a in n.attribute if a.name == "group"]
        kinds["depthwise"] += any(g > 1 for g in groups)
        kinds["tiny"] += any(dims[0] == 2 for dims in weights.values())
        for w in model.graph.initializer:
            values = np.frombuffer(w.raw_data, np.float32).reshape(weights[w.name])
            if values.ndim == 4:
                largest = np.sort(np.abs(values).max(axis=(1, 2, 3)))
                kinds["loud"] += bool(largest[-1] > 30 * largest[0])
    assert all(kinds[k] for k in ("Sigmoid", "MatMul", "Add", "depthwise", "tiny", "loud")), kinds
