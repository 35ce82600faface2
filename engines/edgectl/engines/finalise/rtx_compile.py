"""Compile a graph ahead of time with TensorRT-RTX, which needs no GPU for it. A child process of
:mod:`edgectl.engines.finalise.rtx`: a native compiler may hang, crash and eat memory.

``python -m edgectl.engines.finalise.rtx_compile --onnx FILE --sm 8.6 [--sm 8.9] [--engine OUT]`` prints one JSON line with
``ok`` and the fields of :class:`~edgectl.core.acceptance.Acceptance`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt

from edgectl.core.acceptance import Acceptance
from edgectl.core.errors import EngineError
from edgectl.core.files import atomic_write
from edgectl.engines.child import answer
from edgectl.engines.finalise.rtx import CURRENT

__all__ = ["compile_ahead"]

_MOST_WARNINGS = 32
_MOST_CHARACTERS = 400
_ITS_FILES = re.compile(r"^\[?\w[\w./]*\.(?:cpp|h)(?:::\w+)*?::?\d+\]?:?\s*|\s*In \S+ at /\S+:\d+")
"""Of a message: the vendor's own files and lines."""
_MEMORY = re.compile(r"^Total (Activation|Weights) Memory: (\d+) bytes")


class _Log(trt.ILogger):  # type: ignore[misc]
    """What the compiler says: warnings once each, errors, and the memory that the engine will need."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.warnings: dict[str, None] = {}
        self.errors: list[str] = []
        self.memory: dict[str, int] = {}

    def log(self, severity: Any, message: str) -> None:
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(_tidy(message))
        elif severity == trt.ILogger.WARNING and len(self.warnings) < _MOST_WARNINGS:
            self.warnings[_tidy(message)] = None
        elif severity == trt.ILogger.INFO and (found := _MEMORY.match(message)):
            self.memory[found[1]] = int(found[2])


def compile_ahead(onnx: Path, sms: Sequence[str]) -> tuple[Acceptance, bytes]:
    """What the compiler says to an ONNX file, and the engine; empty if it refuses.

    ``sms``: compute capabilities, ``8.6``. Raises :class:`EngineError` for one that this compiler does not have.
    """
    known = _capabilities()
    for sm in sms:
        if sm not in known:
            there = ", ".join(sorted((k for k in known if k != CURRENT), key=float))
            raise EngineError(
                f"TensorRT-RTX {trt.__version__} does not compile for SM {sm} ahead of time",
                hint=f"it does for {there}",
            )
    log = _Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(onnx))
    engine, sentence, node = b"", "", ""
    if parsed:
        config = builder.create_builder_config()
        config.num_compute_capabilities = len(sms)
        for i, sm in enumerate(sms):
            config.set_compute_capability(known[sm], i)
        built: Any = builder.build_serialized_network(network, config)
        engine = b"" if built is None else bytes(built)
        if not engine:
            sentence = log.errors[0] if log.errors else "the builder gives no reason"
            node = _named_in(sentence, network)
    elif parser.num_errors:
        first = parser.get_error(0)
        sentence = _tidy(first.desc())
        node = first.node_name() or ""
        if (operator := first.node_operator()) and operator not in sentence:
            sentence = f"{operator}: {sentence}"
    else:
        sentence = log.errors[0] if log.errors else "the parser gives no reason"
    verdict = Acceptance(
        compiler=f"TensorRT-RTX {trt.__version__}",
        sm=tuple(sms),
        accepted=bool(engine),
        sentence=sentence,
        node=node[:500],
        warnings=tuple(log.warnings),
        layers=network.num_layers,
        engine_bytes=len(engine),
        activation_bytes=log.memory.get("Activation", 0),
        weight_bytes=log.memory.get("Weights", 0),
    )
    return verdict, engine


def _named_in(sentence: str, network: Any) -> str:
    """The layer that a sentence names; layers have the names of their nodes."""
    names = {str(network.get_layer(i).name) for i in range(network.num_layers)}
    found = [name for name in names if re.search(rf"(?<![\w/.]){re.escape(name)}(?![\w/.])", sentence)]
    return max(found, key=len, default="")


def _tidy(message: str) -> str:
    return _ITS_FILES.sub("", " ".join(message.split()))[:_MOST_CHARACTERS]


def _capabilities() -> dict[str, Any]:
    """What it compiles for, as ``8.6``; and :data:`~edgectl.engines.finalise.rtx.CURRENT`."""
    found = {CURRENT: trt.ComputeCapability.CURRENT}
    for name, value in trt.ComputeCapability.__members__.items():
        if digits := name.removeprefix("SM") if name.startswith("SM") else "":
            found[f"{digits[:-1]}.{digits[-1]}"] = value
    return found


def _main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.rtx_compile")
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--sm", action="append", required=True)
    parser.add_argument("--engine", type=Path, help="where to write the engine")
    a = parser.parse_args(arguments)
    os.nice(10)
    verdict, engine = compile_ahead(a.onnx, a.sm)
    if a.engine is not None and engine:
        atomic_write(a.engine, engine)
    return verdict.model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
