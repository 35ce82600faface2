"""What a user asks of a build: layers in float, precisions, runtimes. End to end, with a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.builder.nets import Save, residual_net

from edgectl.builder.build import build_bundle
from edgectl.builder.int8.placement import KEPT
from edgectl.builder.pack.inspect import inspect_bundle
from edgectl.builder.search.candidates import Cause
from edgectl.core.bundle import LAYER_PROVENANCE, Bundle
from edgectl.core.errors import UsageError
from edgectl.core.task import TaskSpec, TensorInput

pytestmark = pytest.mark.slow

RUN = {"task": TaskSpec(name="tensor", input=TensorInput()), "minutes": 0.02, "max_drop": 0.5}


def test_a_kept_layer_is_float_in_every_variant_and_told(save: Save, npz: Path, tmp_path: Path) -> None:
    model, out = save(residual_net(channels=32)), tmp_path / "out"
    keep = ["point", "head*"]
    report = build_bundle(
        model, profiles="jetson-orin", calibration=npz, out=out, keep_float=keep, precisions=["int8"], **RUN
    )
    assert "kept in float by --keep-float point: 1 layer (point)" in report.notes
    info = inspect_bundle(out).variants
    # the float beside int8 was not asked to be float16
    assert [(v.variant, v.requires) for v in info] == [
        ("tensorrt-int8", ("arch:aarch64", "sm:8.7")),
        ("cpu-int8", ("arch:aarch64", "isa:dotprod")),
    ]
    for v in info:
        assert v.precisions["int8"] >= 1
        assert "float16" not in v.precisions
        assert {r.node: (r.precision, r.reason) for r in v.layers if r.node in ("point", "head")} == {
            "point": ("float32", KEPT),
            "head": ("float32", KEPT),
        }
        assert {"point", "head"} <= set(v.recipe["excluded"])
    for v in Bundle(out).variants:
        statement = json.loads(v.need(LAYER_PROVENANCE).read_text())
        assert statement["predicate"]["buildDefinition"]["externalParameters"]["keep_float"] == keep


def test_float16_alone_in_tensorrt_alone_keeps_a_float_fallback(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    report = build_bundle(
        save(residual_net(channels=32)),
        profiles="jetson-orin",
        calibration=npz,
        out=tmp_path / "out",
        precisions=["float16"],
        runtimes=["tensorrt"],
        **RUN,
    )
    assert [
        (v.variant, v.requires[2:], v.recipe["family"]) for v in inspect_bundle(tmp_path / "out").variants
    ] == [
        ("tensorrt-float16", ("trt:10|trt:11",), "float"),
        # it makes float16 of that by itself
        ("tensorrt-float32", ("trt:8",), "float"),
        ("cpu-float32", (), "float"),
    ]
    assert any(
        n.startswith("--precision float16 --runtime tensorrt: nothing else competed") for n in report.notes
    )


def test_int8_that_was_not_asked_for_is_why_float_ships(save: Save, npz: Path, tmp_path: Path) -> None:
    report = build_bundle(
        save(residual_net()),
        profiles="cpu",
        calibration=npz,
        out=tmp_path / "out",
        precisions=["float32"],
        runtimes=["onnxruntime"],
        **RUN,
    )
    assert {(v.runtime, v.precision) for v in report.variants} == {("onnxruntime", "float32")}
    [[why]] = report.causes.values()
    assert why.cause is Cause.NOTHING_TO_QUANTIZE
    assert why.sentence == "int8 was not asked for (--precision float32 --runtime onnxruntime)"
    [outcomes] = report.candidates.values()
    assert {(o.candidate.runtime, o.candidate.precision) for o in outcomes} == {("onnxruntime", "float32")}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (
            {"keep_float": ["nothing-like-it"]},
            "--keep-float nothing-like-it: nothing in the model is called so",
        ),
        ({"precisions": ["int4"]}, "nothing of --precision int4 can be built here"),
        ({"runtimes": ["tensorrt"]}, "--runtime tensorrt: cpu has no such runtime"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_and_leaves_nothing(
    option: dict[str, list[str]], said: str, save: Save, npz: Path, tmp_path: Path
) -> None:
    model = save(residual_net())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UsageError) as e:
        build_bundle(model, profiles="cpu", calibration=npz, out=tmp_path / "out", **option, **RUN)
    assert e.value.message.startswith(said)
    assert "\n" not in e.value.message
    assert e.value.hint
    assert sorted(tmp_path.iterdir()) == before
