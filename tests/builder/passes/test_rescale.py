"""The same graph for a smaller picture."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.builder.nets import residual_net

from edgectl.builder.ingest.canonical import canonical
from edgectl.builder.passes.rescale import rescale, smaller_size
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.finalise.open import open_model

PICTURE = ImageInput(width=32, height=32)


def ready(model: ModelProto) -> ModelProto:
    return canonical(model, TaskSpec(name="net", input=PICTURE))[0]


def run(model: ModelProto, picture: np.ndarray) -> np.ndarray:
    engine = open_model(model.SerializeToString(), SessionSettings())
    out = next(iter(engine.run({"image": picture}).values()))
    engine.close()
    return out


def net(*nodes: object, constants: dict[str, np.ndarray]) -> ModelProto:
    """image → Conv, stride 2 → ``nodes`` → out."""
    weights = {"w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32), **constants}
    first = helper.make_node("Conv", ["image", "w"], ["c"], name="first", pads=[1, 1, 1, 1], strides=[2, 2])
    graph = helper.make_graph(
        [first, *nodes],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def shuffle(flat: bool) -> ModelProto:
    """A channel shuffle of two groups, written with the area of the picture or with its height and width."""
    inner = [2, 2, 256] if flat else [1, 2, 2, 16, 16]
    return ready(
        net(
            helper.make_node("Reshape", ["c", "apart"], ["g"]),
            helper.make_node("Transpose", ["g"], ["t"], perm=[1, 0, 2] if flat else [0, 2, 1, 3, 4]),
            helper.make_node("Reshape", ["t", "together"], ["out"]),
            constants={"apart": np.asarray(inner), "together": np.asarray([1, 4, 16, 16])},
        )
    )


def test_convolutions_see_fewer_pixels_with_the_same_weights() -> None:
    model = ready(residual_net())
    small = rescale(model, PICTURE, 16, 24)
    picture = np.random.default_rng(1).random((1, 3, 16, 24), np.float32)
    assert run(small, picture).shape == (1, 8, 8, 12)
    whole = np.zeros((1, 3, 32, 32), np.float32)
    whole[:, :, :16, :24] = picture
    np.testing.assert_allclose(
        run(small, picture)[:, :, :6, :10], run(model, whole)[:, :, :6, :10], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("flat", [True, False])
def test_a_channel_shuffle_is_told_the_new_size(flat: bool) -> None:
    model = shuffle(flat)
    small = rescale(model, PICTURE, 16, 16)
    whole = np.random.default_rng(1).random((1, 3, 32, 32), np.float32)
    picture = np.ascontiguousarray(whole[:, :, :16, :16])
    np.testing.assert_allclose(run(small, picture)[:, :, :7, :7], run(model, whole)[:, :, :7, :7], rtol=1e-5)


def test_a_dense_layer_keeps_its_size() -> None:
    model = ready(
        net(
            helper.make_node("Flatten", ["c"], ["f"]),
            helper.make_node("MatMul", ["f", "d"], ["out"], name="dense"),
            constants={"d": np.ones((1024, 5), np.float32)},
        )
    )
    with pytest.raises(ModelError, match="made for one size"):
        rescale(model, PICTURE, 16, 16)


def test_sizes_go_in_steps_of_the_strides() -> None:
    model = ready(residual_net())
    assert smaller_size(model, PICTURE, 0.7) == (22, 22)
    assert smaller_size(model, PICTURE, 0.1) == (4, 4)
    with pytest.raises(ModelError, match=r"no smaller picture in steps of 2x2"):
        smaller_size(model, PICTURE, 0.99)
