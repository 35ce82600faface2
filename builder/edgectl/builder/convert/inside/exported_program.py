"""PyTorch's exported programs (``torch.export.save``, ``.pt2``). Weights are read by PyTorch's unpickler for tensors; a program
with objects of the user's own, or with compiled code, is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.archive import members
from edgectl.builder.convert.inside.shape import Answers, Code, Job, Refused, Signature
from edgectl.builder.convert.inside.torch_export import (
    PIP,
    answers_of,
    arithmetic_of,
    export_module,
    signature_of,
)

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "an exported program of PyTorch"
NEEDS = {"torch": PIP, "onnx": PIP, "onnxscript": PIP}
CODE: Code = "none"


def applies(source: str) -> bool:
    names = members(source)
    # the second: as PyTorch wrote them up to 2.7
    return any(n.endswith("archive_format") for n in names) or "serialized_exported_program.json" in names


def convert(job: Job) -> Signature:
    program = _program(job.source)
    inputs, outputs = export_module(job, program, (), None, dynamo=True)
    tensors = [*program.state_dict.values(), *(c for c in program.constants.values() if hasattr(c, "numel"))]
    return signature_of(inputs, outputs, arithmetic_of(tensors))


def opened(job: Job, signature: Signature) -> Answers:
    module = _program(job.source).module()
    return answers_of(lambda args: module(*args), signature.inputs)


def _program(source: str) -> Any:
    names = members(source)
    if any("/aotinductor/" in n or Path(n).suffix in (".so", ".cubin") for n in names):
        raise Refused(
            "it holds compiled code for one machine (AOTInductor)",
            "save the exported program itself: torch.export.save(torch.export.export(module, inputs), 'model.pt2')",
        )
    # else PyTorch opens as a pickle what its unpickler for tensors refuses
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    import torch

    return torch.export.load(source)
