"""Compression on small graphs: what is removed, what must stay, that numbers agree; and a digits CNN that
is trained here."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.compressible import chain_net, inputs, judge_of, run
from support.builder.digits import digits, top1

from edgectl.builder.compress import channel
from edgectl.builder.compress.channel import channel_step, prune_channels
from edgectl.builder.compress.cluster import share_weights
from edgectl.builder.compress.coupling import couple, remove
from edgectl.builder.compress.hessian import hessian_damage
from edgectl.builder.compress.importance import channel_damage, input_norms
from edgectl.builder.compress.magnitude import prune_two_of_four, prune_weights
from edgectl.builder.compress.options import parse_options
from edgectl.builder.compress.run import compress
from edgectl.builder.compress.weights import macs, weights_of
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.refit import refit
from edgectl.core.codebook import pack, unpack
from edgectl.core.errors import IntegrityError, ModelError, UsageError


def damage_of(model: ModelProto, importance: str) -> dict[int, float]:
    coupling = couple(model)
    if importance == "hessian":
        return hessian_damage(model, coupling, inputs(16))
    if importance == "taylor":
        from edgectl.builder.compress.recover import taylor_damage

        return taylor_damage(model, coupling, inputs(16))
    norms = (
        input_norms(model, weights_of(GraphIndex(model)), inputs()) if importance == "activation" else None
    )
    return channel_damage(coupling, norms)


@pytest.mark.parametrize(
    "importance", ["magnitude", "activation", pytest.param("taylor", marks=pytest.mark.torch), "hessian"]
)
def test_channels_that_do_nothing_go_first_and_the_answer_stays(importance: str) -> None:
    model = chain_net(dead=8)
    coupling = couple(model)
    first = next(g for g in coupling.groups if g.makers == ("first",))
    damage = damage_of(model, importance)
    assert max(damage[int(c)] for c in first.channels[:8]) < 1e-6 * min(
        damage[int(c)] for c in first.channels[8:]
    )
    pruned, done, _ = prune_channels(model, coupling, 0.5, 8, damage)
    onnx.checker.check_model(pruned, full_check=True)
    np.testing.assert_array_equal(done["first"], np.arange(8, 16))
    depth = next(n for n in pruned.graph.node if n.name == "depth")
    assert next(a.i for a in depth.attribute if a.name == "group") == 8
    assert macs(pruned) < 0.55 * macs(model)


def test_what_is_asked_for_is_saved_where_it_costs_least() -> None:
    model = chain_net(dead=12)
    coupling = couple(model)
    pruned, done, reasons = prune_channels(model, coupling, 0.25, 4, damage_of(model, "activation"))
    assert len(done["first"]) == 8, "twice what was asked of each layer: it costs nothing there"
    assert "second" not in done
    assert "cost more than others" in reasons["second"]
    assert macs(pruned) <= 0.6 * macs(model)


def test_a_channel_that_others_can_make_up_for_costs_nothing_and_the_refit_does_it() -> None:
    """Two channels of the first layer are the same: only second-order importance sees that one of them can
    go."""
    model = chain_net()
    for name in ("w1", "b1", "wd", "bd"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        value = numpy_helper.to_array(tensor).copy()
        value[8:] = value[:8]
        tensor.CopyFrom(numpy_helper.from_array(value, name))
    coupling = couple(model)
    [first] = [g for g in coupling.groups if g.makers == ("first",)]
    damage = hessian_damage(model, coupling, inputs(16))
    gone = sorted((int(c) for c in first.channels), key=damage.__getitem__)[:8]
    left = np.flatnonzero(~np.isin(coupling.made["first"], gone))
    assert sorted(k % 8 for k in left) == list(range(8))
    pruned = remove(model, coupling, gone)
    done = {"first": left, "depth": left}
    samples = inputs(64)
    taught = refit(pruned, model, done, samples)
    for feeds in inputs(4, seed=9):
        want = run(model, feeds)
        assert np.abs(run(pruned, feeds) - want).max() > 0.2 * np.abs(want).max()
        assert np.abs(run(taught, feeds) - want).max() < 0.02 * np.abs(want).max()


def test_weights_are_zeroed_as_asked_and_2_of_4_is_2_of_4() -> None:
    model = chain_net()
    pruned, zeros = prune_weights(model, 0.5, None)
    assert 0.49 < zeros < 0.52
    sparse, zeros, reasons = prune_two_of_four(
        model, input_norms(model, weights_of(GraphIndex(model)), inputs())
    )
    weight = GraphIndex(sparse).weights("w2")
    assert weight is not None
    fours = np.moveaxis(weight, 1, -1).reshape(-1, 4)
    assert ((fours == 0).sum(1) == 2).all()
    assert "not a multiple of 4" in reasons["first"]
    assert zeros == 0.5
    assert macs(pruned) == macs(model)


def test_shared_weights_are_few_near_and_pack_small() -> None:
    model = chain_net(channels=64)
    shared, snr = share_weights(model, 16)
    assert snr > 15
    for w in weights_of(GraphIndex(shared)):
        assert w.value.size <= 64 or len(np.unique(w.value)) <= 16
    data = shared.SerializeToString()
    packed = pack(data, [t.raw_data for t in shared.graph.initializer])
    assert unpack(packed, max_bytes=1 << 24) == data
    assert len(packed) < 0.2 * len(data)


def test_a_layer_of_zeros_alone_stays_one() -> None:
    """Normalisation that scales a layer by zero leaves such weights when it is folded."""
    model = chain_net(channels=64)
    for t in model.graph.initializer:
        if t.name == "w2":
            t.CopyFrom(numpy_helper.from_array(np.zeros(tuple(t.dims), np.float32), t.name))
    shared, _ = share_weights(model, 16)
    weight = GraphIndex(shared).weights("w2")
    assert weight is not None
    assert not weight.any()


def test_few_large_weights_get_values_of_their_own() -> None:
    """A normal distribution in 64 values has 31 dB at best (Max, 1960); outliers must not cost much of that."""
    model = chain_net(channels=64)
    rng = np.random.default_rng(0)
    for t in model.graph.initializer:
        if t.name == "w2":
            value = rng.standard_normal(tuple(t.dims)).astype(np.float32)
            value.ravel()[:20] *= 8
            t.CopyFrom(numpy_helper.from_array(value, t.name))
    shared, _ = share_weights(model, 64)
    before, after = (np.asarray(GraphIndex(m).weights("w2"), np.float64) for m in (model, shared))
    noise = np.square(before - after)
    assert 10 * np.log10(np.square(before).sum() / noise.sum()) > 30


@settings(max_examples=40, deadline=None)
@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(1, 256), st.integers(0, 400)), max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_packing_is_lossless(noise: bytes, regions: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    raws = [rng.integers(0, k, n, dtype=np.uint32).tobytes() for k, n in regions]
    data = noise + b"|".join(raws) + noise
    assert unpack(pack(data, raws), max_bytes=1 << 20) == data


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_packs_are_one_error(data: st.DataObject) -> None:
    raw = np.random.default_rng(0).integers(0, 9, 500, dtype=np.uint32).tobytes()
    whole = b"head" + raw + b"tail"
    good = pack(whole, [raw])
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.sampled_from([b"", bytes([good[at] ^ 1]) + good[at + 1 :]]))
    with contextlib.suppress(IntegrityError):
        assert unpack(bad, max_bytes=1 << 20) == whole  # the header may say the same in another way
    with pytest.raises(IntegrityError):
        unpack(good, max_bytes=100)


@pytest.mark.parametrize(
    ("prune", "more", "says"),
    [
        (["channels:0.3"], {}, "not known"),
        (["channel:1.5"], {}, "share"),
        (["channel:x"], {}, "share"),
        (["channel:0.3/0"], {}, "step"),
        (["2:4", "magnitude:0.5"], {}, "exclude"),
        ([], {"cluster": 1}, "2 to 256"),
        (["2:4"], {"importance": "luck"}, "luck"),
    ],
)
def test_options_that_make_no_sense_are_one_sentence(
    prune: list[str], more: dict[str, object], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        parse_options(prune, **more)  # type: ignore[arg-type]


def test_the_step_is_one_of_those_tried() -> None:
    assert channel_step(seconds=0.1) in (1, 2, 4, 8, 16)


def test_other_work_on_the_machine_does_not_make_half_full_vectors_look_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def disturbed(runs: dict[str, Any], **_: Any) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        found = {}
        for name in runs:
            # vectors of 16: 65 channels cost what 80 do
            alone = (-(-int(name) // 16) * 16 / 64) ** 2
            # four calls of five wait; by chance those of what the others are compared with wait longest
            waits = 9 * rng.random(30) * (1 if name in ("64", "80", "96") else 0.2)
            found[name] = alone * (1 + np.where(np.arange(30) % 5, waits, 0))
        return found

    monkeypatch.setattr(channel, "interleave", disturbed)
    assert channel_step() == 16


def test_no_channel_goes_that_could_stay() -> None:
    widths = [3, 16, 32, 32, 64, 64, 4]
    rng = np.random.default_rng(0)
    pairs = list(itertools.pairwise(widths))
    weights = [
        numpy_helper.from_array(rng.standard_normal((o, i, 1, 1)).astype(np.float32), f"w{k}")
        for k, (i, o) in enumerate(pairs)
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [f"t{k}", f"w{k}"], [f"t{k + 1}"], name=f"conv{k}")
            for k in range(len(pairs))
        ],
        "narrow",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info(f"t{len(pairs)}", TensorProto.FLOAT, [1, 4, 4, 4])],
        weights,
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    coupling = couple(model)

    def work(kept: list[int]) -> int:
        return sum(i * o for i, o in itertools.pairwise(kept))

    allowed = work([3, 16, 16, 16, 32, 32, 4])
    for seed in range(60):
        draw = np.random.default_rng(seed)
        damage = {
            int(c): float(d)
            for g in coupling.groups
            for c, d in zip(g.channels, draw.random(len(g.channels)) * 10 ** draw.uniform(-2, 2), strict=True)
        }
        small, _, _ = prune_channels(model, coupling, 0.5, 16, damage)
        kept = [3, *(t.dims[0] for t in small.graph.initializer)]
        assert work(kept) <= allowed
        for k in range(1, len(kept) - 1):
            if kept[k] < widths[k]:
                assert work([*kept[:k], kept[k] + 16, *kept[k + 1 :]]) > allowed, (seed, kept)


def test_a_graph_that_cannot_be_pruned_says_why() -> None:
    model = chain_net()
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [1, 16, 8, 8]))
    model.graph.output.append(helper.make_tensor_value_info("c2", TensorProto.FLOAT, [1, 16, 8, 8]))
    with pytest.raises(
        ModelError, match="no channel of this model can be pruned: first: its channels are an output"
    ):
        compress(model, parse_options(["channel:0.5/8"]), inputs(8), judge_of(model, inputs(4)), max_drop=1.0)


def test_losing_more_than_the_budget_is_an_error() -> None:
    model = chain_net()
    with pytest.raises(ModelError, match="more than 0"):
        compress(
            model, parse_options(["channel:0.9/1"]), inputs(8), judge_of(model, inputs(64)), max_drop=0.0
        )


@pytest.mark.torch
@pytest.mark.slow
def test_a_pruned_digits_cnn_is_taught_back_within_a_point() -> None:
    model, samples, tests, labels = digits()
    whole = top1(model, tests, labels)
    assert whole > 0.95
    judge = judge_of(model, tests[:300])
    small, report = compress(model, parse_options(["channel:0.5/8"]), samples, judge, max_drop=1.0)
    pruned, refitted = report.steps
    assert pruned.macs_ratio < 0.35
    assert refitted.drop < pruned.drop
    from edgectl.builder.compress.recover import recover

    taught, lesson = recover(small, model, samples, seconds=0, steps=300)
    assert lesson.steps == 300
    assert lesson.after < 0.7 * lesson.before
    assert macs(taught) == macs(small)
    assert whole - top1(taught, tests, labels) <= 0.01


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("importance", ["activation", "taylor"])
def test_other_importances_and_sparse_recovery_keep_their_promise(importance: str) -> None:
    model, samples, tests, _ = digits()
    asked = ["channel:0.25/8", "2:4"] if importance == "taylor" else ["magnitude:0.6"]
    options = parse_options(asked, importance=importance, recover_minutes=0.02, cluster=32)
    small, report = compress(model, options, samples, judge_of(model, tests[:300]), max_drop=1.0)
    steps = [s.step.split(":")[0] for s in report.steps if s.step != "refit"]
    assert steps == [*(a.split(":")[0] for a in asked), "recover", "cluster"]
    assert report.steps[-2].drop <= report.steps[-3].drop
    weight = GraphIndex(small).weights("w2")
    assert weight is not None
    # training did not bring pruned weights back
    assert (weight == 0).mean() >= (0.5 if importance == "taylor" else 0.599)
    assert report.steps[-1].packed_bytes < 0.3 * report.steps[-1].bytes
