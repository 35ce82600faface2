"""Small models that are read like large ones: with weights beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

__all__ = ["beside", "large_net", "tokens"]

WIDTH = 192


def large_net(*, dtype: type[np.generic] = np.float32, opset: int = 17, seed: int = 0) -> ModelProto:
    """x (1, 4, 192) → MatMul → Relu → Gemm (transposed weight, bias) → MatMul with the first weight again → y. Weights of 144 KiB
    in float32."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((WIDTH, WIDTH)) * WIDTH**-0.5
    v = rng.standard_normal((WIDTH, WIDTH)) * WIDTH**-0.5
    values = {
        "layer_weight": w,
        "layer": v,  # names that later steps would make themselves
        "bias": rng.standard_normal(WIDTH) * 0.1,
    }
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    sizes = [
        numpy_helper.from_array(np.asarray(s, np.int64), n)
        for n, s in (("flat", [4, WIDTH]), ("back", [1, 4, WIDTH]))
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "layer_weight"], ["a"], name="first"),
            helper.make_node("Relu", ["a"], ["b"], name="relu"),
            helper.make_node("Reshape", ["b", "flat"], ["c"], name="flatten"),
            helper.make_node("Gemm", ["c", "layer", "bias"], ["d"], name="second", transB=1),
            helper.make_node("Reshape", ["d", "back"], ["e"], name="unflatten"),
            helper.make_node("MatMul", ["e", "layer_weight"], ["y"], name="third"),
        ],
        "large",
        [helper.make_tensor_value_info("x", kind, [1, 4, WIDTH])],
        [helper.make_tensor_value_info("y", kind, [1, 4, WIDTH])],
        [*sizes, *(numpy_helper.from_array(a.astype(dtype), n) for n, a in values.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def beside(model: ModelProto, folder: Path) -> Path:
    """``folder``/model.onnx with every weight of 1 KiB or more in weights.bin. The model itself stays as it is."""
    folder.mkdir(exist_ok=True)
    copy = ModelProto()
    copy.CopyFrom(model)
    path = folder / "model.onnx"
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    return path


def tokens(path: Path, count: int = 12) -> Path:
    """Samples for it, as an ``.npz``."""
    np.savez(path, x=np.random.default_rng(1).standard_normal((count, 1, 4, WIDTH), np.float32))
    return path
