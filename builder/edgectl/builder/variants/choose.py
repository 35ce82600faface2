"""Which variants each profile gets.

A profile whose CPU is this machine's is measured; any other one is checked numerically only. Every profile
ends with a variant that its CPU can run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.search.candidates import Choice
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.variants.competitors import cpu_runtimes
from edgectl.builder.variants.draft import VariantDraft, recipe_of
from edgectl.builder.variants.measured import (
    comparison,
    cuda_drafts,
    fallback_draft,
    has_cuda,
    measurable,
    measure_cuda,
    measure_host,
    measured_drafts,
)
from edgectl.builder.variants.numeric_check import best_checked
from edgectl.builder.variants.on_devices import measure_on_devices
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction
from edgectl.builder.variants.tensorrt import tensorrt_drafts, tensorrt_families
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.device_profiles.machine import Machine, host_family
from edgectl.device_profiles.schema import DeviceProfile

__all__ = ["ChosenVariants", "choose_variants", "families_of"]

_DOT_PRODUCTS = ("isa:dotprod", "isa:avx512_vnni", "isa:avx2")


@dataclass(frozen=True)
class ChosenVariants:
    """``drafts``: of every profile, best first and the fallback last."""

    drafts: tuple[VariantDraft, ...]
    choices: Mapping[str, Choice]
    """What was compared (:func:`~edgectl.builder.variants.measured.comparison`) → what came of it."""


def families_of(
    profiles: Sequence[DeviceProfile],
    machine: Machine,
    graph: ModelProto,
    restriction: Restriction = UNRESTRICTED,
    devices: Sequence[MeasuringDevice] = (),
) -> tuple[str, ...]:
    """The kernel families that the profiles need graphs of, each once; with those of the ``devices`` that measure."""
    found: list[str] = []
    for p in profiles:
        found += tensorrt_families(p, graph, restriction)
        if p.gpu is None and restriction.quantizes:
            there = [host_family(d.machine) for d in devices if d.profile == p.name]
            found += [family for family in there if family is not None]
        if measurable(p, machine):
            here = host_family(machine) if cpu_runtimes(p, machine, restriction) else None
            found += [here] if here is not None and restriction.quantizes else []
        elif _has_int8_kernels(p, restriction):
            found.append(p.cpu.family)
    return tuple(dict.fromkeys(found))


def choose_variants(
    model: QuantizedModel,
    trial: Trial,
    profiles: Sequence[DeviceProfile],
    devices: Sequence[MeasuringDevice] = (),
) -> ChosenVariants:
    """Measure what this machine can run, once for all profiles that agree on it, and check the rest
    numerically. Profiles that some of the ``devices`` are of are measured there."""
    restriction = trial.restriction
    measured = {comparison(p, trial.machine, restriction) for p in profiles if measurable(p, trial.machine)}
    choices: dict[str, Choice] = {}
    drafts: list[VariantDraft] = []
    for i, p in enumerate(profiles):
        place = (i / len(profiles), len(profiles))
        own = [d for d in devices if d.profile == p.name]
        if "tensorrt" in p.runtimes:
            drafts += tensorrt_drafts(model, trial, p, with_float=bool(own))
        if has_cuda(p, trial.machine) and restriction.runs_in("onnxruntime"):
            try:
                choices[f"{p.name}, CUDA"] = choice = measure_cuda(model, trial, p, place)
                drafts += cuda_drafts(model, trial, p, choice)
            except ModelError as e:
                # a GPU whose CUDA or cuDNN this ONNX Runtime cannot load
                trial.monitor.note(f"{p.name}: no variant for ONNX Runtime on the GPU: {e.message}")
        if own and p.gpu is None and (there := measure_on_devices(model, trial, p, own, place)):
            on = trial.on(there.device)
            key = f"{comparison(p, on.machine, restriction)}, on {', '.join(there.members)}"
            choices[key] = there.choice
            drafts += measured_drafts(model, on, p, there.choice)
            continue
        if not measurable(p, trial.machine):
            drafts += _unmeasured(model, trial, p)
            continue
        key = comparison(p, trial.machine, restriction)
        if key not in choices:
            share = 1 / (len(measured) - len(choices.keys() & measured))
            choices[key] = measure_host(model, trial, p, place, share=share)
        drafts += measured_drafts(model, trial, p, choices[key])
    return ChosenVariants(tuple(drafts), choices)


def _has_int8_kernels(p: DeviceProfile, restriction: Restriction) -> bool:
    """Whether the CPU of another machine has dot products, by what the profile says, and may use them."""
    allowed = restriction.quantizes and restriction.runs_in("onnxruntime")
    has = p.cpu.family != "host" and any(fact.partition("|")[0] in _DOT_PRODUCTS for fact in p.cpu.isa)
    return allowed and has


def _unmeasured(model: QuantizedModel, trial: Trial, p: DeviceProfile) -> list[VariantDraft]:
    """CPU variants for another machine than this one: int8 where its kernels have dot products and the
    numbers hold.

    For a profile with a GPU that int8 variant is the fallback; otherwise it comes first and a float fallback
    follows.
    """
    best = best_checked(model, trial, p.cpu.family, p) if _has_int8_kernels(p, trial.restriction) else None
    if best is None:
        return [fallback_draft(model, trial, p, None)]
    int8 = VariantDraft(
        profile=p.name,
        variant="cpu-int8",
        runtime="onnxruntime",
        requires=(p.arch_requirement, *p.cpu.isa),
        model=best.quantized.model.SerializeToString(deterministic=True),
        recipe=recipe_of(model, p.cpu.family, best.name, best.quantized),
        precision="int8",
        session=SessionSettings(threads=min(2, p.cpu.max_threads)),
        layers=best.quantized.layers,
        accuracy=best.accuracy,
        fallback=p.gpu is not None,
    )
    trial.monitor.note(f"{p.name}: {p.cpu.family} int8 was checked numerically here, and measured nowhere")
    return [int8] if p.gpu is not None else [int8, fallback_draft(model, trial, p, None)]
