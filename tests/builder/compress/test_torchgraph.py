"""A graph as a torch module answers what ONNX Runtime answers."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.builder.compressible import run


@pytest.mark.torch
@pytest.mark.parametrize(
    ("pads", "size"),
    [
        ([1, 1, 1, 1], [8, 8]),
        ([2, 1, 2, 1], [8, 8]),
        ([0, 1, 2, 0], [8, 8]),
        ([2, 2], [12]),
        ([0, 2], [12]),
        (None, [8, 8]),
    ],
)
def test_a_convolution_pads_as_the_graph_says(pads: list[int] | None, size: list[int]) -> None:
    import torch

    from edgectl.builder.compress.torchgraph import TorchGraph

    rng = np.random.default_rng(0)
    rank = len(size)
    weight = rng.standard_normal((4, 3, *[3] * rank)).astype(np.float32)
    attributes = {"strides": [2] * rank} | ({} if pads is None else {"pads": pads})
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **attributes)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.standard_normal((1, 3, *size)).astype(np.float32)
    with torch.no_grad():
        [got] = TorchGraph(model)({"x": torch.from_numpy(x)})
    np.testing.assert_allclose(got.numpy(), run(model, {"x": x}), atol=1e-5)
