"""A release that follows another one: near it in bytes, near float in numbers, and a note where that
cannot be."""

from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.builder.kernels import needs_dot_products
from support.builder.nets import Save, residual_net
from support.builder.releases import FEEDS, RECIPE, TENSOR, changed, rebuilt, release_of, table_of, tuned

from edgectl.builder.build import BuildReport, build_bundle
from edgectl.builder.graph import GraphIndex
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.families import FAMILIES
from edgectl.builder.int8.previous_release import (
    PreviousRelease,
    carry_over,
    read_previous_release,
    with_carried_over,
)
from edgectl.builder.int8.quantize import quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.int8.sensitivity import outputs_of, sqnr_db
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.pack.slim import slim
from edgectl.core.bundle import LAYER_ENGINE, Bundle, Recipe, SessionSettings
from edgectl.core.delta import make_delta
from edgectl.core.errors import IntegrityError, UsageError
from edgectl.engines.finalise.open import open_model

X86 = FAMILIES["x86-vnni"]


def carried_over(
    model: ModelProto,
    release: PreviousRelease,
    *,
    max_drop: float = 0.05,
    family: str = "x86-vnni",
    kept: Collection[str] = (),
) -> FamilyGraphs:
    reference = open_model(model.SerializeToString(), SessionSettings())
    judge = Judge(TENSOR, [Sample(f) for f in FEEDS], reference)
    reference.close()
    return with_carried_over(
        FamilyGraphs({}, {}, ()),
        release,
        model,
        table_of(model),
        [FAMILIES[family]],
        FEEDS,
        judge,
        max_drop=max_drop,
        tell=lambda _: None,
        kept=kept,
    )


def fraction(old: ModelProto, new: ModelProto) -> float:
    a, b = (slim(m).SerializeToString(deterministic=True) for m in (old, new))
    difference = make_delta(a, b)
    assert difference is not None
    return len(difference) / len(b)


def codes_of(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_weight_q")}


@pytest.mark.parametrize("family", ["x86-vnni", "arm64", "openvino"])
def test_a_small_move_is_a_small_update_and_as_near_to_float_as_a_new_reconstruction(family: str) -> None:
    base = residual_net(channels=32)
    new = tuned(base, 0.002)
    old, anew = rebuilt(base, family), rebuilt(new, family)
    recipe = RECIPE.model_copy(update={"family": family})
    q = carried_over(new, release_of(base, old.model, recipe), family=family).recipes["follow-full"]
    assert q.carried_over
    assert fraction(old.model, q.model) < fraction(old.model, anew.model)
    reference = outputs_of(new, FEEDS)
    assert (
        sqnr_db(reference, outputs_of(q.model, FEEDS)) > sqnr_db(reference, outputs_of(anew.model, FEEDS)) - 1
    )
    moved = [
        np.mean(a != b) for a, b in zip(codes_of(q.model).values(), codes_of(old.model).values(), strict=True)
    ]
    again = [
        np.mean(a != b)
        for a, b in zip(codes_of(anew.model).values(), codes_of(old.model).values(), strict=True)
    ]
    assert max(moved) < 0.5 * min(again)


def test_what_did_not_move_at_all_is_the_very_engine() -> None:
    base = residual_net()
    old = rebuilt(base)
    q = carried_over(base, release_of(base, old.model)).recipes["follow-full"]
    assert slim(q.model) == slim(old.model)


def test_what_the_user_keeps_in_float_is_float_in_what_follows() -> None:
    base = residual_net()
    q = carried_over(base, release_of(base, rebuilt(base).model), kept={"point"}).recipes["follow-full"]
    assert {r.node: r.precision for r in q.layers if r.op == "Conv"} == {
        "first": "int8",
        "point": "float32",
        "depth": "int8",
        "head": "int8",
    }


def test_a_range_is_kept_unless_it_is_outgrown_or_hardly_used() -> None:
    base = residual_net()
    old = rebuilt(base)

    def scales(factor: float) -> list[bool]:
        """Whether each tensor behind the first layer, whose outputs grow by ``factor``, keeps its scale."""
        new = changed(base, lambda n, w: w * factor if n in ("w1", "b1") else w)
        plain = quantize(new, table_of(new), X86)
        q, _ = carry_over(plain, new, GraphIndex(slim(old.model)), GraphIndex(slim(base)))
        was = {t.name: t for t in old.model.graph.initializer}
        names = [t for t in plain.placement.tensors if t != "image"]
        assert {t.name: t for t in q.model.graph.initializer}["image_scale"] == was["image_scale"]
        now = {t.name: t for t in q.model.graph.initializer}
        value = {n: numpy_helper.to_array(t) for n, t in now.items()}
        x, w, b = (value[f"{n}_scale"] for n in ("r1", "point_weight", "point_bias"))
        # the kernel adds products of codes to codes of the bias
        np.testing.assert_allclose(b, x * w, rtol=1e-6)
        np.testing.assert_allclose(
            value["point_bias_q"] * b, np.asarray(GraphIndex(base).weights("b2")), atol=1e-4
        )
        return [now[f"{t}_scale"] == was[f"{t}_scale"] for t in names]

    assert all(scales(1.02))
    assert not all(scales(1.2))
    assert not all(scales(0.5))


def test_a_channel_that_outgrows_its_codes_gets_a_larger_scale_and_saturates_nothing() -> None:
    base = residual_net()
    new = changed(
        base,
        lambda n, w: np.where(np.arange(len(w)).reshape(-1, 1, 1, 1) == 3, 1.5 * w, w) if n == "w2" else w,
    )
    old = rebuilt(base)
    plain = quantize(new, table_of(new), X86)
    q, moved = carry_over(plain, new, GraphIndex(old.model), GraphIndex(base))
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (old.model, q.model)
    )
    grew = after["point_weight_scale"] / before["point_weight_scale"]
    assert np.flatnonzero(grew != 1).tolist() == [3]
    value = after["point_weight_q"][3] * after["point_weight_scale"][3]
    assert np.abs(value - moved["point"][3]).max() <= after["point_weight_scale"][3]
    given = moved["point"].copy()
    reconstruct(q, new, X86, FEEDS, towards=moved)
    assert np.array_equal(moved["point"], given)


@needs_dot_products
def test_a_new_head_is_built_anew_and_the_rest_is_carried_over() -> None:
    base, rng = residual_net(channels=32), np.random.default_rng(1)
    new = tuned(base)
    for t in new.graph.initializer:
        if t.name in ("w4", "b4"):
            shape = (5, *t.dims[1:])
            t.CopyFrom(numpy_helper.from_array(0.2 * rng.standard_normal(shape).astype(np.float32), t.name))
    new.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    graphs = carried_over(new, release_of(base, rebuilt(base).model))
    q = graphs.recipes["follow-full"]
    assert graphs.notes == ()
    assert codes_of(q.model)["head_weight_q"].shape[0] == 5
    assert sqnr_db(outputs_of(new, FEEDS), outputs_of(q.model, FEEDS)) > 30


def test_what_cannot_be_carried_over_is_said_and_changes_nothing() -> None:
    base = residual_net()
    whole = release_of(base, rebuilt(base).model)
    equalised = RECIPE.model_copy(update={"passes": ("equalise", "quantize:full")})
    cheaper = RECIPE.model_copy(update={"passes": ("hard-swish:2/3", "quantize:full")})
    for release, why in (
        (replace(whole, model=None), "no float engine"),
        (replace(whole, formers=()), "no int8 engine of this family"),
        (replace(whole, formers=(replace(whole.formers[0], recipe=equalised),)), "was equalised"),
        (
            replace(whole, formers=(replace(whole.formers[0], recipe=cheaper),)),
            "activations were made cheaper",
        ),
        (
            release_of(residual_net(channels=8), rebuilt(residual_net(channels=8)).model),
            "0% of the weights have a partner",
        ),
    ):
        graphs = carried_over(tuned(base), release)
        assert graphs.recipes == {}
        assert why in " ".join(graphs.notes)


def test_what_is_carried_over_and_misses_the_budget_is_left_out_with_a_note() -> None:
    base = residual_net()
    graphs = carried_over(tuned(base), release_of(base, rebuilt(base).model), max_drop=0.0)
    assert graphs.recipes == {}
    assert graphs.judged["follow-full"].drop > 0
    assert "more than 0: the build goes on without it" in graphs.notes[0]


def test_releases_follow_each_other_in_one_folder_and_say_what_an_update_takes(
    save: Save, npz: Path, tmp_path: Path
) -> None:
    model, out = residual_net(channels=32), tmp_path / "out"
    reports: list[BuildReport] = []
    recipes: list[Recipe] = []
    engines: list[bytes] = []
    for i in range(3):
        reports.append(
            build_bundle(
                save(model),
                profiles=["cpu-arm64"],
                task=TENSOR,
                calibration=str(npz),
                out=out,
                max_drop=0.05,
                minutes=0.5,
                name="net",
                version=f"{i}",
                previous=out if i else None,
            )
        )
        model, variant = tuned(model), Bundle(out).variants[0]
        recipes.append(variant.config.recipe)
        engines.append(variant.need(LAYER_ENGINE).read_bytes())
    assert [r.passes[-2:] for r in recipes] == [
        ("quantize:full", "reconstruct"),
        *[("quantize:full", "follow")] * 2,
    ]
    for i, (old, new) in enumerate(pairwise(engines)):
        size = len(make_delta(old, new) or b"")
        assert f"cpu-arm64: cpu-int8 takes {size:,} bytes as a difference to net@{i}" in " ".join(
            reports[i + 1].notes
        )
        assert size < 0.5 * len(new)


def test_a_folder_that_is_no_bundle_is_refused_before_the_work(save: Save, npz: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UsageError, match="--follow"):
            build_bundle(
                save(residual_net()),
                profiles=["cpu"],
                task=TENSOR,
                calibration=str(npz),
                out=tmp_path / "out",
                previous=path,
                progress=lambda p: pytest.fail("the work had begun"),
            )


def test_a_damaged_engine_is_found_before_it_is_carried_over(save: Save, npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_bundle(
        save(residual_net()),
        profiles=["cpu-arm64"],
        task=TENSOR,
        calibration=str(npz),
        out=out,
        max_drop=0.05,
        minutes=0.5,
    )
    assert [f.name for f in read_previous_release(out).formers] == ["full"]
    engine = Bundle(out).variants[0].need(LAYER_ENGINE)
    engine.write_bytes(engine.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="corrupt"):
        read_previous_release(out)
