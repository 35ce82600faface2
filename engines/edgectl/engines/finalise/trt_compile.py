"""Compile a TensorRT plan: one function, three branches (8.x, 10.x, 11.x). Runs as a child process of the
finaliser.

* 8.x: the explicit-batch flag is needed; precision comes from builder flags (FP16 and INT8) beside the Q/DQ
  nodes;
* 10.x: explicit batch is the only kind; ``STRONGLY_TYPED`` takes every precision from the graph;
* 11.x: strong typing is the only kind; FP16 and INT8 flags are gone.

Names that only some generations have are looked up in ``__members__``, so the module type-checks against all
three.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorrt as trt

from edgectl.core.bundle import MAX_JSON_BYTES, read_bounded
from edgectl.core.errors import BundleError, EngineError
from edgectl.core.files import atomic_write
from edgectl.engines.child import answer
from edgectl.engines.runtimes.cuda import open_cuda
from edgectl.engines.runtimes.tensorrt import trt_version

__all__ = ["CompileOrder", "compile_plan", "read_ranges"]


@dataclass(frozen=True)
class CompileOrder:
    """What a plan is compiled from. Sizes in MiB."""

    onnx: Path
    workspace_mb: int = 1024
    level: int = 3
    """Builder optimisation level, 0–5."""
    sparse: bool = False
    """The weights are pruned 2:4, so sparse kernels may be tried."""
    dla_core: int | None = None
    """Compile for this DLA core; what it cannot run goes to the GPU."""
    ranges: Mapping[str, float] = field(default_factory=dict)
    """Implicit quantization: tensor → largest magnitude. Empty for an explicit Q/DQ graph."""


def compile_plan(order: CompileOrder, timing_cache: bytes) -> tuple[bytes, bytes]:
    """Compile an ONNX file. Returns the plan and the grown timing cache (empty where there is none).

    Raises :class:`EngineError` with what the parser or the builder has against it, and for DLA on a TensorRT
    or a device without it.
    """
    major = int(trt_version().split(".")[0])
    if major not in (8, 10, 11):
        raise EngineError(f"TensorRT {trt_version()} is not supported", hint="TensorRT 8.6, 10.x or 11.x")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    config = builder.create_builder_config()
    network = _network(builder, config, major, implicit=bool(order.ranges))
    if order.sparse:
        config.set_flag(trt.BuilderFlag.__members__["SPARSE_WEIGHTS"])
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_mb << 20)
    config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, order.workspace_mb << 21)
    config.builder_optimization_level = order.level
    # so that the inspector can say what became of each layer
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    cache = config.create_timing_cache(timing_cache)
    # of another build of TensorRT: start afresh rather than trust it
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)

    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(order.onnx)):
        first = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise EngineError(f"TensorRT {trt_version()} cannot parse the model: {first}")
    if order.dla_core is not None:
        _use_dla(builder, config, order.dla_core, implicit=bool(order.ranges))
    if order.ranges:
        _set_ranges(network, order.ranges)
    plan: Any = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt_version()} cannot build the model",
            hint="its log says why; often too little memory",
        )
    grown: Any = config.get_timing_cache()
    return bytes(plan), bytes(grown.serialize()) if grown is not None else b""


def _network(
    builder: trt.Builder, config: trt.IBuilderConfig, major: int, *, implicit: bool
) -> trt.INetworkDefinition:
    """8.x, and implicit quantization wherever it exists: the builder chooses among the precisions that
    flags allow. Else strong typing."""
    creation = trt.NetworkDefinitionCreationFlag.__members__
    if implicit and major >= 11:
        raise EngineError(
            f"TensorRT {trt_version()} has no implicit quantization",
            hint="take the variant with explicit Q/DQ",
        )
    if major == 8 or implicit:
        for flag in ("FP16", "INT8"):
            config.set_flag(trt.BuilderFlag.__members__[flag])
        return builder.create_network(1 << int(creation["EXPLICIT_BATCH"]))
    # 11.x ignores the flag (strong typing is unconditional), 10.x needs it; both have its name.
    return builder.create_network(1 << int(creation["STRONGLY_TYPED"]))


def _use_dla(builder: trt.Builder, config: trt.IBuilderConfig, core: int, *, implicit: bool) -> None:
    """DLA takes implicit int8 up to 10.7 and explicit int8 from 11.4.1; between them no TensorRT has DLA
    (support matrix 11.4.1)."""
    numbers = [int(n) for n in re.findall(r"\d+", trt_version())][:3]
    if not (numbers < [10, 8] if implicit else numbers >= [11, 4, 1]):
        form = "implicit" if implicit else "explicit"
        raise EngineError(
            f"TensorRT {trt_version()} does not compile {form} int8 for DLA",
            hint="implicit int8: 8.6 to 10.7; explicit int8: 11.4.1 on AGX Orin. Take the variant for the GPU",
        )
    if builder.num_DLA_cores <= core:
        raise EngineError(
            f"this device has {builder.num_DLA_cores} DLA cores, and core {core} is asked for",
            hint="take the variant for the GPU",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.__members__["GPU_FALLBACK"])


def _set_ranges(network: trt.INetworkDefinition, ranges: Mapping[str, float]) -> None:
    """Every tensor that was calibrated gets its symmetric range: one without makes its whole DLA region
    fall back."""
    tensors: list[Any] = [network.get_input(i) for i in range(network.num_inputs)]
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        tensors += [layer.get_output(o) for o in range(layer.num_outputs)]
    for tensor in tensors:
        if tensor is not None and tensor.name in ranges:
            tensor.set_dynamic_range(-ranges[tensor.name], ranges[tensor.name])


def read_ranges(path: Path) -> dict[str, float]:
    """The ranges layer of a variant: a JSON object of tensor → largest magnitude, finite and positive.
    Raises :class:`BundleError`."""
    try:
        said = json.loads(read_bounded(path, MAX_JSON_BYTES))
        ranges = {str(name): float(value) for name, value in said.items()}
    except (ValueError, TypeError, AttributeError) as e:
        raise BundleError(
            "the ranges of this variant are not a JSON object of numbers", hint="build the bundle again"
        ) from e
    if not ranges or not all(0 < value < math.inf for value in ranges.values()):
        raise BundleError(
            "the ranges of this variant are not positive numbers", hint="build the bundle again"
        )
    return ranges


def _main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="edgectl.engines.finalise.trt_compile")
    parser.add_argument(
        "--identify", action="store_true", help="say what the plan's cache key needs to know, compile nothing"
    )
    parser.add_argument("--onnx", type=Path)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--timing-cache", type=Path)
    parser.add_argument("--workspace-mb", type=int, default=1024)
    parser.add_argument("--level", type=int, default=3)
    parser.add_argument("--sparse", action="store_true", help="the weights are pruned 2:4")
    parser.add_argument(
        "--dla-core", type=int, help="compile for this DLA core, with the GPU for what it cannot run"
    )
    parser.add_argument(
        "--ranges", type=Path, help="implicit quantization: JSON of tensor → largest magnitude"
    )
    a = parser.parse_args(arguments)
    if a.identify:
        return {"tensorrt": trt_version(), **open_cuda().identity()}
    # a compile takes minutes beside running pipelines
    os.nice(10)
    known = a.timing_cache.read_bytes() if a.timing_cache.is_file() else b""
    ranges = read_ranges(a.ranges) if a.ranges else {}
    order = CompileOrder(a.onnx, a.workspace_mb, a.level, a.sparse, a.dla_core, ranges)
    plan, grown = compile_plan(order, known)
    atomic_write(a.plan, plan)
    if grown:
        atomic_write(a.timing_cache, grown)
    return {"bytes": len(plan)}


if __name__ == "__main__":
    sys.exit(answer(lambda: _main(sys.argv[1:])))
