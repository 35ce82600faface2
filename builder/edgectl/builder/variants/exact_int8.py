"""Whether ONNX Runtime's int8 can be trusted on this processor.

Its kernels for AMX were wrong until March 2026 (https://github.com/microsoft/onnxruntime/pull/27671) at 32 rows
and a number of columns that is no multiple of 16: among others in 1.23, the last one for Python 3.10.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model

__all__ = ["inexact_int8", "int8_is_exact"]

_ROWS, _DEPTH, _COLUMNS = 32, 64, 24


@cache
def int8_is_exact() -> bool:
    """Whether a product of uint8 [32, 64] and int8 [64, 24] is what integers make of it.

    int8 of 7 bits: with all of 8, kernels for processors without VNNI saturate by design, and their family of graphs
    has 7-bit weights.
    """
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 256, (_ROWS, _DEPTH)), rng.integers(-64, 64, (_DEPTH, _COLUMNS))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, left.shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (_ROWS, _COLUMNS))],
        [numpy_helper.from_array(right.astype(np.int8), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    engine = open_model(model.SerializeToString(), SessionSettings())
    try:
        return bool(np.array_equal(engine.run({"a": left.astype(np.uint8)})["y"], left @ right))
    finally:
        engine.close()


def inexact_int8() -> list[str]:
    """The sentence for whoever builds where it is not; empty where it is."""
    if int8_is_exact():
        return []
    return [
        f"ONNX Runtime {ort.__version__} multiplies int8 wrongly on this processor (its AMX kernels, mended in 2026): "
        "its int8 engines lose more here than elsewhere; a newer onnxruntime, which needs Python 3.11, does not"
    ]
