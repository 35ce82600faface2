"""A child that converts, as a process of its own: an interpreter that does what a test says instead of what it is told.

``--convert-python`` takes any program, so the parent's side is driven through the very call that a user makes. What a conversion
would leave lies in a folder beside the program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto
from support.builder.nets import residual_net

from edgectl.core.bundle import SessionSettings
from edgectl.engines.runtimes.onnxruntime import OnnxRuntimeEngine

TFLITE = b"\x1c\0\0\0TFL3" + bytes(64)
"""What is known as TFLite, and is none."""
SIGNATURE = {
    "inputs": ["image"],
    "outputs": ["out"],
    "converter": "double 1",
    "framework": "a framework 2",
    "arithmetic": "float32",
    "notes": {},
}

_HEAD = """#!{python}
import json, os, shutil, subprocess, sys, time
from pathlib import Path
folder, step = Path(sys.argv[3]), sys.argv[4]
beside = Path({beside!r})
def say(answer):
    (folder / "answer.json").write_text(json.dumps(answer))
"""
_WHOLE = """
if step == "convert":
    shutil.copyfile(beside / "model.onnx", folder / "model.onnx")
    say({{"ok": True, "signature": {signature!r}, "confined": {confined!r}}})
else:
    import numpy as np
    samples = np.load(folder / "samples.npz")
    import onnxruntime
    session = onnxruntime.InferenceSession(str(beside / "theirs.onnx"))
    outputs = {{}}
    for key in samples.files:
        number, _, name = key.partition("/")
        outputs[number + "/0"] = session.run(None, {{name: samples[key]}})[0]
    np.savez(folder / "outputs.npz", **outputs)
    say({{"ok": True}})
"""


def program(tmp_path: Path, does: str) -> Path:
    """An interpreter that does this instead: Python, in which ``folder``, ``step``, ``beside`` and ``say`` are known."""
    path = tmp_path / "python"
    path.write_text(_HEAD.format(python=sys.executable, beside=str(tmp_path)) + does)
    path.chmod(0o755)
    return path


def converting(
    tmp_path: Path,
    *,
    theirs: ModelProto | None = None,
    confined: Sequence[str] = ("network", "files"),
    **signature: object,
) -> Path:
    """One that hands back a small net, and answers what ``theirs`` computes (default: the same)."""
    (tmp_path / "model.onnx").write_bytes(residual_net().SerializeToString())
    (tmp_path / "theirs.onnx").write_bytes((theirs or residual_net()).SerializeToString())
    return program(tmp_path, _WHOLE.format(signature={**SIGNATURE, **signature}, confined=list(confined)))


def answers(model: ModelProto, image: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes."""
    engine = OnnxRuntimeEngine(model.SerializeToString(), SessionSettings())
    return np.asarray(engine.run({"image": image})["out"])
