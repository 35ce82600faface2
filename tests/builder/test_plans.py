"""From a choice to the variants of a profile, in the order in which a device tries them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.builder.conftest import residual_net

from edgectl.builder.candidates import Candidate, Choice, Graph, Outcome, Pick
from edgectl.builder.data import Slices
from edgectl.builder.passes.base import PassLog
from edgectl.builder.plans import Work, _measured
from edgectl.core.bundle import Role, SessionSettings
from edgectl.core.task import TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.probe import probe

FLOAT = Graph("float", b"float", "float32")
ONE = Outcome(Candidate(FLOAT, "onnxruntime", SessionSettings()))
TWO = Outcome(Candidate(FLOAT, "onnxruntime", SessionSettings(threads=2)))
OTHER = Outcome(Candidate(FLOAT, "openvino", SessionSettings()))


def variants(fallback: Outcome, *picks: tuple[Outcome, Sequence[Role]]) -> list[tuple[str, tuple[Role, ...], bool]]:
    work = Work(
        residual_net(), None, Slices([], [], [], "sha256:" + "0" * 64), TaskSpec(name="t", input=TensorInput()), probe(), PassLog([]), 0.01,
        [], lambda *_: None,
    )  # fmt: skip
    choice = Choice(tuple(Pick(o, tuple(roles)) for o, roles in picks), fallback, (), "why", ("one was left out",))
    plans = _measured(work, load_profile("cpu"), None, choice)
    assert [n.split(": ", 1)[1] for n in work.notes] == [f"{picks[0][0].candidate.name}: why", "one was left out"]
    return [(p.variant, p.roles, p.fallback) for p in plans]


@pytest.mark.parametrize("first", [OTHER, TWO])
def test_the_fallback_is_the_last_and_keeps_its_other_roles(first: Outcome) -> None:
    name = f"{first.candidate.runtime}-float32"
    assert variants(ONE, (first, ("fast", "accurate")), (ONE, ("low-power",))) == [
        (name, ("fast", "accurate"), False), ("cpu-float32", ("low-power",), True),
    ]  # fmt: skip


def test_a_fast_fallback_alone_ships_once() -> None:
    assert variants(ONE, (ONE, ("fast", "accurate", "low-power"))) == [("cpu-float32", ("fast", "accurate", "low-power"), True)]


def test_a_fast_fallback_beside_others_comes_first_as_well() -> None:
    assert variants(TWO, (TWO, ("fast", "accurate")), (ONE, ("low-power",))) == [
        ("onnxruntime-float32", ("fast", "accurate"), False), ("onnxruntime-float32-low-power", ("low-power",), False),
        ("cpu-float32", (), True),
    ]  # fmt: skip
