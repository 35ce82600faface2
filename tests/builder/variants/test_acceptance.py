"""What becomes of a graph that NVIDIA's compiler takes, refuses, or says nothing of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.builder.nets import residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants import acceptance
from edgectl.builder.variants.acceptance import accepted
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.acceptance import Acceptance
from edgectl.core.bundle import Recipe, SessionSettings
from edgectl.core.errors import EngineError
from edgectl.core.memory import EngineMemory

TAKEN = Acceptance(compiler="TensorRT-RTX 1.7", sm=("8.6",), accepted=True, layers=9)
REFUSED = Acceptance(
    compiler="TensorRT-RTX 1.7", sm=("8.6",), accepted=False, sentence="ReLU cannot be applied", node="relu1"
)


@pytest.fixture
def draft() -> VariantDraft:
    return VariantDraft(
        profile="jetson-orin",
        variant="tensorrt-float16",
        runtime="tensorrt",
        requires=(),
        model=residual_net().SerializeToString(),
        recipe=Recipe(family="float", precision="float16", plan="on-device"),
        precision="float16",
        session=SessionSettings(),
    )


def judged(
    draft: VariantDraft, monkeypatch: pytest.MonkeyPatch, verdict: Acceptance | EngineError | None
) -> tuple[VariantDraft | None, list[str]]:
    def ask(path: Path) -> Acceptance:
        assert path.read_bytes() == draft.model
        if isinstance(verdict, EngineError):
            raise verdict
        assert verdict is not None
        return verdict

    monkeypatch.setattr(acceptance, "has_compiler", lambda: verdict is not None)
    monkeypatch.setattr(acceptance, "accept", ask)
    monitor = BuildMonitor(Budget())
    return accepted(draft, monitor), monitor.notes


def test_what_it_takes_carries_its_verdict(draft: VariantDraft, monkeypatch: pytest.MonkeyPatch) -> None:
    found, notes = judged(draft, monkeypatch, TAKEN)
    assert found is not None
    assert (found.acceptance, notes) == (TAKEN, [])


def test_what_it_refuses_is_left_out_with_its_words(
    draft: VariantDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, notes = judged(draft, monkeypatch, REFUSED)
    assert found is None
    assert notes == [
        "jetson-orin: tensorrt-float16 is left out: refused by TensorRT-RTX 1.7 for SM 8.6 at relu1: ReLU cannot be applied"
    ]


def test_one_that_hangs_judges_nothing(draft: VariantDraft, monkeypatch: pytest.MonkeyPatch) -> None:
    found, notes = judged(draft, monkeypatch, EngineError("NVIDIA's compiler took more than 300 s"))
    assert found is draft
    assert notes == [
        "jetson-orin: tensorrt-float16: not known whether NVIDIA's compiler accepts it: NVIDIA's compiler took more than 300 s"
    ]


def test_without_it_nothing_is_said(draft: VariantDraft, monkeypatch: pytest.MonkeyPatch) -> None:
    assert judged(draft, monkeypatch, None) == (draft, [])


def test_what_the_compiler_says_of_its_memory_is_what_is_known(draft: VariantDraft) -> None:
    plain = replace(draft, acceptance=None)
    assert plain.memory is None
    verdict = Acceptance(
        compiler="c", sm=("8.6",), accepted=True, engine_bytes=300, activation_bytes=20, weight_bytes=99
    )
    assert replace(draft, acceptance=verdict).memory == EngineMemory(source="compiler", device_bytes=320)
    refused = verdict.model_copy(update={"accepted": False})
    assert replace(draft, acceptance=refused).memory is None


def test_another_form_of_what_it_took_is_not_asked_about_when_the_time_is_over(
    draft: VariantDraft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "has_compiler", lambda: True)
    monkeypatch.setattr(acceptance, "accept", lambda path: TAKEN)
    late = BuildMonitor(Budget(0.0))
    assert accepted(draft, late, again=True) is draft
    assert late.budget.left_out == ("what NVIDIA's compiler says of tensorrt-float16",)
    for found in (accepted(draft, late), accepted(draft, BuildMonitor(Budget()), again=True)):
        assert found is not None
        assert found.acceptance == TAKEN
