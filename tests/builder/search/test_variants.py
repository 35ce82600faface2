"""From a choice to the variants of a profile, in the order in which a device tries them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.nets import Save, residual_net

from edgectl.builder.build import build
from edgectl.builder.ingest.samples import Sample, Slices
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.pack.package import write_bundle
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.passes.base import PassLog
from edgectl.builder.search import fold_gain, variants
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Cause, Choice, Pick
from edgectl.builder.search.draft import VariantDraft
from edgectl.builder.search.float_first import Reason
from edgectl.builder.search.variants import _folded, _has_cuda, _measure_cuda, _measured, _on_cuda
from edgectl.builder.search.work import Work
from edgectl.core.bundle import Bundle, Recipe, Role, SessionSettings, TensorSpec, requirement_met
from edgectl.core.measured import Measured
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.probe import probe
from edgectl.engines.conditions import read_conditions
from edgectl.engines.golden import check_golden
from edgectl.engines.open import open_engine
from edgectl.pipelines.preprocess import Preprocessor

FLOAT = CandidateGraph("float", b"float", "float32")
ONE = CandidateOutcome(Candidate(FLOAT, "onnxruntime", SessionSettings()))
TWO = CandidateOutcome(Candidate(FLOAT, "onnxruntime", SessionSettings(threads=2)))
OTHER = CandidateOutcome(Candidate(FLOAT, "openvino", SessionSettings()))


def variants(
    fallback: CandidateOutcome, *picks: tuple[CandidateOutcome, Sequence[Role]]
) -> list[tuple[str, tuple[Role, ...], bool]]:
    work = Work(
        residual_net(),
        None,
        Slices([], [], [], "sha256:" + "0" * 64),
        TaskSpec(name="t", input=TensorInput()),
        probe(),
        PassLog([]),
        0.01,
        [],
        lambda *_: None,
        barred=Reason(Cause.NOTHING_TO_QUANTIZE, "why", "go on"),
    )
    choice = Choice(
        tuple(Pick(o, tuple(roles)) for o, roles in picks), fallback, (), "why", ("one was left out",)
    )
    made = _measured(work, load_profile("cpu"), None, choice)
    assert [n.split(": ", 1)[1] for n in work.notes] == [
        f"{picks[0][0].candidate.name}: why; go on",
        "one was left out",
    ]
    return [(p.variant, p.roles, p.fallback) for p in made]


@pytest.mark.parametrize("first", [OTHER, TWO])
def test_the_fallback_is_the_last_and_keeps_its_other_roles(first: CandidateOutcome) -> None:
    name = f"{first.candidate.runtime}-float32"
    assert variants(ONE, (first, ("fast", "accurate")), (ONE, ("low-power",))) == [
        (name, ("fast", "accurate"), False),
        ("cpu-float32", ("low-power",), True),
    ]


def test_a_fast_fallback_alone_ships_once() -> None:
    assert variants(ONE, (ONE, ("fast", "accurate", "low-power"))) == [
        ("cpu-float32", ("fast", "accurate", "low-power"), True)
    ]


def test_a_fast_fallback_beside_others_comes_first_as_well() -> None:
    assert variants(TWO, (TWO, ("fast", "accurate")), (ONE, ("low-power",))) == [
        ("onnxruntime-float32", ("fast", "accurate"), False),
        ("onnxruntime-float32-low-power", ("low-power",), False),
        ("cpu-float32", (), True),
    ]


def test_preprocessing_goes_into_the_graph_where_the_route_is_faster_and_the_device_fills_in_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold_gain, "_WORTH", 1e9)  # here, today, it is
    picture = ImageInput(width=32, height=32)
    task, model = TaskSpec(name="plain", input=picture), residual_net()
    bgr = [np.random.default_rng(i).integers(0, 256, (32, 32, 3)).astype(np.uint8) for i in range(8)]
    samples = [Sample({"image": Preprocessor(picture)(p)[0].copy()}) for p in bgr]
    work = Work(
        model,
        None,
        Slices(samples, samples, samples, "sha256:" + "0" * 64),
        task,
        probe(),
        PassLog([]),
        0.01,
        [],
        lambda *_: None,
    )
    measured = Measured(
        p10_ms=1, p50_ms=1, n=3, machine="m", threads=1, runtime_version="r", conditions=read_conditions()
    )
    plain = VariantDraft(
        profile="cpu",
        variant="onnxruntime-float32",
        runtime="onnxruntime",
        requires=(),
        model=work.float_bytes,
        recipe=Recipe(family="float"),
        precision="float32",
        session=SessionSettings(),
        measured=measured,
    )
    inside = _folded(work, plain)
    assert inside.recipe.passes == ("fold-input",)
    assert inside.measured is not None
    assert inside.measured.route is not None
    assert "takes pixels" in work.notes[0]
    identity = Identity("n", "1", task, (), "sha256:" + "1" * 64, {}, None, samples, work.float_bytes)
    write_bundle(tmp_path / "b", [make_variant(identity, p) for p in (inside, plain)], name="n", version="1")
    first, second = Bundle(tmp_path / "b").variants
    assert first.config.inputs == (TensorSpec(name="image", shape=(1, 32, 32, 3), dtype="uint8"),)
    assert first.config.task.input == picture.model_copy(update={"dtype": "uint8", "layout": "NHWC"})
    assert second.config.task.input == picture
    outputs = []
    for v in (first, second):  # the device fills both in from the same picture
        engine = open_engine(v)
        check_golden(engine, v)
        assert isinstance(v.config.task.input, ImageInput)
        outputs.append(engine.run({"image": Preprocessor(v.config.task.input)(bgr[3])[0]})["out"])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_noise_and_graphs_that_take_no_pictures_are_left_as_they_are() -> None:
    plan = VariantDraft(
        profile="cpu",
        variant="v",
        runtime="onnxruntime",
        requires=(),
        model=b"",
        recipe=Recipe(family="float"),
        precision="float32",
        session=SessionSettings(),
    )
    for task, random in (
        (TaskSpec(name="t", input=TensorInput()), False),
        (TaskSpec(name="t", input=ImageInput(width=32, height=32)), True),
    ):
        slices = Slices([], [], [], "sha256:" + "0" * 64, random=random)
        work = Work(residual_net(), None, slices, task, probe(), PassLog([]), 0.01, [], lambda *_: None)
        assert _folded(work, plan) is plan


def test_a_matching_gpu_gets_float_candidates_on_cuda_and_the_winner_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = ImageInput(width=32, height=32)
    samples = [
        Sample({"image": np.random.default_rng(i).random((1, 3, 32, 32)).astype(np.float32)})
        for i in range(4)
    ]
    model = residual_net(channels=32)
    slices = Slices(samples, samples, samples, "sha256:" + "0" * 64, random=True)
    table = calibrate(model, (s.feeds for s in samples), data_digest=slices.digest)
    here = probe().model_copy(
        update={"sm": "8.6", "providers": ("CUDAExecutionProvider", "CPUExecutionProvider"), "arch": "x86_64"}
    )
    work = Work(
        model,
        table,
        slices,
        TaskSpec(name="plain", input=picture),
        here,
        PassLog([]),
        0.01,
        [],
        lambda *_: None,
    )
    desktop = load_profile("desktop-gpu")
    assert _has_cuda(desktop, here)
    assert not _has_cuda(desktop, here.model_copy(update={"sm": "6.1"}))
    assert not _has_cuda(desktop, here.model_copy(update={"providers": ("CPUExecutionProvider",)}))
    assert not _has_cuda(load_profile("cpu"), here)
    asked: list[Candidate] = []

    def search(bases: Sequence[Candidate], *_: object, **__: object) -> Choice:
        asked.extend(bases)
        return Choice((Pick(CandidateOutcome(bases[-1]), ("fast",)),), None, (), "why", ())

    monkeypatch.setattr(variants, "search", search)
    [plan] = _on_cuda(work, desktop, _measure_cuda(work, desktop, 0.0, 1))
    assert [(c.graph.precision, c.settings.provider) for c in asked] == [
        ("float32", "cuda"),
        ("float16", "cuda"),
    ]
    assert plan.variant == "onnxruntime-cuda-float16"
    assert {"arch:x86_64", desktop.sm_requirement, "provider:CUDA"} == set(plan.requires)
    assert all(requirement_met(r, here.facts) for r in plan.requires)
    assert not requirement_met("provider:CUDA", probe().facts) or "CUDAExecutionProvider" in probe().providers


def test_why_no_layer_may_be_int8_is_told_and_stands_in_the_layer_report(save: Save, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["image", "w"], ["a"], name="first", transA=1),
            helper.make_node("Gemm", ["a", "v"], ["out"], name="second", transA=1),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [64, 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(rng.standard_normal((64, 64)).astype(np.float32), n) for n in "wv"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = build(
        save(model),
        profiles=["cpu"],
        task=TaskSpec(name="t", input=TensorInput()),
        calibration=None,
        random_calibration=True,
        out=tmp_path / "b",
        minutes=0.05,
    )
    [[why]] = found.causes.values()
    assert why.cause is Cause.REFUSED
    assert "not a plain matrix product (first and 1 more)" in why.sentence
    variants = inspect_bundle(tmp_path / "b").variants
    assert variants  # with other settings float may ship twice
    for variant in variants:
        assert [layer.reason for layer in variant.layers] == ["not a plain matrix product"] * 2
