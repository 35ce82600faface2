"""Which framework a source is of, and what to do with those that are of none."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

from edgectl.core.errors import ModelError, UsageError

__all__ = ["FRAMEWORKS", "framework_of", "is_function"]

FRAMEWORKS = (
    "tflite",
    "exported_program",
    "torchscript",
    "ultralytics_checkpoint",
    "keras_file",
    "saved_model",
    "sklearn_pickle",
    "module_function",
)
"""Files of :mod:`edgectl.builder.convert.inside`; the first that applies is taken."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")

_MODULE_FUNCTION = "write a Python function that makes the module and loads them, and give module:function"
_INSTEAD = {
    ".engine": (
        "a TensorRT engine, compiled for one GPU",
        "give the ONNX file that it was made of; devices compile it themselves",
    ),
    ".plan": (
        "a TensorRT engine, compiled for one GPU",
        "give the ONNX file that it was made of; devices compile it themselves",
    ),
    ".trt": (
        "a TensorRT engine, compiled for one GPU",
        "give the ONNX file that it was made of; devices compile it themselves",
    ),
    ".xml": (
        "an OpenVINO IR",
        "give the model that `ovc` made it of; where OpenVINO is in the profile, a bundle runs in it without an IR",
    ),
    ".pth": (
        "a pickle of PyTorch: weights without their graph",
        f"{_MODULE_FUNCTION} (with torch.load(PATH, weights_only=True))",
    ),
    ".pt": (
        "a pickle of PyTorch: weights without their graph",
        f"{_MODULE_FUNCTION} (with torch.load(PATH, weights_only=True))",
    ),
    ".ckpt": (
        "a checkpoint: weights without their graph",
        f"{_MODULE_FUNCTION} (with torch.load(PATH, weights_only=True))",
    ),
    ".bin": (
        "weights without their graph",
        f"{_MODULE_FUNCTION} (with torch.load(PATH, weights_only=True))",
    ),
    ".safetensors": (
        "weights without their graph",
        f"{_MODULE_FUNCTION} (with safetensors.torch.load_file)",
    ),
    ".h5": (
        "a Keras file of the old form, which may hold code",
        "save it again in Python: keras.models.load_model('FILE.h5').save('FILE.keras')",
    ),
    ".hdf5": (
        "a Keras file of the old form, which may hold code",
        "save it again in Python: keras.models.load_model('FILE.h5').save('FILE.keras')",
    ),
    ".pb": (
        "a graph of TensorFlow without its folder",
        "give the SavedModel folder; a frozen graph: python -m tf2onnx.convert --graphdef FILE --inputs A:0 --outputs B:0 --output model.onnx",
    ),
    ".mlmodel": ("a Core ML model", "export the model that it was made of to ONNX"),
    ".mlpackage": ("a Core ML model", "export the model that it was made of to ONNX"),
    ".caffemodel": ("a Caffe model", "export it to ONNX with OpenCV's or MMdnn's tools, or train it anew"),
    ".param": ("an ncnn model", "export the model that it was made of to ONNX"),
    ".mnn": ("an MNN model", "export the model that it was made of to ONNX"),
    ".gguf": ("weights of a language model for llama.cpp", "edgectl does not build language models"),
}
"""Suffix → what it is, what to do."""


def is_function(source: str) -> bool:
    """Whether it is written as ``package.module:function``."""
    return bool(_FUNCTION.match(source)) and not Path(source).exists()


def framework_of(source: str) -> tuple[str, ModuleType] | None:
    """The file that converts ``source``; None for what is to be read as ONNX.

    Raises :class:`ModelError` for what no file converts, with what to do instead, and for a folder that is no model. Loads nothing
    of the source but a few bytes and names.
    """
    try:
        return _framework_of(source)
    except OSError:
        # for the reader of ONNX files to say
        return None


def _framework_of(source: str) -> tuple[str, ModuleType] | None:
    path = Path(source)
    if path.suffix.lower() == ".onnx":
        return None
    if not is_function(source) and not path.exists():
        if ":" in source and "/" not in source:
            raise UsageError(
                f"{source[:80]!r} is neither a file nor package.module:function",
                hint="write it as it would be imported: package.module:function",
            )
        # for the reader of ONNX files to say
        return None
    for name in FRAMEWORKS:
        module = importlib.import_module(f"edgectl.builder.convert.inside.{name}")
        if module.applies(source):
            return name, module
    if found := _INSTEAD.get(path.suffix.lower()):
        raise ModelError(f"{path.name} is {found[0]}", hint=found[1])
    if path.is_dir():
        raise ModelError(
            f"{path} is a folder and no SavedModel: it has no saved_model.pb",
            hint="give the file of the model, or the folder that has saved_model.pb in it",
        )
    return None
