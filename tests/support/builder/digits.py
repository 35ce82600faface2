"""A CNN on scikit-learn's digits (1 797 pictures of 8×8), trained where it is needed: 3 convolutions, 68
000 weights, seconds on a CPU."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from edgectl.builder.compress.weights import replace_weights
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model


@functools.cache
def digits(
    scale: int = 1,
) -> tuple[ModelProto, list[dict[str, np.ndarray]], list[dict[str, np.ndarray]], np.ndarray]:
    """The trained model, 512 of its 1200 training inputs, test inputs and test labels. For tests marked
    ``torch``.

    ``scale``: each pixel is shown as ``scale`` × ``scale`` of them, and pooled again before the head.
    """
    import torch

    from edgectl.builder.compress.torchgraph import TorchGraph

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x = x.repeat(scale, 2).repeat(scale, 3)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    rng = np.random.default_rng(1)
    shapes = {"w1": (32, 1, 3, 3), "w2": (64, 32, 3, 3), "w3": (64, 64, 3, 3), "wg": (10, 1024)}
    tensors = {
        n: (rng.standard_normal(s) * (2 / np.prod(s[1:])) ** 0.5).astype(np.float32)
        for n, s in shapes.items()
    }
    tensors |= {f"b{n[1:]}": np.zeros(s[0], np.float32) for n, s in shapes.items()}
    nodes, last = [], "x"
    for i in "123":
        nodes += [
            helper.make_node("Conv", [last, f"w{i}", f"b{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"),
        ]
        last = f"r{i}"
    nodes += [
        helper.make_node(
            "MaxPool", [last], ["p"], name="pool", kernel_shape=[2 * scale] * 2, strides=[2 * scale] * 2
        ),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "wg", "bg"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8 * scale, 8 * scale])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(v, n) for n, v in tensors.items()],
    )
    model = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    )
    # two threads on a busy machine wait for each other
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = TorchGraph(model)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    train, labels = torch.from_numpy(x[:1200]), torch.from_numpy(y[:1200])
    for _ in range(150):
        pick = torch.randint(1200, (64,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net({"x": train[pick]})[0], labels[pick]).backward()
        optimizer.step()
    trained = replace_weights(model, net.weights())
    return trained, [{"x": i[None]} for i in x[:512]], [{"x": i[None]} for i in x[1200:]], y[1200:]


def top1(model: ModelProto, feeds: list[dict[str, np.ndarray]], labels: np.ndarray) -> float:
    engine = open_model(model.SerializeToString(), SessionSettings())
    got = [int(np.argmax(engine.run(f)["y"])) for f in feeds]
    engine.close()
    return float(np.mean(np.array(got) == labels))
