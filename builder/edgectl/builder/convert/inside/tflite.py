"""TFLite: float, float16 weights (made float), and int8 (kept as int8, in Q/DQ pairs). Converted by tf2onnx; the reference is
LiteRT's interpreter without delegates."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "TFLite"
NEEDS = {
    "tf2onnx": "pip install 'edgectl[convert]'",
    "tensorflow": "pip install 'edgectl[convert]'",
    "ai_edge_litert": "pip install 'edgectl[convert]'",
}
CODE: Code = "none"

_MAGIC, _PLACE = b"TFL3", 4
_OPSET = 17


def applies(source: str) -> bool:
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(_PLACE + len(_MAGIC)).endswith(_MAGIC)


def convert(job: Job) -> Signature:
    import tf2onnx

    interpreter = _interpreter(job.source)
    details = interpreter.get_input_details(), interpreter.get_output_details()
    for d in details[0]:
        if 0 in d["shape"]:
            raise Refused(f"input {d['name']} has a size of 0")
    proto, external = tf2onnx.convert.from_tflite(job.source, opset=_OPSET, output_path=str(job.onnx))
    del external
    arithmetic = "int8" if _quantized(interpreter) else "float32"
    return Signature(
        tuple(i.name for i in proto.graph.input),
        tuple(o.name for o in proto.graph.output),
        f"tf2onnx {version('tf2onnx')}",
        f"LiteRT {version('ai-edge-litert')}",
        arithmetic,  # type: ignore[arg-type]
        {
            "inputs": [d["name"] for d in details[0]],
            "outputs": [d["name"] for d in details[1]],
        },
    )


def opened(job: Job, signature: Signature) -> Answers:
    import numpy as np

    interpreter = _interpreter(job.source)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    of_input = _places(signature.inputs, inputs)
    of_output = _places(signature.outputs, outputs)

    def answers(feeds: Mapping[str, Any]) -> list[Any]:
        for name, detail in zip(signature.inputs, of_input, strict=True):
            interpreter.set_tensor(detail["index"], np.ascontiguousarray(feeds[name], detail["dtype"]))
        interpreter.invoke()
        return [interpreter.get_tensor(d["index"]) for d in of_output]

    return answers


def _interpreter(path: str) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    # the reference's own kernels: a delegate may compute in float16
    interpreter = Interpreter(
        model_path=path,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        num_threads=2,
    )
    interpreter.allocate_tensors()
    return interpreter


def _quantized(interpreter: Any) -> bool:
    """Whether anything in it is a code with a scale: of integer kernels, and of weights alone, whose kernels make codes of
    their inputs while they run."""
    return any(
        d["dtype"].__name__ in ("int8", "uint8", "int16") and len(d["quantization_parameters"]["scales"]) > 0
        for d in interpreter.get_tensor_details()
    )


def _places(names: tuple[str, ...], details: list[Any]) -> list[Any]:
    """The tensor of each name: by name, as tf2onnx keeps them, else by place."""
    known = {d["name"]: d for d in details}
    if all(n in known for n in names):
        return [known[n] for n in names]
    return list(details)
