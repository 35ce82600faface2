"""A model repository for NVIDIA's Triton Inference Server (``model_repository.md``, ``model_configuration.md`` of its
documentation): one model, one version, ``config.pbtxt`` in protobuf's text format. Pure."""

from __future__ import annotations

import json
import re

from edgectl.core.bundle import TensorSpec, VariantConfig
from edgectl.core.errors import UsageError

__all__ = ["model_name", "triton_config"]

_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


def model_name(config: VariantConfig) -> str:
    """Of the folder: what Triton calls the model."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", config.name)


def triton_config(config: VariantConfig) -> str:
    """``config.pbtxt`` of a variant that ONNX Runtime or OpenVINO opens as ONNX. A TensorRT graph runs through ONNX Runtime's
    TensorRT provider, which compiles it on the server. Raises :class:`UsageError` for a type that Triton has not."""
    lines = [f"name: {json.dumps(model_name(config))}"]
    lines.append('backend: "openvino"' if config.runtime == "openvino" else 'backend: "onnxruntime"')
    # the graph states its batch itself: shapes are whole
    lines.append("max_batch_size: 0")
    for what, specs in (("input", config.inputs), ("output", config.outputs)):
        lines.append(f"{what} [")
        lines.append(",\n".join(_tensor(spec, config.batch) for spec in specs))
        lines.append("]")
    on_gpu = config.runtime.startswith("tensorrt") or config.session.provider == "cuda"
    lines.append(f"instance_group [ {{ count: 1, kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }} ]")
    if config.runtime.startswith("tensorrt"):
        lines.append(_ACCELERATOR)
    elif config.runtime == "onnxruntime":
        lines.append(_parameter("intra_op_thread_count", str(config.session.threads)))
        lines.append(_parameter("inter_op_thread_count", "1"))
    else:
        lines.append(_parameter("INFERENCE_NUM_THREADS", str(config.session.threads)))
    return "\n".join(lines) + "\n"


_ACCELERATOR = """optimization {
  execution_accelerators {
    gpu_execution_accelerator : [ {
      name : "tensorrt"
      parameters { key: "trt_engine_cache_enable" value: "true" }
      parameters { key: "trt_engine_cache_path" value: "/tmp" }
    } ]
  }
}"""


def _tensor(spec: TensorSpec, batch: int) -> str:
    if spec.dtype not in _TYPES:
        raise UsageError(f"Triton has no type for the tensor {spec.name} of {spec.dtype}")
    # built for several pictures a call: any number up to that
    shape = (-1, *spec.shape[1:]) if batch > 1 else spec.shape
    dims = ", ".join(str(d) for d in shape) or "1"
    return f"  {{\n    name: {json.dumps(spec.name)}\n    data_type: {_TYPES[spec.dtype]}\n    dims: [ {dims} ]\n  }}"


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}'
