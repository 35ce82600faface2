"""Whether what a user asks for can be built at all, told before the long work. Whether it holds the accuracy budget, or is
faster than float, only the build itself finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from edgectl.builder.ingest.model import IngestedModel
from edgectl.builder.int8.matmul import matmuls_dominate
from edgectl.builder.int8.quantizable import obstacle_to_int8
from edgectl.builder.search.candidates import LOWER_FLOATS
from edgectl.builder.search.reasons import why_not_quantizable
from edgectl.builder.variants.choose import families_of
from edgectl.builder.variants.competitors import cpu_runtimes, native_hints
from edgectl.builder.variants.measured import has_cuda, measurable
from edgectl.builder.variants.restriction import AskedPrecision, Restriction
from edgectl.builder.variants.tensorrt import unfit_for_tensorrt
from edgectl.core.bundle import Runtime
from edgectl.core.errors import UsageError
from edgectl.device_profiles.machine import Machine
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.finalise.rtx import has_compiler

__all__ = ["check_buildable"]


def check_buildable(
    restriction: Restriction, profiles: Sequence[DeviceProfile], machine: Machine, model: IngestedModel
) -> list[str]:
    """Sentences for what was asked for and cannot be built. Raises :class:`UsageError` if that is all of it:
    why, and what can."""
    asked = {
        "runtime": (
            restriction.runtimes,
            {r: _no_runtime(r, profiles, machine, model) for r in get_args(Runtime)},
        ),
        "precision": (
            restriction.precisions,
            {p: _no_precision(p, restriction, profiles, machine, model) for p in get_args(AskedPrecision)},
        ),
    }
    told = []
    for option, (wanted, why_not) in asked.items():
        missing = [f"{name}: {why}" for name, why in why_not.items() if why and wanted and name in wanted]
        if wanted and len(missing) == len(wanted):
            can = ", ".join(name for name, why in why_not.items() if not why)
            raise UsageError(
                f"nothing of --{option} {', '.join(n for n in why_not if n in wanted)} can be built here ({'; '.join(missing)})",
                hint=f"what can: {can}",
            )
        told += [f"--{option} {m}" for m in missing]
    return told


def _no_runtime(
    runtime: Runtime, profiles: Sequence[DeviceProfile], machine: Machine, model: IngestedModel
) -> str:
    """Why nothing can be built for a runtime; empty if something can."""
    having = [p for p in profiles if runtime in p.runtimes]
    if not having:
        return "no profile of this build has it"
    if runtime == "openvino":
        if "openvino" not in machine.runtimes:
            return (
                "it is not installed here, so that nothing can be measured (pip install 'edgectl[openvino]')"
            )
        if not any(measurable(p, machine) for p in having):
            return "its engines are measured, and this machine is not what the profile names"
    if runtime in ("tensorrt", "tensorrt-rtx") and (why := unfit_for_tensorrt(model.graph)):
        return f"it does not take {why}"
    if runtime == "tensorrt-rtx" and not has_compiler():
        return "NVIDIA's compiler is not installed (pip install 'edgectl[rtx]')"
    return ""


def _no_precision(
    precision: AskedPrecision,
    restriction: Restriction,
    profiles: Sequence[DeviceProfile],
    machine: Machine,
    model: IngestedModel,
) -> str:
    """Why nothing can be built in a precision, in the runtimes that are allowed; empty if something can."""
    obstacle = obstacle_to_int8(model.graph)
    if precision == "float32" or (precision == "int8" and model.precision == "int8"):
        return "" if precision == "int8" or model.precision == "float32" else "the model came quantized"
    if precision in ("int8", "int4"):
        if obstacle is not None:
            return why_not_quantizable(obstacle).sentence
        if precision == "int4" and not matmuls_dominate(model.graph):
            return "less than half of the weights belong to matrix products, and nothing else has kernels of 4 bits"
        only = Restriction(frozenset({precision}), restriction.runtimes)
        found = families_of(profiles, machine, model.graph, only)
        return "" if found else "no CPU or GPU of these profiles has kernels for it in these runtimes"
    own = [p for p in profiles if measurable(p, machine)]
    tried = any("openvino" in cpu_runtimes(p, machine, restriction) for p in own)
    if tried and any(LOWER_FLOATS[hint] == precision for hint in native_hints(machine)):
        return ""
    if precision == "float16" and _graphs_in_float16(restriction, profiles, machine, model):
        return ""
    if not tried:
        return "OpenVINO is the runtime that computes in it on a CPU, and is not tried in this build"
    return f"OpenVINO says that this CPU does not compute in it ({machine.cpu}); told to, it would widen or emulate it"


def _graphs_in_float16(
    restriction: Restriction, profiles: Sequence[DeviceProfile], machine: Machine, model: IngestedModel
) -> bool:
    """Whether a graph with float16 in it has a runtime: as it came, or written for a GPU."""
    if model.float16 is not None and any(measurable(p, machine) for p in profiles):
        return True
    if obstacle_to_int8(model.graph) is not None:
        # its values were never seen, so that nobody knows what fits
        return False
    gpu = [p for p in profiles if "tensorrt" in p.runtimes and not unfit_for_tensorrt(model.graph)]
    cuda = any(has_cuda(p, machine) for p in profiles) and restriction.runs_in("onnxruntime")
    return cuda or any(restriction.runs_in(r) for p in gpu for r in p.runtimes if r.startswith("tensorrt"))
