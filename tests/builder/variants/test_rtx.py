"""Engines that NVIDIA's compiler makes ahead of time: one a compute capability, beside the graph that they are made of."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.build import build_bundle
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants import rtx
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.rtx import rtx_drafts
from edgectl.core.acceptance import Acceptance
from edgectl.core.bundle import LAYER_ENGINE, LAYER_RTX, Bundle, Recipe, SessionSettings
from edgectl.core.errors import EngineError
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.schema import DeviceProfile, RtxSpec
from edgectl.engines.finalise.rtx import has_compiler

pytestmark = pytest.mark.slow

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="NVIDIA's compiler is for x86-64 alone")


@pytest.fixture
def typed() -> VariantDraft:
    return VariantDraft(
        profile="desktop-gpu",
        variant="tensorrt-float32",
        runtime="tensorrt",
        requires=(),
        model=residual_net().SerializeToString(),
        recipe=Recipe(family="float", plan="on-device"),
        precision="float32",
        session=SessionSettings(),
    )


@pytest.fixture
def profile() -> DeviceProfile:
    return load_profile("desktop-gpu").model_copy(update={"rtx": RtxSpec(sm=("8.6", "8.9"))})


@needs_compiler
def test_each_compute_capability_gets_an_engine_of_its_own(
    typed: VariantDraft, profile: DeviceProfile
) -> None:
    monitor = BuildMonitor(Budget())
    found = rtx_drafts(typed, profile, monitor)
    assert [d.variant for d in found] == ["tensorrt-rtx-float32-sm86", "tensorrt-rtx-float32-sm89"]
    for draft, sm in zip(found, ("8.6", "8.9"), strict=True):
        assert (draft.runtime, draft.recipe.plan) == ("tensorrt-rtx", "ahead")
        assert draft.requires == ("arch:x86_64", f"sm:{sm}")
        assert draft.ahead is not None
        assert draft.acceptance is not None
        assert (draft.ahead.sm, draft.ahead.compiler) == ((sm,), draft.acceptance.compiler)
        ((media, engine),) = draft.engine_layers
        assert (media, len(engine)) == (LAYER_RTX, draft.acceptance.engine_bytes)
    assert found[0].engine_layers != found[1].engine_layers
    assert any(
        "2 engines were compiled ahead of time" in n and "none of them ran here" in n for n in monitor.notes
    )


def test_without_the_compiler_a_note_says_how_to_get_it(
    typed: VariantDraft, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rtx, "has_compiler", lambda: False)
    monitor = BuildMonitor(Budget())
    assert rtx_drafts(typed, profile, monitor) == []
    assert "pip install 'edgectl[rtx]'" in monitor.notes[0]


def test_what_is_refused_or_not_said_is_left_out_with_the_reason(
    typed: VariantDraft, profile: DeviceProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(path: Path, sms: tuple[str, ...], *, engine: Path) -> Acceptance:
        if sms == ("8.6",):
            raise EngineError("NVIDIA's compiler took more than 300 s")
        return Acceptance(
            compiler="TensorRT-RTX 1.7", sm=sms, accepted=False, sentence="too large", node="head"
        )

    monkeypatch.setattr(rtx, "has_compiler", lambda: True)
    monkeypatch.setattr(rtx, "accept", ask)
    monitor = BuildMonitor(Budget())
    assert rtx_drafts(typed, profile, monitor) == []
    assert monitor.notes == [
        "desktop-gpu: tensorrt-rtx-float32-sm86 is left out: NVIDIA's compiler took more than 300 s",
        "desktop-gpu: tensorrt-rtx-float32-sm89 is left out: refused by TensorRT-RTX 1.7 for SM 8.9 at head: too large",
    ]


def test_a_profile_without_it_gets_none(typed: VariantDraft) -> None:
    monitor = BuildMonitor(Budget())
    assert rtx_drafts(typed, load_profile("jetson-orin"), monitor) == []
    assert monitor.notes == []


@needs_compiler
def test_a_desktop_with_the_runtime_alone_takes_the_engine_of_its_gpu(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    build_bundle(
        save(residual_net(channels=32)),
        profiles="desktop-gpu",
        task="tensor",
        calibration=str(npz),
        max_drop=0.5,
        minutes=2,
        out=tmp_path / "out",
    )
    bundle = Bundle(tmp_path / "out")
    bundle.verify()
    ahead = [v for v in bundle.variants if v.config.runtime == "tensorrt-rtx"]
    assert {v.config.requires[-1] for v in ahead} == {"sm:7.5", "sm:8.0", "sm:8.6", "sm:8.9", "sm:12.0"}
    # the graph is stored once, with the one that TensorRT takes
    graphs = {v.need(LAYER_ENGINE).name for v in bundle.variants if v.config.runtime.startswith("tensorrt")}
    assert {v.need(LAYER_ENGINE).name for v in ahead} <= graphs
    assert len(graphs) < len(ahead)
    cpu = frozenset({"arch:x86_64", "isa:avx512_vnni"})
    facts = cpu | {"sm:8.9"}
    taken = bundle.select(facts, profile="desktop-gpu", runtimes=("tensorrt-rtx", "onnxruntime"))
    assert taken.config.variant.endswith("-sm89")
    both = bundle.select(
        facts | {"trt:10"}, profile="desktop-gpu", runtimes=("tensorrt", "tensorrt-rtx", "onnxruntime")
    )
    assert both.config.runtime == "tensorrt"
    older = bundle.select(cpu | {"sm:9.0"}, profile="desktop-gpu", runtimes=("tensorrt-rtx", "onnxruntime"))
    assert older.config.runtime == "onnxruntime"
