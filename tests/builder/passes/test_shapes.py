"""Sizes that a model leaves open: from the user, the task or the data; and what is said when nothing tells
them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from support.builder.nets import residual_net

from edgectl.builder.ingest.samples import npz_shapes
from edgectl.builder.passes.shapes import parse_shapes, resolve_inputs
from edgectl.core.errors import DataError, ModelError, UsageError
from edgectl.core.task import ImageInput, TaskSpec, TensorInput

TENSOR = TaskSpec(name="tensor", input=TensorInput())


def open_net(*dims: int | str, name: str = "image", kind: int = TensorProto.FLOAT) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["out"])],
        "net",
        [helper.make_tensor_value_info(name, kind, dims)],
        [helper.make_tensor_value_info("out", kind, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shape_of(model: ModelProto, **options: object) -> tuple[int, ...]:
    return resolve_inputs(model, TENSOR, **options)[0].shape  # type: ignore[arg-type]


def test_shapes_are_read_from_the_command_line() -> None:
    assert parse_shapes(["x=1,3,32,32", "odd=name=1x4"]) == {"x": (1, 3, 32, 32), "odd=name": (1, 4)}
    for bad in ("x", "x=", "=1,2", "x=1,-3", "x=1,,2", "x=0", "x=N,3"):
        with pytest.raises(UsageError, match="is no shape"):
            parse_shapes([bad])
    with pytest.raises(UsageError, match="two shapes for input x"):
        parse_shapes(["x=1", "x=2"])


def test_what_is_open_comes_from_the_user_or_from_the_data() -> None:
    model = open_net("N", 3, "H", "W")
    assert shape_of(model, shapes={"image": (2, 3, 40, 48)}) == (2, 3, 40, 48)
    assert shape_of(model, data={"image": (48, 3, 32, 24)}) == (1, 3, 32, 24)
    assert shape_of(model, data={"image": (48, 1, 3, 32, 24)}) == (1, 3, 32, 24)
    assert shape_of(model, shapes={"image": (1, 3, 8, 8)}, data={"image": (48, 3, 32, 24)}) == (1, 3, 8, 8)


def test_the_task_comes_before_the_data_and_the_model_before_both() -> None:
    picture = TaskSpec(name="t", input=ImageInput(width=64, height=48))
    assert resolve_inputs(open_net("N", 3, "H", "W"), picture, data={"image": (9, 3, 32, 32)})[0].shape == (
        1,
        3,
        48,
        64,
    )
    assert shape_of(open_net(1, 3, 16, 16), data={"image": (9, 3, 32, 32)}) == (
        1,
        3,
        16,
        16,
    )  # collecting it says that it does not fit


def test_a_size_that_nothing_tells_names_the_input_and_the_next_step() -> None:
    with pytest.raises(ModelError, match="leaves the size of input picture open: 1 × 3 × H × W") as e:
        shape_of(open_net("N", 3, "H", "W", name="picture"))
    assert e.value.hint is not None
    assert "--shape picture=1,3,H,W" in e.value.hint
    model = open_net(1)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="does not say how many dimensions input image has"):
        shape_of(model)
    assert shape_of(model, shapes={"image": (1, 7)}) == (1, 7)


def test_the_data_of_another_shape_tells_nothing() -> None:
    with pytest.raises(ModelError, match="leaves the size of input image open"):
        shape_of(open_net("N", 3, "H", "W"), data={"image": (48, 4, 32, 32)})


def test_a_shape_that_contradicts_the_model_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"--shape says 1 × 4 × 8 × 8 for input image; the model takes [?] × 3 × [?] × [?]"
    ):
        shape_of(open_net("N", 3, "H", "W"), shapes={"image": (1, 4, 8, 8)})
    with pytest.raises(UsageError, match="--shape names photo, which is no input") as e:
        shape_of(residual_net(), shapes={"photo": (1,)})
    assert e.value.hint == "its inputs: image"


@pytest.mark.parametrize("kind", [TensorProto.STRING, TensorProto.COMPLEX64])
def test_an_input_that_is_no_tensor_of_numbers_is_named(kind: int) -> None:
    with pytest.raises(ModelError, match="input text is no tensor of numbers"):
        shape_of(open_net(1, 4, name="text", kind=kind))


def test_the_shapes_of_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", image=np.zeros((9, 3, 4, 5), np.float32), state=np.zeros((9, 2)))
    assert npz_shapes(tmp_path / "d.npz") == {"image": (9, 3, 4, 5), "state": (9, 2)}
    with pytest.raises(DataError, match="there is no file"):
        npz_shapes(tmp_path / "missing.npz")
