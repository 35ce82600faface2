"""TensorFlow's SavedModel folders: the signature ``serving_default``, converted by tf2onnx."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature

__all__ = [
    "CODE",
    "NAME",
    "NEEDS",
    "PIP",
    "answers_of_folder",
    "applies",
    "convert",
    "convert_folder",
    "opened",
]

PIP = "pip install 'edgectl[convert]'"
NAME = "a SavedModel of TensorFlow"
NEEDS = {"tensorflow": PIP, "tf2onnx": PIP, "onnx": PIP}
CODE: Code = "none"

_SIGNATURE = "serving_default"
_OPSET = 17


def applies(source: str) -> bool:
    return (Path(source) / "saved_model.pb").is_file()


def convert(job: Job) -> Signature:
    return convert_folder(job, Path(job.source))


def opened(job: Job, signature: Signature) -> Answers:
    return answers_of_folder(Path(job.source), signature)


def convert_folder(job: Job, folder: Path) -> Signature:
    """Write ``job.onnx``; inputs and outputs have the names of the signature."""
    import tensorflow as tf
    import tf2onnx

    function = _function(folder)
    specs = function.structured_input_signature[1]
    if not specs:
        raise Refused(f"its signature {_SIGNATURE} has no inputs")
    names = list(specs)
    fixed = [tf.TensorSpec(_shape(job, n, specs[n]), specs[n].dtype, name=n) for n in names]
    wrapped = tf.function(
        lambda *args: function(**dict(zip(names, args, strict=True))), input_signature=fixed
    )
    model, _ = tf2onnx.convert.from_function(
        wrapped, input_signature=fixed, opset=_OPSET, output_path=str(job.onnx)
    )
    outputs = list(function.structured_outputs)
    found = [o.name for o in model.graph.output]
    if len(found) != len(outputs):
        raise Refused(f"it has {len(outputs)} outputs, and {len(found)} were converted")
    return Signature(
        tuple(i.name for i in model.graph.input),
        tuple(found),
        f"tf2onnx {version('tf2onnx')}",
        f"TensorFlow {tf.__version__}",
        notes={"inputs": names},
    )


def answers_of_folder(folder: Path, signature: Signature) -> Answers:
    """The folder's own signature."""
    import tensorflow as tf

    function = _function(folder)
    names = signature.notes["inputs"]
    specs = function.structured_input_signature[1]
    by_place = dict(zip(names, signature.inputs, strict=True))

    def answers(feeds: Mapping[str, Any]) -> list[Any]:
        given = {n: tf.constant(feeds[by_place[n]], dtype=specs[n].dtype) for n in names}
        out = function(**given)
        # by name, as tf2onnx keeps them, else in TensorFlow's own order
        order = signature.outputs if set(signature.outputs) == set(out) else sorted(out)
        return [out[n].numpy() for n in order]

    return answers


def _function(folder: Path) -> Any:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    if _SIGNATURE not in loaded.signatures:
        there = ", ".join(map(str, loaded.signatures)) or "none"
        raise Refused(
            f"it has no signature {_SIGNATURE}, but {there}",
            "save it with one: tf.saved_model.save(model, DIR, signatures={'serving_default': function})",
        )
    function = loaded.signatures[_SIGNATURE]
    # it keeps the variables
    function.edgectl_owner = loaded
    return function


def _shape(job: Job, name: str, spec: Any) -> list[int | None]:
    """As the signature says; what it leaves open, as the user says, then the calibration data (with a batch of 1), then a batch of 1."""
    if name in job.shapes:
        return list(job.shapes[name])
    if spec.shape.rank is None:
        raise Refused(
            f"nothing says the shape of input {name}",
            f"--shape {name}=1,224,224,3 (with the sizes that it takes)",
        )
    dims: list[int | None] = list(spec.shape.as_list())
    if name in job.data and None in dims:
        sample = job.data[name][0]
        known = (1, *sample) if len(sample) + 1 == len(dims) else sample
        dims = (
            [k if d is None else d for d, k in zip(dims, known, strict=False)]
            if len(known) == len(dims)
            else dims
        )
    return [1 if i == 0 and d is None else d for i, d in enumerate(dims)]
