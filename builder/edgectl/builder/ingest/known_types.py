"""Types and shapes that ONNX's inference does not tell: of operators that it knows by a function body only
(GroupNormalization), and of those that it does not know (``com.microsoft``).

What has no type is not calibrated, not quantized and not written in float16, and neither is what comes after
it. ONNX Runtime knows the type of everything that it runs.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import EngineError
from edgectl.engines.finalise.open import open_model

__all__ = ["with_known_types"]


def with_known_types(model: ModelProto) -> ModelProto:
    """``model`` with a type, and where it is known a shape, for each tensor of its top-level graph; the same
    object where none is missing.

    What is no tensor (sequences, maps) stays unknown, and so does everything where ONNX Runtime does not open
    the graph.
    """
    index = GraphIndex(model)
    unknown = [o for n in index.nodes for o in n.output if o and not index.is_known(o)]
    if not unknown:
        return model
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(ValueInfoProto(name=t) for t in unknown)
    try:
        engine = open_model(
            watched.SerializeToString(), SessionSettings.model_validate({"optimization": "disabled"})
        )
    except EngineError:
        return model
    found = {o.name: o for o in engine.outputs}
    engine.close()
    typed = ModelProto()
    typed.CopyFrom(model)
    kept = [v for v in typed.graph.value_info if v.name not in found]
    del typed.graph.value_info[:]
    typed.graph.value_info.extend(kept)
    for name in unknown:
        if name in found:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(found[name].dtype))
            shape = [None if d < 0 else d for d in found[name].shape]
            typed.graph.value_info.append(helper.make_tensor_value_info(name, kind, shape))
    return typed
