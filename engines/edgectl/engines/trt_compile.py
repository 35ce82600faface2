"""Compile a TensorRT plan: one function, three branches (8.x, 10.x, 11.x). Runs as a child process of the finaliser.

* 8.x: the explicit-batch flag is needed; precision comes from builder flags (FP16 and INT8) beside the Q/DQ nodes;
* 10.x: explicit batch is the only kind; ``STRONGLY_TYPED`` takes every precision from the graph;
* 11.x: strong typing is the only kind; FP16 and INT8 flags are gone.

Names that only some generations have are looked up in ``__members__``, so the module type-checks against all three.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import tensorrt as trt

from edgectl.core.errors import EngineError
from edgectl.core.files import atomic_write
from edgectl.engines.child import answer
from edgectl.engines.cuda import open_cuda
from edgectl.engines.tensorrt import trt_version

__all__ = ["compile_plan"]


def compile_plan(onnx: Path, *, workspace_mb: int, level: int, timing_cache: bytes) -> tuple[bytes, bytes]:
    """Compile an explicit Q/DQ ONNX file. Returns the plan and the grown timing cache (empty where there is none).

    ``level``: builder optimisation level, 0–5. Raises :class:`EngineError` with what the parser or the builder has against it.
    """
    major = int(trt_version().split(".")[0])
    if major not in (8, 10, 11):
        raise EngineError(f"TensorRT {trt_version()} is not supported", hint="TensorRT 8.6, 10.x or 11.x")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    creation = trt.NetworkDefinitionCreationFlag.__members__
    if major == 8:
        network = builder.create_network(1 << int(creation["EXPLICIT_BATCH"]))
        for flag in ("FP16", "INT8"):
            config.set_flag(trt.BuilderFlag.__members__[flag])
    else:
        # 11.x ignores the flag (strong typing is unconditional), 10.x needs it; both have its name.
        network = builder.create_network(1 << int(creation["STRONGLY_TYPED"]))
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.builder_optimization_level = level
    cache = config.create_timing_cache(timing_cache)
    if not config.set_timing_cache(cache, False):  # of another build of TensorRT: start afresh rather than trust it
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)

    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"TensorRT {trt_version()} cannot parse the model: {first}")
    plan: Any = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT {trt_version()} cannot build the model", hint="its log says why; often too little memory")
    grown: Any = config.get_timing_cache()
    return bytes(plan), bytes(grown.serialize()) if grown is not None else b""


def _main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="edgectl.engines.trt_compile")
    parser.add_argument("--identify", action="store_true", help="say what the plan's cache key needs to know, compile nothing")
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--timing-cache", type=Path)
    parser.add_argument("--workspace-mb", type=int, default=1024)
    parser.add_argument("--level", type=int, default=3)
    a = parser.parse_args(arguments)
    if a.identify:
        return {"tensorrt": trt_version(), **open_cuda().identity()}
    os.nice(10)  # a compile takes minutes beside running pipelines
    known = a.timing_cache.read_bytes() if a.timing_cache.is_file() else b""
    plan, grown = compile_plan(a.onnx, workspace_mb=a.workspace_mb, level=a.level, timing_cache=known)
    atomic_write(a.plan, plan)
    if grown:
        atomic_write(a.timing_cache, grown)
    return {"bytes": len(plan)}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
