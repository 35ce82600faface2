"""What competes on the CPU of this machine: every graph, in every runtime, with every float that the CPU has, as far as the
user lets them. Decides nothing else."""

from __future__ import annotations

from edgectl.builder.ingest.source_precision import AS_RECEIVED
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.search.candidates import LOWER_FLOATS, Candidate, CandidateGraph
from edgectl.builder.variants.restriction import AskedPrecision, Restriction, precision_of
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import Runtime, SessionSettings, requirement_met
from edgectl.device_profiles.machine import Machine, host_family, lower_float_requirement
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.runtimes.openvino import native_floats

__all__ = ["competitors", "cpu_runtimes", "given_graph", "native_hints"]

_CPU_RUNTIMES = ("onnxruntime", "openvino")


def competitors(model: QuantizedModel, trial: Trial, p: DeviceProfile) -> list[Candidate]:
    """Every graph in every runtime, with every float that the CPU has, as far as the user lets them compete.
    The model itself in ONNX Runtime is always there: others are compared with it, and it is the fallback."""
    restriction, machine = trial.restriction, trial.machine
    family = host_family(machine)
    given = given_graph(model)
    graphs: list[tuple[CandidateGraph, AskedPrecision]] = []
    if model.source.float16 is not None:
        graphs.append((CandidateGraph(f"{AS_RECEIVED}-float16", model.source.float16, "float16"), "float16"))
    graphs += [
        (
            CandidateGraph(n, q.model.SerializeToString(deterministic=True), "int8", q.carried_over),
            precision_of(q),
        )
        for n, q in model.recipes(family).items()
    ]
    bases = [Candidate(given, "onnxruntime", SessionSettings())]
    for runtime in cpu_runtimes(p, machine, restriction):
        hints: list[str | None] = ["f32", *native_hints(machine)] if runtime == "openvino" else [None]
        for hint in hints:
            settings = SessionSettings(precision_hint=hint)
            lower = LOWER_FLOATS.get(hint or "")
            for graph, precision in [(given, given.precision), *graphs]:
                if precision == "float16" and lower is not None:
                    continue
                # of a float model the float is all there is, of others what is beside
                asked = (lower or precision,) if precision in ("float32", "float16") else (precision, lower)
                if restriction.allows(*(a for a in asked if a is not None)):
                    bases.append(Candidate(graph, runtime, settings))
    return list(dict.fromkeys(bases))


def cpu_runtimes(p: DeviceProfile, machine: Machine, restriction: Restriction) -> list[Runtime]:
    """The runtimes of a profile that this CPU is tried in."""
    return [r for r in p.runtimes if r in _CPU_RUNTIMES and r in machine.runtimes and restriction.runs_in(r)]


def native_hints(machine: Machine) -> list[str]:
    """What OpenVINO may be told to compute float layers in beside float32: what it says that it does itself
    here, and what a device can be asked for."""
    return [
        hint
        for hint in native_floats()
        if (needs := lower_float_requirement(machine.arch, LOWER_FLOATS[hint])) is not None
        and requirement_met(needs, machine.facts)
    ]


def given_graph(model: QuantizedModel) -> CandidateGraph:
    """The model itself, which others are compared with."""
    source = model.source
    if source.precision == "float32":
        return CandidateGraph("float", source.onnx_bytes, "float32")
    return CandidateGraph(AS_RECEIVED, source.onnx_bytes, source.precision, as_received=True)
