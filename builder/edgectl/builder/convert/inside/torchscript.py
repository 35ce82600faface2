"""TorchScript (``torch.jit.save``). Its code is PyTorch's own language, compiled and run by PyTorch; no Python is in it."""

from __future__ import annotations

from typing import Any

from edgectl.builder.convert.inside.archive import members
from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature
from edgectl.builder.convert.inside.torch_export import (
    PIP,
    answers_of,
    arithmetic_of,
    example_inputs,
    export_module,
    signature_of,
)

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "TorchScript"
NEEDS = {"torch": PIP, "onnx": PIP}
CODE: Code = "none"


def applies(source: str) -> bool:
    names = members(source)
    return any(n.endswith("/constants.pkl") for n in names) and any("/code/" in n for n in names)


def convert(job: Job) -> Signature:
    import torch

    module = _module(job.source)
    arguments = [a for a in module.forward.schema.arguments if a.name != "self"]
    names = [a.name for a in arguments if not a.has_default_value()]
    tensors = [*module.parameters(), *module.buffers()]
    dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
    names, args = example_inputs(job, names, lambda a: module(*a), dtype)
    inputs, outputs = export_module(job, module, args, names, dynamo=False)
    if list(inputs) != names:
        raise Refused(f"input {next(n for n in names if n not in inputs)} is read by nothing in it")
    return signature_of(inputs, outputs, arithmetic_of(tensors))


def opened(job: Job, signature: Signature) -> Answers:
    module = _module(job.source)
    return answers_of(lambda args: module(*args), signature.inputs)


def _module(source: str) -> Any:
    import torch

    return torch.jit.load(source, map_location="cpu").eval()
