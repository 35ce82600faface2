"""From a choice to the variants of a profile, in the order in which a device tries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.models import quantized_model, trial_of
from support.builder.nets import Save, residual_net
from support.builder.releases import rebuilt

from edgectl.builder.build import build_bundle
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.calibrate import calibrate
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.quantizable import NotQuantizable, Obstacle
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.pack.package import write_bundle
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.search.candidates import Candidate, CandidateGraph, CandidateOutcome, Cause, Choice, Pick
from edgectl.builder.search.reasons import why_not_quantizable
from edgectl.builder.variants import fold_gain, measured
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.measured import (
    cuda_drafts,
    has_cuda,
    measure_cuda,
    measure_host,
    measured_drafts,
    of_float,
)
from edgectl.builder.variants.preprocessing import with_preprocessing
from edgectl.core.bundle import Bundle, Preference, Recipe, SessionSettings, TensorSpec, requirement_met
from edgectl.core.measured import Measured
from edgectl.core.task import ImageInput, TaskSpec, TensorInput
from edgectl.device_profiles.catalogue import load_profile
from edgectl.device_profiles.machine import probe
from edgectl.engines.finalise.golden import check_golden
from edgectl.engines.finalise.open import open_engine, open_model
from edgectl.engines.measure.conditions import read_conditions
from edgectl.pipelines.video.preprocess import Preprocessor

pytestmark = pytest.mark.slow

FLOAT = CandidateGraph("float", b"float", "float32")
ONE = CandidateOutcome(Candidate(FLOAT, "onnxruntime", SessionSettings()))
TWO = CandidateOutcome(Candidate(FLOAT, "onnxruntime", SessionSettings(threads=2)))
OTHER = CandidateOutcome(Candidate(FLOAT, "openvino", SessionSettings()))


def variants(
    fallback: CandidateOutcome, *picks: tuple[CandidateOutcome, Sequence[Preference]]
) -> list[tuple[str, tuple[Preference, ...], bool]]:
    model = quantized_model(residual_net(), not_quantizable=NotQuantizable(Obstacle.NO_LAYER))
    trial = trial_of(model)
    choice = Choice(
        tuple(Pick(o, tuple(preferences)) for o, preferences in picks),
        fallback,
        (),
        "why",
        ("one was left out",),
    )
    made = measured_drafts(model, trial, load_profile("cpu"), choice)
    assert [n.split(": ", 1)[1] for n in trial.monitor.notes] == [
        f"{picks[0][0].candidate.name}: {why_not_quantizable(model.not_quantizable).text}",
        "one was left out",
    ]
    assert all(p.layers == made[-1].layers for p in made)
    assert made[-1].layers, "each float variant says why its layers are float"
    return [(p.variant, p.preferences, p.fallback) for p in made]


@pytest.mark.parametrize("first", [OTHER, TWO])
def test_the_fallback_is_the_last_and_keeps_its_other_preferences(first: CandidateOutcome) -> None:
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
    quantized = quantized_model(model, task, samples)
    trial = trial_of(quantized)
    measured = Measured(
        p10_ms=1, p50_ms=1, n=3, machine="m", threads=1, runtime_version="r", conditions=read_conditions()
    )
    plain = VariantDraft(
        profile="cpu",
        variant="onnxruntime-float32",
        runtime="onnxruntime",
        requires=(),
        model=quantized.source.onnx_bytes,
        recipe=Recipe(family="float"),
        precision="float32",
        session=SessionSettings(),
        measured=measured,
    )
    inside = with_preprocessing(quantized, trial, plain)
    assert inside.recipe.passes == ("fold-input",)
    assert inside.measured is not None
    assert inside.measured.route is not None
    assert "takes pixels" in trial.monitor.notes[0]
    identity = Identity(
        "n", "1", task, (), "sha256:" + "1" * 64, {}, None, samples, quantized.source.onnx_bytes
    )
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
        model = quantized_model(residual_net(), task, random=random)
        assert with_preprocessing(model, trial_of(model), plan) is plan


def test_a_matching_gpu_gets_float_candidates_on_cuda_and_the_winner_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = ImageInput(width=32, height=32)
    samples = [
        Sample({"image": np.random.default_rng(i).random((1, 3, 32, 32)).astype(np.float32)})
        for i in range(4)
    ]
    model = residual_net(channels=32)
    table = calibrate(model, (s.feeds for s in samples), data_digest="sha256:" + "0" * 64)
    here = probe().model_copy(
        update={"sm": "8.6", "providers": ("CUDAExecutionProvider", "CPUExecutionProvider"), "arch": "x86_64"}
    )
    quantized = quantized_model(
        model, TaskSpec(name="plain", input=picture), samples, random=True, table=table
    )
    trial = trial_of(quantized, here)
    desktop = load_profile("desktop-gpu")
    assert has_cuda(desktop, here)
    assert not has_cuda(desktop, here.model_copy(update={"sm": "6.1"}))
    assert not has_cuda(desktop, here.model_copy(update={"providers": ("CPUExecutionProvider",)}))
    assert not has_cuda(load_profile("cpu"), here)
    asked: list[Candidate] = []

    def search(bases: Sequence[Candidate], *_: object, **__: object) -> Choice:
        asked.extend(bases)
        return Choice((Pick(CandidateOutcome(bases[-1]), ("fast",)),), None, (), "why", ())

    monkeypatch.setattr(measured, "search", search)
    [plan] = cuda_drafts(quantized, trial, desktop, measure_cuda(quantized, trial, desktop, (0.0, 1)))
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
    found = build_bundle(
        save(model),
        profiles=["cpu"],
        task=TaskSpec(name="t", input=TensorInput()),
        calibration=None,
        random_calibration=True,
        out=tmp_path / "b",
        minutes=0.5,
    )
    # where the processor has bfloat16, what is against that comes second
    [[why, *_]] = found.causes.values()
    assert why.cause is Cause.REFUSED
    assert "not a plain matrix product (first and 1 more)" in why.sentence
    variants = inspect_bundle(tmp_path / "b").variants
    assert variants  # with other settings float may ship twice
    for variant in variants:
        assert [layer.reason for layer in variant.layers] == ["not a plain matrix product"] * 2


def test_the_search_knows_what_is_carried_over_from_an_older_release(monkeypatch: pytest.MonkeyPatch) -> None:
    base, here = residual_net(), probe().model_copy(update={"arch": "x86_64", "isa": ("avx2", "avx512_vnni")})
    fresh = rebuilt(base)
    graphs = {"full": fresh, "follow-full": replace(fresh, carried_over=True)}
    model = quantized_model(
        base, samples=samples_of_noise(2), families={"x86-vnni": FamilyGraphs(graphs, {}, ())}
    )
    searched: list[Candidate] = []
    monkeypatch.setattr(measured, "_search", lambda model, trial, p, bases, *_: searched.extend(bases))
    measure_host(model, trial_of(model, here), load_profile("cpu"), (0.0, 1))
    assert {c.graph.recipe for c in searched} == {"float", "full", "follow-full"}
    assert {c.graph.recipe for c in searched if c.graph.carried_over} == {"follow-full"}


def test_float_that_judges_is_not_judged_itself_and_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantized_model(residual_net(), samples=samples_of_noise(3))
    trial = trial_of(model)
    float_ = measured.given_graph(model)
    bases = [
        Candidate(float_, "onnxruntime", SessionSettings()),
        Candidate(float_, "openvino", SessionSettings(precision_hint="f32")),
        Candidate(CandidateGraph("full", b"other", "int8"), "onnxruntime", SessionSettings()),
    ]
    known = of_float(bases, trial.judges)
    assert set(known) == {("float", "onnxruntime", None)}
    engine = open_model(float_.model, SessionSettings())
    assert known[bases[0].arithmetic] == trial.judges.search.judge(engine)
    engine.close()


def samples_of_noise(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    shape = [d.dim_value for d in residual_net().graph.input[0].type.tensor_type.shape.dim]
    name = residual_net().graph.input[0].name
    return [Sample({name: rng.standard_normal(shape).astype(np.float32)}) for _ in range(count)]
