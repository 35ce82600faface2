"""Engines of several pictures a call: what is opened, what is refused, what ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.nets import images, residual_net

from edgectl.builder.budget import Budget
from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.variants import batched
from edgectl.builder.variants.batched import _check_rows, open_batch, parse_batches, with_batches
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import Recipe, SessionSettings
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.measured import Conditions, Measured
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Engine
from edgectl.engines.finalise.open import open_model


def _net(nodes: list[object], *constants: object, out: list[int]) -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
    graph = helper.make_graph(nodes, "g", [x], [y], list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _feeds(n: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(1, 3, 4)).astype(np.float32)} for _ in range(n)]


def _pair(model: bytes) -> tuple[Engine, Engine]:
    return open_model(model), open_model(open_batch(model))


@pytest.mark.parametrize(
    ("text", "wanted"), [("1", (1,)), ("4", (1, 4)), ("4,1,2", (1, 2, 4)), (" 8 , 8", (1, 8))]
)
def test_option_is_a_list_with_one_picture_in_it(text: str, wanted: tuple[int, ...]) -> None:
    assert parse_batches(text) == wanted


@pytest.mark.parametrize("text", ["", "0", "1,", "-1", "x", "65", "99999", "1;4", "²", "00640", "04"])
def test_option_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--batch"):
        parse_batches(text)


def test_network_gives_each_picture_of_a_call_what_it_gives_alone() -> None:
    one, many = _pair(residual_net().SerializeToString())
    _check_rows(one, many, images(3), 1e-5)
    assert many.inputs[0].shape[0] == -1


def test_reshape_to_one_row_keeps_the_rows_that_come() -> None:
    shape = numpy_helper.from_array(np.array([1, 12], np.int64), "s")
    one, many = _pair(_net([helper.make_node("Reshape", ["x", "s"], ["y"])], shape, out=[1, 12]))
    _check_rows(one, many, _feeds(3), 1e-6)


def test_model_whose_pictures_mix_is_refused() -> None:
    mixes = [
        helper.make_node("ReduceMax", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["y"]),
    ]
    one, many = _pair(_net(mixes, out=[1, 3, 4]))
    with pytest.raises(ModelError, match="depends on the others"):
        _check_rows(one, many, _feeds(2), 1e9)


def test_model_with_one_row_for_all_pictures_is_refused() -> None:
    mean = helper.make_node("ReduceMean", ["x"], ["y"], axes=[0], keepdims=1)
    one, many = _pair(_net([mean], out=[1, 3, 4]))
    with pytest.raises(ModelError, match="not one row each"):
        _check_rows(one, many, _feeds(2), 1.0)


def test_output_that_is_no_row_is_refused() -> None:
    with pytest.raises(ModelError, match="not one row a picture"):
        open_batch(_net([helper.make_node("Squeeze", ["x"], ["y"])], out=[3, 4]))


def _draft(model: bytes) -> VariantDraft:
    conditions = Conditions(load=0.0)
    measured = Measured(
        p10_ms=1, p50_ms=1, n=20, machine="m", threads=1, runtime_version="r", conditions=conditions
    )
    return VariantDraft(
        profile="cpu",
        variant="cpu-float32",
        runtime="onnxruntime",
        requires=(),
        model=model,
        recipe=Recipe(family="float", passes=(), precision="float32"),
        precision="float32",
        session=SessionSettings(),
        measured=measured,
    )


@pytest.mark.parametrize(
    ("ms", "batch"),
    [((1.0, 1.0, 2.0), 4), ((1.0, 1.0, 4.0), 1), ((1.0, 1.2, 2.0), 1), ((1.0, 0.9, 3.6), 1)],
    ids=["faster a picture", "no faster a picture", "slower for one alone", "no faster than one by one"],
)
def test_batch_ships_only_where_a_picture_is_faster_in_it(
    monkeypatch: pytest.MonkeyPatch, ms: tuple[float, ...], batch: int
) -> None:
    def timed(runs: Mapping[str, object], *, seconds: float) -> dict[str, np.ndarray]:
        return {name: np.full(20, t) for name, t in zip(runs, ms, strict=True)}

    monkeypatch.setattr(batched, "interleave", timed)
    monitor = BuildMonitor(Budget(60), None)
    draft = _draft(residual_net().SerializeToString())
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    (done,) = with_batches([draft], (1, 4), task, images(2), monitor)
    assert done.batch == batch
    assert (done.model == draft.model) == (batch == 1)
    assert (done.memory is not None) == (batch > 1), (
        "the engine that ships is measured, with calls that are full"
    )
    assert done.measured is not None
    assert [(r.pictures, r.p50_ms, r.ratio) for r in done.measured.batches] == [
        (1, ms[1], ms[1]),
        (4, ms[2], ms[2] / 4),
    ]
    assert len(monitor.notes) == 1


def test_batch_that_is_faster_only_in_the_middle_of_its_interval_does_not_ship(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timed(runs: Mapping[str, object], *, seconds: float) -> dict[str, np.ndarray]:
        # four pictures take 0.8 of four calls as often as 1.4 of them, a little more often the former
        four = np.array([3.2] * 11 + [5.6] * 9)
        return {"one": np.ones(20), "1": np.ones(20), "4": four}

    monkeypatch.setattr(batched, "interleave", timed)
    monitor = BuildMonitor(Budget(60), None)
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    draft = _draft(residual_net().SerializeToString())
    (done,) = with_batches([draft], (1, 4), task, images(2), monitor)
    assert done.measured is not None
    four = done.measured.batches[1]
    assert four.ratio < 1 < four.high
    assert (done.batch, done.model) == (1, draft.model)


def test_batches_are_left_out_and_listed_when_the_time_of_the_build_is_over() -> None:
    budget = Budget(10, clock=iter([0.0, 9.9]).__next__)
    monitor = BuildMonitor(budget, None)
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    draft = _draft(residual_net().SerializeToString())
    assert with_batches([draft], (1, 4), task, images(2), monitor) == [draft]
    assert budget.left_out == ("cpu-float32 with several pictures a call",)
    assert monitor.notes == [
        "cpu/cpu-float32 takes one picture a call: the time was over before it was measured"
    ]


def test_engine_that_was_not_measured_takes_one_picture_and_a_note_says_so() -> None:
    monitor = BuildMonitor(Budget(60), None)
    draft = replace(_draft(residual_net().SerializeToString()), measured=None)
    task = TaskSpec(name="net", metric="top1", input=ImageInput(width=32, height=32))
    assert with_batches([draft], (1, 4), task, images(2), monitor) == [draft]
    assert monitor.notes == ["cpu/cpu-float32 takes one picture a call: it is not measured on this machine"]


def test_channel_shuffle_that_folds_the_row_into_its_channels_is_batched() -> None:
    split = numpy_helper.from_array(np.array([2, 2, 3], np.int64), "split")
    join = numpy_helper.from_array(np.array([2, -1, 2, 3], np.int64), "join")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3])
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["b", "join"], ["c"]),
        helper.make_node("Gather", ["c", "second"], ["y"], axis=0),
    ]
    second = numpy_helper.from_array(np.array(1, np.int64), "second")
    graph = helper.make_graph(nodes, "g", [x], [y], [split, join, second])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    one, many = _pair(model.SerializeToString())
    rng = np.random.default_rng(0)
    _check_rows(one, many, [{"x": rng.normal(size=(1, 4, 3)).astype(np.float32)} for _ in range(3)], 1e-6)
