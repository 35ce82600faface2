"""NVIDIA's TensorRT-RTX as a compiler on a host without a GPU: what it says to a graph.

It is an extra (``edgectl[rtx]``); it runs in a child process, bounded in time and memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from edgectl.core.acceptance import Acceptance
from edgectl.core.errors import EngineError, UsageError
from edgectl.engines.child import run_child

__all__ = ["ACCEPTANCE_SM", "CURRENT", "accept", "has_compiler", "need_compiler"]

ACCEPTANCE_SM = "8.6"
"""What a graph for any device is tried for: the compiler has no Orin (8.7), whose kernels are nearest to it."""
CURRENT = "current"
"""The GPU of this machine, whichever it is."""
_TIMEOUT_S = 300.0
_MEMORY_MB = 8192


def has_compiler() -> bool:
    """Whether it is installed. Imports nothing of it."""
    return importlib.util.find_spec("tensorrt_rtx") is not None


def need_compiler() -> None:
    """Raises :class:`UsageError` where it is not installed."""
    if not has_compiler():
        raise UsageError(
            "NVIDIA's compiler is not installed",
            hint="pip install 'edgectl[rtx]' (x86-64 Linux; no GPU is needed)",
        )


def accept(
    onnx: Path,
    sms: Sequence[str] = (ACCEPTANCE_SM,),
    *,
    engine: Path | None = None,
    timeout_s: float = _TIMEOUT_S,
    memory_mb: int = _MEMORY_MB,
) -> Acceptance:
    """Have the compiler try an ONNX file for some compute capabilities, or :data:`CURRENT`; ``engine``: where to write what
    it made.

    Raises :class:`EngineError` where it hangs, crashes or needs too much memory, and for a compute capability that it does not
    have: then it has said nothing about the graph.
    """
    arguments = ["--onnx", str(onnx), *(x for sm in sms for x in ("--sm", sm))]
    if engine is not None:
        arguments += ["--engine", str(engine)]
    reply = run_child(
        "edgectl.engines.finalise.rtx_compile",
        arguments,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        what="NVIDIA's compiler",
    )
    try:
        return Acceptance.model_validate({k: v for k, v in reply.items() if k != "ok"})
    except ValidationError as e:
        raise EngineError("NVIDIA's compiler gave an answer that makes no sense") from e
