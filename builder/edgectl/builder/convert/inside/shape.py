"""What a file of a framework has, and what goes in and out of it.

Each is a module with

* ``NAME`` of the format, for people;
* ``NEEDS``: the modules that it imports, each with the ``pip install`` that brings it;
* ``CODE``: what of Python runs when the source is read: ``none``; ``inside``, what lies in the file, so that the user has to say
  that it is trusted; or ``users``, the user's own;
* ``applies(source)``: whether a path is of this format, told from names and a few bytes, never by loading it;
* ``convert(job)``: write ``job.onnx``, and say what its inputs and outputs are;
* ``opened(job, signature)``: the framework's own model, as a function from one set of inputs (ONNX name → array) to the
  outputs in the order of the signature.

The parent imports it for the first four: at its top, such a file imports the standard library and NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["Answers", "Arithmetic", "Code", "Job", "Refused", "Signature"]

Answers = Callable[[Mapping[str, Any]], list[Any]]
Arithmetic = Literal["float32", "float16", "int8"]
Code = Literal["none", "inside", "users"]


class Refused(Exception):
    """A sentence for the user, and what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class Job:
    """``source``: a path, or ``module:function``. ``folder``: the only place for files."""

    framework: str
    source: str
    folder: Path
    cwd: str = ""
    """Where the user stands."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """What the user says of inputs."""
    data: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Of the arrays of the calibration data: shape of one sample, dtype."""

    @property
    def onnx(self) -> Path:
        """Where the converted model goes; its weights may lie beside it."""
        return self.folder / "model.onnx"


@dataclass(frozen=True)
class Signature:
    """``inputs``, ``outputs``: names in the ONNX file, in the framework's order. ``notes``: whatever a framework's file
    wants to know again when it opens the model."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    converter: str
    """Name and version."""
    framework: str
    """Name and version of what the outputs are compared with."""
    arithmetic: Arithmetic = "float32"
    """What the framework computes in: it says how far outputs may be apart."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Signature:
        return cls(**{**value, "inputs": tuple(value["inputs"]), "outputs": tuple(value["outputs"])})
