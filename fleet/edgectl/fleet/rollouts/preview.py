"""What a rollout would do, before anybody is asked: devices and waves, bytes, least time, who cannot run it, and what its
gates can and cannot find with so many devices. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from edgectl.core.bundle import Variant
from edgectl.core.bundle.choice import requirement_met, runnable
from edgectl.core.bundle.config_release import ConfigDocument
from edgectl.core.errors import BundleError
from edgectl.core.transfer.limits import Rates
from edgectl.fleet.rollouts.admission import most_unavailable
from edgectl.fleet.rollouts.declared import declared_loss
from edgectl.fleet.rollouts.power import detectable_by_canary, detectable_by_rate, devices_to_tell
from edgectl.fleet.rollouts.selection import value_of
from edgectl.fleet.rollouts.values import DeviceOutcome, DeviceView, Member, RolloutProgress, RolloutSpec
from edgectl.fleet.rollouts.waves import fits, selected

__all__ = ["Preview", "WavePreview", "preview"]

NO_LIMIT = Rates()
_SITE = "label.site"
_MOST_REASONS = 3


@dataclass(frozen=True)
class WavePreview:
    number: int
    devices: int
    online: int
    strata: dict[str, int]
    """Stratum → devices; empty where the rollout has no strata."""
    at_once: int
    """Most devices that are busy with it at the same time."""
    bytes: int
    """That its devices receive, at most: what a device has of it already is not sent."""
    least_s: float
    """From its first device to the next wave: probation, soak, caps, and the way there where a rate limits it."""
    approval: bool


@dataclass(frozen=True)
class Preview:
    devices: int
    online: int
    absent: tuple[str, ...]
    """Named, and never seen."""
    current: int
    """Run it already."""
    unfit: dict[str, str]
    """Device → why no variant of the bundle runs there. They are asked, too, and refuse it."""
    waves: tuple[WavePreview, ...]
    upload_bytes: int
    """That the controller sends once: every variant that some device takes."""
    received_bytes: int
    """That all devices receive together."""
    peak_bytes: int
    """That the devices which are busy at the same time receive; and of one site:"""
    peak_site_bytes: int
    least_s: float
    gates: tuple[str, ...]
    """What they find, and what they cannot."""
    warnings: tuple[str, ...]


def preview(
    spec: RolloutSpec,
    views: Mapping[str, DeviceView],
    artifacts: Sequence[Variant] | ConfigDocument,
    rates: Rates = NO_LIMIT,
    parts: Mapping[str, Sequence[Variant]] = MappingProxyType({}),
    before: Mapping[str, Sequence[Variant]] = MappingProxyType({}),
) -> Preview:
    """``artifacts``: the variants of the release, or the configuration that it is; ``parts``: of a set, part → the variants
    of its release; ``before``: the variants of releases that devices have in the slot, by digest, as far as they are
    known."""
    members = selected(spec, RolloutProgress(), views)
    absent = tuple(sorted(n for n, m in members.items() if m.outcome is DeviceOutcome.AWAY))
    there = {n: m for n, m in members.items() if n not in absent}
    kit = _ConfigKit(artifacts, parts) if isinstance(artifacts, ConfigDocument) else _Kit(artifacts)
    fitting = {n: _rightly(spec, artifacts, views[n]) or kit.of(views[n]) for n in there}
    current = {
        n for n in there if (r := views[n].reported.get(spec.slot)) is not None and r.active == spec.digest
    }
    size = {n: 0 if n in current or fit.variant is None else fit.size for n, fit in fitting.items()}
    waves = tuple(
        _wave(spec, number, {n for n, m in there.items() if m.wave == number}, views, members, size, rates)
        for number in range(spec.last_wave + 1)
    )
    busiest = max(waves, key=lambda w: w.at_once * (w.bytes / w.devices if w.devices else 0))
    sites = Counter[str]()
    for n, m in there.items():
        if m.wave == busiest.number:
            sites[value_of(views[n], _SITE)] += size[n]
    share = busiest.at_once / busiest.devices if busiest.devices else 0.0
    found = Preview(
        devices=len(there),
        online=sum(views[n].online for n in there),
        absent=absent,
        current=len(current),
        unfit={n: fit.why for n, fit in sorted(fitting.items()) if fit.variant is None},
        waves=waves,
        upload_bytes=_bytes_of(
            {one for n, fit in fitting.items() if size[n] for one in (fit.variant, *fit.parts) if one}
        ),
        received_bytes=sum(size.values()),
        peak_bytes=round(share * busiest.bytes),
        peak_site_bytes=round(share * max(sites.values(), default=0)),
        least_s=sum(w.least_s for w in waves),
        gates=tuple(_gates(spec, waves)),
        warnings=(),
    )
    declared = _declared(spec, there, views, fitting, {digest: _Kit(v) for digest, v in before.items()})
    return replace(found, warnings=(*_warnings(spec, found, views), *declared))


def _declared(
    spec: RolloutSpec,
    names: Iterable[str],
    views: Mapping[str, DeviceView],
    fitting: Mapping[str, _Taken],
    before: Mapping[str, _Kit],
) -> list[str]:
    """Where the release says itself that it is less accurate than what devices have."""
    lost = Counter[str]()
    for n in names:
        r, new = views[n].reported.get(spec.slot), fitting[n].variant
        kit = before.get(r.active or "") if r is not None else None
        old = kit.of(views[n]).variant if kit is not None else None
        if isinstance(new, Variant) and isinstance(old, Variant) and (what := declared_loss(new, old)):
            lost[what] += 1
    return [f"on {n} devices {what}" for what, n in lost.most_common(_MOST_REASONS)]


def _wave(
    spec: RolloutSpec,
    number: int,
    names: set[str],
    views: Mapping[str, DeviceView],
    members: Mapping[str, Member],
    size: Mapping[str, int],
    rates: Rates,
) -> WavePreview:
    terms = spec.wave(number)
    n = len(names)
    strata = Counter(members[name].stratum for name in names) if spec.strata else {}
    at_once = min(n, spec.in_flight or n)
    if spec.max_unavailable is not None:
        limit = spec.max_unavailable
        rooms = Counter(value_of(views[name], limit.per) for name in names)
        whole = Counter(value_of(views[name], limit.per) for name in members if name in views)
        at_once = min(at_once, sum(min(k, most_unavailable(limit, whole[r])) for r, k in rooms.items()))
    total = sum(size[name] for name in names)
    rounds = math.ceil(n / at_once) if at_once else 0
    sites = Counter[str]()
    for name in names:
        sites[value_of(views[name], _SITE)] += size[name]
    transfer_s = _transfer_s(
        max((size[name] for name in names), default=0), max(sites.values(), default=0), rates
    )
    minutes = max(0.0, n / spec.per_minute - 1) if spec.per_minute else 0.0
    if terms.ramp is not None:
        minutes = max(minutes, _ramp_minutes(n, spec, number))
    soak_s = terms.soak_s if n else 0.0
    least_s = (rounds * spec.policy.probation_s + max(minutes * 60, transfer_s) + soak_s) if n else 0.0
    return WavePreview(
        number=number,
        devices=n,
        online=sum(views[name].online for name in names),
        strata=dict(sorted(strata.items())),
        at_once=at_once,
        bytes=total,
        least_s=least_s,
        approval=terms.approval,
    )


def _transfer_s(of_one: int, of_site: int, rates: Rates) -> float:
    """At best: one upload fans out to many devices, and the controller sends each byte once. Without limits nobody
    knows: 0."""
    by_site = of_site / rates.site if rates.site else 0.0
    slowest = min((r for r in (rates.device, rates.total) if r), default=None)
    return max(of_one / slowest if slowest else 0.0, by_site)


def _ramp_minutes(devices: int, spec: RolloutSpec, number: int) -> float:
    ramp = spec.wave(number).ramp
    asked, minutes = 0, 0
    while ramp is not None and asked < devices and minutes < 1_000_000:
        asked += int(ramp.per_minute(asked))
        minutes += 1
    return max(0, minutes - 1)


def _gates(spec: RolloutSpec, waves: Sequence[WavePreview]) -> list[str]:
    found = []
    canary = waves[0].devices
    rate = detectable_by_canary(canary, spec.max_canary_failures)
    if canary and rate is None:
        found.append(
            f"{canary} canaries, {spec.max_canary_failures} of which may fail: the canary finds nothing"
        )
    elif canary and rate is not None:
        only = ": only what nearly always fails" if rate >= 0.5 else ""
        found.append(f"a canary of {canary} finds, 9 times in 10, what fails on {rate:.0%} of devices{only}")
    done = canary
    for wave in waves[1:]:
        done += wave.devices
        if wave.devices and (rate := detectable_by_rate(done, spec.max_failure_rate)) is not None:
            found.append(
                f"after wave {wave.number} ({done} devices) the limit of {spec.max_failure_rate:.0%} finds, 9 times in 10, "
                f"what fails on {rate:.0%}"
            )
        elif wave.devices:
            found.append(f"after wave {wave.number} {done} devices are too few to prove any failure rate")
    needs = devices_to_tell(0.01, 0.05)
    if done < needs:
        found.append(f"1 % of failures against 5 % cannot be told with {done} devices: it takes {needs}")
    if spec.max_latency_ratio is None:
        found.append("latency is not judged")
    return found


def _warnings(spec: RolloutSpec, p: Preview, views: Mapping[str, DeviceView]) -> list[str]:
    warnings = []
    if not p.devices:
        has = sum(spec.slot in v.slots for v in views.values())
        warnings.append(
            f"no device is selected; {has} of {len(views)} have slot {spec.slot}"
            if has
            else f"no device has slot {spec.slot}"
        )
    strangers = sorted(set(spec.canary_devices) - {n for n, v in views.items() if fits(spec, v)})
    if strangers:
        warnings.append(f"{', '.join(strangers)}: named as canaries, and not selected or never seen")
    if p.devices and not p.waves[0].online:
        warnings.append("no canary is online: nothing begins until one is")
    if p.unfit:
        warnings.append(
            f"{len(p.unfit)} of {p.devices} devices cannot run it: it was selected too widely, or lacks a profile"
        )
    if p.current == p.devices and p.devices:
        warnings.append(f"every device runs {spec.release} already")
    empty = [w.number for w in p.waves if not w.devices and p.devices]
    if empty:
        warnings.append(f"wave {', '.join(map(str, empty))} is empty with so few devices")
    return warnings


@dataclass(frozen=True)
class _Taken:
    variant: Variant | ConfigDocument | None
    size: int = 0
    why: str = ""
    parts: tuple[Variant, ...] = ()
    """That come with it."""


class _Kit:
    """Which variant a device would take; devices of a kind are asked once."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self._variants = variants
        self._known: dict[tuple[str | None, frozenset[str]], _Taken] = {}

    def of(self, view: DeviceView) -> _Taken:
        key = (view.profile, view.facts)
        if key not in self._known:
            self._known[key] = self._fit(view)
        return self._known[key]

    def _fit(self, view: DeviceView) -> _Taken:
        runtimes = [f.removeprefix("runtime:") for f in view.facts if f.startswith("runtime:")]
        try:
            variant = runnable(self._variants, view.facts, profile=view.profile, runtimes=runtimes)[0]
        except BundleError:
            return _Taken(None, why=self._lacks(view))
        return _Taken(variant, _bytes_of({variant}))

    def _lacks(self, view: DeviceView) -> str:
        reasons = []
        for v in self._variants:
            missing = [r for r in v.config.requires if not requirement_met(r, view.facts)]
            if f"runtime:{v.config.runtime}" not in view.facts:
                missing.append(f"runtime:{v.config.runtime}")
            reasons.append(f"{v.config.profile}/{v.config.variant} needs {', '.join(missing)}")
        more = len(reasons) - _MOST_REASONS
        return "; ".join(reasons[:_MOST_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _rightly(
    spec: RolloutSpec, artifacts: Sequence[Variant] | ConfigDocument, view: DeviceView
) -> _Taken | None:
    """Why the slot cannot hold a release of this type; None: it can."""
    if (r := view.reported.get(spec.slot)) is not None and r.set is not None:
        return _Taken(None, why=f"its slot {spec.slot} belongs to the set {r.set}")
    if isinstance(artifacts, ConfigDocument) == (spec.slot in view.config_slots):
        return None
    holds = "a configuration" if spec.slot in view.config_slots else "an engine"
    return _Taken(None, why=f"its slot {spec.slot} holds {holds}")


class _ConfigKit:
    """A configuration is the same for every device with a pipeline of its kind; the engines of a set are each device's."""

    def __init__(self, document: ConfigDocument, parts: Mapping[str, Sequence[Variant]]) -> None:
        self._document = document
        self._parts = {part: _Kit(variants) for part, variants in parts.items()}

    def of(self, view: DeviceView) -> _Taken:
        kind = self._document.config.kind
        if kind not in view.streams.values():
            return _Taken(None, why=f"it has no pipeline of the kind {kind}")
        engines: list[Variant] = []
        for part, kit in self._parts.items():
            fit = kit.of(view)
            if not isinstance(fit.variant, Variant):
                return _Taken(None, why=f"part {part}: {fit.why}")
            engines.append(fit.variant)
        return _Taken(self._document, _bytes_of({self._document, *engines}), parts=tuple(engines))


def _bytes_of(artifacts: Iterable[Variant | ConfigDocument]) -> int:
    """Of all their blobs, each counted once."""
    return sum({d.digest: d.size for a in artifacts for d in a.descriptors()}.values())
