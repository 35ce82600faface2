"""``package.module:function``: the user's own code makes the model, a PyTorch module or an estimator of scikit-learn. It is imported
from the folder in which edgectl was called, and runs in the child alone."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from edgectl.builder.convert.inside import sklearn_export
from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature
from edgectl.builder.convert.inside.torch_export import (
    answers_of,
    arithmetic_of,
    example_inputs,
    export_module,
    parameters_of,
    signature_of,
)

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "a function that makes a model"
NEEDS = {"onnx": "pip install 'edgectl[convert]'"}
CODE: Code = "users"

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


def applies(source: str) -> bool:
    return bool(_FUNCTION.match(source)) and not os.path.exists(source)


def convert(job: Job) -> Signature:
    made = _made(job)
    if sklearn_export.is_estimator(made):
        return sklearn_export.convert_estimator(job, made, notes=_origin(job))
    module = _torch_module(made)
    import torch

    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    with torch.no_grad():
        names, args = example_inputs(job, parameters_of(module), lambda a: module(*a), dtype)
    inputs, outputs = export_module(job, module, args, names, dynamo=True)
    if list(inputs) != names:
        raise Refused(
            f"input {next((n for n in names if n not in inputs), names[0])} is read by nothing in it"
        )
    return signature_of(inputs, outputs, arithmetic_of(tensors), notes=_origin(job))


def opened(job: Job, signature: Signature) -> Answers:
    made = _made(job)
    if sklearn_export.is_estimator(made):
        return sklearn_export.answers_of_estimator(made, signature)
    module = _torch_module(made)
    return answers_of(lambda args: module(*args), signature.inputs)


def _made(job: Job) -> Any:
    module, _, function = job.source.partition(":")
    os.chdir(job.cwd)
    sys.path.insert(0, job.cwd)
    _seeded()
    make = getattr(importlib.import_module(module), function, None)
    if not callable(make):
        raise Refused(f"{module} has no function {function}")
    return make()


def _origin(job: Job) -> dict[str, Any]:
    """Where the function is from: the parent takes the digest of that file."""
    return {"file": getattr(sys.modules[job.source.partition(":")[0]], "__file__", None)}


def _seeded() -> None:
    """Weights that the function draws are the same when it is called a second time, and in the next build."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(0)


def _torch_module(made: Any) -> Any:
    try:
        import torch
    except ImportError as e:
        raise Refused(
            f"the function made a {type(made).__name__}, and PyTorch is not installed",
            "pip install 'edgectl[convert]'",
        ) from e
    if not isinstance(made, torch.nn.Module):
        raise Refused(
            f"the function made a {type(made).__name__}",
            "it must return a torch.nn.Module or a fitted estimator of scikit-learn",
        )
    return made.eval()
