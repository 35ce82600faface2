"""What devices say of variants as they would ship: TensorRT plans, which only they can run, are finalised and measured
there; variants whose graphs were measured there in the search are checked against their golden outputs.

A device compiles each as it would for a deployment, checks it against its golden outputs, and measures all that run in
turn, in each context. A quantized one goes first only if it is faster there than the float engine that TensorRT makes of
the same model. What the device refuses leaves the bundle; what it cannot run at all (another generation of TensorRT)
stays behind, unmeasured.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgectl.builder.monitor import BuildMonitor
from edgectl.builder.pack.package import VariantContent, variant_files
from edgectl.builder.pack.variant import Identity, make_variant
from edgectl.builder.search.elsewhere import MeasuringDevice
from edgectl.builder.variants.draft import VariantDraft
from edgectl.builder.variants.on_devices import DEVICE_ERRORS, groups_of
from edgectl.core.bundle import requirement_met
from edgectl.core.measured import Context, Measured, Standing
from edgectl.device_profiles.machine import Machine
from edgectl.device_profiles.schema import DeviceProfile
from edgectl.engines.measure.job import Contender, MeasureJob
from edgectl.engines.measure.job_child import MeasureResult
from edgectl.engines.measure.processes import (
    RUNS,
    SECONDS,
    ProcessTimes,
    standing_of,
    summarise_processes,
)

__all__ = ["finalised_on_devices", "ordered", "without"]

_COMPILE_S = 1800.0
"""For one variant, from the first byte to the plan; a device may allow less."""


def finalised_on_devices(
    identity: Identity,
    drafts: Sequence[VariantDraft],
    profiles: Sequence[DeviceProfile],
    devices: Sequence[MeasuringDevice],
    monitor: BuildMonitor,
) -> list[VariantDraft]:
    """The drafts of all profiles, in the order in which they ship. Those of a profile without a device stay as they
    are."""
    found: list[VariantDraft] = []
    for p in profiles:
        own = [d for d in drafts if d.profile == p.name]
        there = [d for d in devices if d.profile == p.name]
        if not there:
            found += own
        elif p.gpu is None:
            found += _checked(identity, own, p, there, monitor)
        else:
            found += _of_profile(identity, own, p, there, monitor)
    return found


def _checked(
    identity: Identity,
    drafts: Sequence[VariantDraft],
    p: DeviceProfile,
    devices: Sequence[MeasuringDevice],
    monitor: BuildMonitor,
) -> list[VariantDraft]:
    """Without those that do not reproduce their golden outputs on one device of each group: its kernels compute something
    else than this machine's did when accuracy was judged."""
    failed: dict[str, str] = {}
    for group in groups_of(devices):
        for device in group:
            contents = {
                d.variant: make_variant(identity, d) for d in drafts if not _missing(d, device.machine)
            }
            monitor.tell("search", 0.9, f"{device.name} checks {len(contents)} variants against golden")
            try:
                result = device.measure(*_job(contents, monitor, "check")) if contents else None
            except DEVICE_ERRORS as e:
                monitor.note(f"{p.name}: no variant was checked on {device.name}: {e.message}")
                continue
            for name, why in ({} if result is None else result.failed).items():
                failed.setdefault(name, f"{p.name}: {name} does not run on {device.name}: {why}")
            break
    monitor.notes += failed.values()
    return without(drafts, failed)


def without(drafts: Sequence[VariantDraft], failed: Container[str]) -> list[VariantDraft]:
    """The drafts but for those that failed; the first that stays takes over what they were best at. A fallback stays
    whatever becomes of it: there is nothing behind it. Pure."""
    kept = [d for d in drafts if d.fallback or d.variant not in failed]
    freed = [x for d in drafts if d not in kept for x in d.preferences]
    if not freed:
        return kept
    best = min(kept, key=lambda d: (d.fallback, kept.index(d)))
    more = tuple(dict.fromkeys((*best.preferences, *freed)))
    return [replace(d, preferences=more) if d is best else d for d in kept]


def _of_profile(
    identity: Identity,
    drafts: Sequence[VariantDraft],
    p: DeviceProfile,
    devices: Sequence[MeasuringDevice],
    monitor: BuildMonitor,
) -> list[VariantDraft]:
    """What the first device that gets through says; the other groups are told where they disagree."""
    said: list[tuple[str, list[VariantDraft]]] = []
    for group in groups_of(devices):
        for device in group:
            runnable = [d for d in drafts if not _missing(d, device.machine)]
            contents = {d.variant: make_variant(identity, d) for d in runnable}
            monitor.tell("search", 0.9, f"{device.name} compiles and measures {len(contents)} variants")
            try:
                result = device.measure(*_job(contents, monitor))
            except DEVICE_ERRORS as e:
                monitor.note(f"{p.name}: nothing was measured on {device.name}: {e.message}")
                continue
            result = _whole(result, list(contents))
            monitor.note(f"{p.name}: measured on {device.name} ({device.machine.summary})")
            for name, why in result.failed.items():
                monitor.note(f"{p.name}: {name} does not run on {device.name}: {why}")
            said.append((", ".join(d.name for d in group), ordered(drafts, result, device.machine)))
            break
    if not said:
        return _as_unmeasured(drafts)
    _, best = said[0]
    firsts = {names: _first(order) for names, order in said}
    if len(set(firsts.values())) > 1:
        monitor.notes += [
            f"{p.name}: {names} alone would have {first} first" for names, first in firsts.items()
        ]
        if any(_standing(order, _first(best)) not in (Standing.FASTER, None) for _, order in said):
            monitor.note(f"{p.name}: nothing quantized is faster than float on all of them: float goes first")
            best = _float_first(best)
    return best


def _as_unmeasured(drafts: Sequence[VariantDraft]) -> list[VariantDraft]:
    """Without the float graphs that came for a comparison that was not made."""
    quantized = any(d.runtime == "tensorrt" and d.precision == "int8" for d in drafts)
    return [
        d
        for d in drafts
        if not (quantized and d.runtime == "tensorrt" and d.precision in ("float32", "float16"))
    ]


def ordered(drafts: Sequence[VariantDraft], result: MeasureResult, machine: Machine) -> list[VariantDraft]:
    """The drafts as they ship after a measurement: float is what TensorRT makes of the float model, or else the
    fallback. First what is quantized and faster than it, the fastest first; then float; then what is equal or undecided,
    which nobody prefers; then what was not measured. What failed is left out, unless it is the fallback; so is what is
    slower than float. Pure."""
    alive = {n: t for n, t in result.processes.items() if t.failed is None}
    measured = [d for d in drafts if d.variant in alive]
    reference = _reference(measured, alive)
    if reference is None:
        return [d for d in drafts if d.fallback or d.variant not in result.failed]
    base = alive[reference.variant]
    told = [_told(d, alive[d.variant], base, d is reference, result, machine) for d in measured]

    def place(d: VariantDraft) -> tuple[int, float]:
        standing = d.measured.standing if d.measured is not None else None
        if d.fallback:
            return 4, 0.0
        if d.measured is None:
            return 3, 0.0
        if d.variant == reference.variant:
            return 1, 0.0
        faster = standing is Standing.FASTER
        return (0 if faster else 2), d.measured.p50_ms

    by_name = {d.variant: d for d in told}
    kept = [
        by_name.get(d.variant, d)
        for d in drafts
        if d.fallback or not (d.variant in result.failed or _slower(by_name.get(d.variant)))
    ]
    return sorted(kept, key=place)


def _reference(measured: Sequence[VariantDraft], times: Mapping[str, ProcessTimes]) -> VariantDraft | None:
    """The fastest float engine of TensorRT, of any runtime on the GPU, or the fallback."""

    def fastest(fits: Callable[[VariantDraft], bool]) -> VariantDraft | None:
        found = [d for d in measured if fits(d) and d.precision in ("float32", "float16")]
        return min(found, key=lambda d: _p50(times[d.variant]), default=None)

    return (
        fastest(lambda d: d.runtime == "tensorrt")
        or fastest(lambda d: not d.fallback)
        or next((d for d in measured if d.fallback), None)
    )


def _told(
    d: VariantDraft,
    times: ProcessTimes,
    base: ProcessTimes,
    is_reference: bool,
    result: MeasureResult,
    machine: Machine,
) -> VariantDraft:
    fresh = summarise_processes(times, None if is_reference else base, None if is_reference else base)
    ms = times.of(Context.ALONE)
    quantized = d.precision == "int8"
    golden = result.golden.get(d.variant)
    return replace(
        d,
        measured=Measured(
            p10_ms=round(float(np.percentile(ms, 10)), 5),
            p50_ms=round(_p50(times), 5),
            n=len(ms),
            ratio_to_float=1.0 if is_reference else fresh.ratio_to_float,
            machine=machine.summary,
            threads=d.session.threads,
            runtime_version=golden.runtime if golden is not None else "",
            conditions=result.conditions,
            fresh=fresh,
            standing=standing_of(times, base) if quantized and not is_reference else None,
        ),
    )


def _slower(d: VariantDraft | None) -> bool:
    return d is not None and d.measured is not None and d.measured.standing is Standing.SLOWER


def _standing(order: Sequence[VariantDraft], name: str) -> Standing | None:
    """None for float itself; slower for what is not there any more."""
    found = next((d for d in order if d.variant == name), None)
    if found is None:
        return Standing.SLOWER
    return found.measured.standing if found.measured is not None else None


def _float_first(order: Sequence[VariantDraft]) -> list[VariantDraft]:
    return sorted(order, key=lambda d: d.precision == "int8" and not d.fallback)


def _first(order: Sequence[VariantDraft]) -> str:
    return order[0].variant


def _p50(times: ProcessTimes) -> float:
    return float(np.median(times.of(Context.ALONE)))


def _missing(d: VariantDraft, machine: Machine) -> list[str]:
    return [r for r in (*d.requires, f"runtime:{d.runtime}") if not requirement_met(r, machine.facts)]


def _whole(result: MeasureResult, asked: Sequence[str]) -> MeasureResult:
    """What a device says nothing about, or only that its process failed, did not run."""
    failed = {
        **{n: t.failed for n, t in result.processes.items() if t.failed is not None and n in asked},
        **{n: why for n, why in result.failed.items() if n in asked},
    }
    for n in asked:
        if n not in result.processes and n not in failed:
            failed[n] = "the device does not say what became of it"
    return result.model_copy(
        update={"failed": failed, "processes": {n: t for n, t in result.processes.items() if n in asked}}
    )


def _job(
    contents: Mapping[str, VariantContent],
    monitor: BuildMonitor,
    kind: Literal["processes", "check"] = "processes",
) -> tuple[MeasureJob, dict[str, bytes]]:
    files: dict[str, bytes] = {}
    contenders = []
    for name, content in contents.items():
        manifest, blobs, data = variant_files(content)
        files |= {d: x.read_bytes() if isinstance(x, Path) else x for d, x in data.items()}
        contenders.append(Contender(name=name, manifest=manifest, blobs=blobs))
    seconds = monitor.budget.fresh_s(SECONDS)
    return MeasureJob(
        kind=kind,
        contenders=tuple(contenders),
        seconds=seconds,
        runs=RUNS,
        timeout_s=min(86400.0, len(contenders) * (_COMPILE_S + RUNS * (12 * seconds + 60))),
    ), files
