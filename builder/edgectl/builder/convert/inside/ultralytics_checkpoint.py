"""Checkpoints of Ultralytics (``.pt``), by Ultralytics' own exporter. Such a file is a pickle of whole Python objects: only with the
user's word."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgectl.builder.convert.inside.archive import holds
from edgectl.builder.convert.inside.shape import Answers, Code, Job, Signature
from edgectl.builder.convert.inside.torch_export import PIP, arithmetic_of, flat

__all__ = ["CODE", "NAME", "NEEDS", "applies", "convert", "opened"]

NAME = "a checkpoint of Ultralytics, a pickle"
NEEDS = {
    "torch": PIP,
    "onnx": PIP,
    "ultralytics": "pip install ultralytics onnxslim (its licence is the AGPL-3.0)",
}
CODE: Code = "inside"


def applies(source: str) -> bool:
    return holds(source, end="/data.pkl", text=b"ultralytics")


def convert(job: Job) -> Signature:
    import onnx
    import torch

    # it exports beside the checkpoint
    checkpoint = job.folder / "checkpoint.pt"
    shutil.copyfile(job.source, checkpoint)
    sizes: dict[str, Any] = {"imgsz": list(next(iter(job.shapes.values()))[-2:])} if job.shapes else {}
    written = Path(
        _yolo(str(checkpoint)).export(format="onnx", simplify=False, opset=17, device="cpu", **sizes)
    )
    written.replace(job.onnx)
    graph = onnx.load(str(job.onnx), load_external_data=False).graph
    return Signature(
        tuple(i.name for i in graph.input),
        tuple(o.name for o in graph.output),
        f"ultralytics {version('ultralytics')}",
        f"PyTorch {torch.__version__}",
        arithmetic_of([]),
    )


def opened(job: Job, signature: Signature) -> Answers:
    import torch

    module = _yolo(str(job.folder / "checkpoint.pt")).model.float().eval()

    def answers(feeds: Mapping[str, Any]) -> list[Any]:
        with torch.no_grad():
            out = flat(module(torch.from_numpy(feeds[signature.inputs[0]].copy())))
        return [t.numpy() for t in out[: len(signature.outputs)]]

    return answers


def _yolo(checkpoint: str) -> Any:
    """By name: nothing of edgectl depends on a library under the AGPL."""
    return importlib.import_module("ultralytics").YOLO(checkpoint)
