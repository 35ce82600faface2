"""The bad release of the demo: a model that gives the same answers, far too slowly.

A bigger network that nobody timed on the device is the commonest bad release there is. This one is honest
about it: a chain of identity convolutions is put behind one activation. Its golden outputs are right, it
warms up, and only live latency shows what it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from edgectl.core.errors import ModelError

__all__ = ["slow_copy"]


def slow_copy(model: Path, *, convolutions: int = 32) -> bytes:
    """The model with ``convolutions`` extra 5×5 identity convolutions behind its last ReLU but one of rank 4.

    5×5 and not 3×3: where the processor multiplies matrices, the latter cost too little to be told from other work.

    Raises :class:`ModelError` if it has no such ReLU.
    """
    graph_model = shape_inference.infer_shapes(onnx.load(str(model)))
    graph = graph_model.graph
    channels = {
        v.name: v.type.tensor_type.shape.dim[1].dim_value
        for v in graph.value_info
        if len(v.type.tensor_type.shape.dim) == 4
    }
    relus = [
        i for i, node in enumerate(graph.node) if node.op_type == "Relu" and channels.get(node.output[0])
    ]
    if len(relus) < 2:
        raise ModelError(f"{model.name} has no ReLU to slow down")
    at = relus[-2]
    tensor = graph.node[at].output[0]
    c = channels[tensor]
    weights = np.zeros((c, c, 5, 5), dtype=np.float32)
    weights[np.arange(c), np.arange(c), 2, 2] = 1.0
    added, current = [], tensor
    for k in range(convolutions):
        # Not one shared initializer: each layer has weights of its own, as a larger network would.
        name = f"slow_weight_{k}"
        graph.initializer.append(numpy_helper.from_array(weights, name))
        added.append(
            helper.make_node(
                "Conv",
                [current, name],
                [f"slow_conv_{k}"],
                f"slow_conv_{k}",
                kernel_shape=[5, 5],
                pads=[2, 2, 2, 2],
            )
        )
        added.append(helper.make_node("Relu", [f"slow_conv_{k}"], [f"slow_relu_{k}"], f"slow_relu_{k}"))
        current = f"slow_relu_{k}"
    nodes = list(graph.node)
    for node in nodes[at + 1 :]:
        for i, name in enumerate(node.input):
            if name == tensor:
                node.input[i] = current
    del graph.node[:]
    graph.node.extend([*nodes[: at + 1], *added, *nodes[at + 1 :]])
    onnx.checker.check_model(graph_model)
    return bytes(graph_model.SerializeToString())
