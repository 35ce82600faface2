"""A rollout's terms as people write them down: a YAML file.

::

    release: gate-detector@2.0.0
    slot: gate-detector
    select: label.site in (north, south) and fact.sm >= 8.7
    strata: [label.site, profile]
    canary: {devices: 6, per_stratum: 1, soak: 30m, soak_inferences: 50000}
    waves:
      - {share: 10%, soak: 1h}
      - {share: 50%, soak: 6h, approval: true}
      - {share: 100%, ramp: {start: 50, factor: 2, every: 200, most: 1000}}
    start: 2026-12-01 02:00
    windows: [mon-fri 01:00-05:00]
    gates: [{gate: latency, percentile: 99, max_ratio: 1.1}, {gate: errors}, {gate: drops}, {gate: memory}]
    limits: {in_flight: 500, per_minute: 1000, unavailable: {share: 10%, per: label.site}}
    quorum: 90%
    deadlines: {device: 24h, idle: 24h, back: 1h, total: 7d}

What is not said is as :class:`edgectl.fleet.rollouts.values.RolloutRequest` has it. Times are like ``1h30m``, shares
like ``10%``; ``start`` is UTC unless it says otherwise.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from edgectl.core.config_file import ConfigFile, read_yaml
from edgectl.core.durations import seconds_of
from edgectl.core.errors import ConfigError
from edgectl.core.schema import Config, Key, Name, key_of, mistake_in
from edgectl.core.windows import Window
from edgectl.core.wire import EventGate, ShadowGate
from edgectl.fleet.rollouts.gates import GateTerms
from edgectl.fleet.rollouts.values import Facet, RolloutRequest, Select

__all__ = ["RolloutPolicy", "read_policy", "request_of"]


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        return seconds_of(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0:
        raise ValueError(f"write a unit, e.g. {value:g}s or {value:g}m")
    return value


def _share(value: Any) -> Any:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?%", value)):
        return float(match[1]) / 100
    raise ValueError("write a share like 10%")


def _instant(value: Any) -> Any:
    if isinstance(value, str):
        try:
            # Python 3.10 does not know Z
            value = datetime.fromisoformat(re.sub("Z$", "+00:00", value))
        except ValueError:
            raise ValueError(f"{value[:40]!r} is not a time like 2026-12-01 02:00") from None
    if not isinstance(value, datetime):
        raise ValueError("write a time like 2026-12-01 02:00")
    return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Share = Annotated[float, BeforeValidator(_share), Field(ge=0, le=1)]
Instant = Annotated[float, BeforeValidator(_instant)]


class CanaryTerms(Config):
    devices: int | tuple[Name, ...] = 1
    """How many, or which."""
    per_stratum: int = 0
    soak: Seconds = 0.0
    soak_inferences: int = 0


class RampTerms(Config):
    start: float
    factor: float = 2.0
    every: int
    most: float = 1000.0


class WaveTerms(Config):
    share: Share | None = None
    count: int | None = None
    soak: Seconds = 0.0
    soak_inferences: int = 0
    approval: bool = False
    ramp: RampTerms | None = None


class UnavailableTerms(Config):
    share: Share
    per: Facet = "label.site"


class LimitTerms(Config):
    in_flight: int | None = None
    per_minute: int | None = None
    unavailable: UnavailableTerms | None = None


class DeadlineTerms(Config):
    device: Seconds = 86400.0
    idle: Seconds = 86400.0
    back: Seconds = 3600.0
    total: Seconds | None = None


class RetryTerms(Config):
    times: int = 3
    after: Seconds = 300.0


class ProbationTerms(Config):
    """On each device, by the device itself."""

    time: Seconds = 60.0
    inferences: int = 130
    percentile: Literal[50, 90, 95, 99] = 95
    max_latency_ratio: float | None = 1.3
    max_latency_ms: float | None = None
    max_error_rate: Share = 0.01
    max_rss_mb: float | None = None
    events: EventGate | None = EventGate()
    """Of a configuration."""


class FailureTerms(Config):
    canary: int = 0
    """How many canary devices may fail."""
    rate: Share = 0.05
    """Of all devices, later."""


class RolloutPolicy(Config):
    """The file. Every setting but ``release`` and ``slot`` may be left out; those may stand on the command line."""

    release: str | None = None
    slot: Name | None = None
    select: Select = ""
    labels: dict[str, str] = {}
    devices: tuple[Name, ...] = ()
    strata: tuple[Facet, ...] = ()
    canary: CanaryTerms = CanaryTerms()
    waves: tuple[WaveTerms, ...] = ()
    start: Instant | None = None
    windows: tuple[Window, ...] = ()
    limits: LimitTerms = LimitTerms()
    quorum: Share = 0.0
    deadlines: DeadlineTerms = DeadlineTerms()
    retries: RetryTerms = RetryTerms()
    probation: ProbationTerms = ProbationTerms()
    shadow: ShadowGate | None = None
    failures: FailureTerms = FailureTerms()
    max_latency_ratio: float | None = 1.5
    """Of the whole rollout, against what the same devices had; where ``gates`` names none."""
    gates: tuple[GateTerms, ...] | None = None
    alpha: Share = 0.01
    shared_plans: bool = False
    rollback: bool = True
    supersede: bool = False


_ELSEWHERE: dict[str, Key] = {
    "canary": ("canary", "devices"),
    "canary_devices": ("canary", "devices"),
    "canary_per_stratum": ("canary", "per_stratum"),
    "soak_s": ("canary", "soak"),
    "soak_inferences": ("canary", "soak_inferences"),
    "in_flight": ("limits", "in_flight"),
    "per_minute": ("limits", "per_minute"),
    "max_unavailable": ("limits", "unavailable"),
    "deadline_s": ("deadlines", "device"),
    "idle_s": ("deadlines", "idle"),
    "back_s": ("deadlines", "back"),
    "total_s": ("deadlines", "total"),
    "retries": ("retries", "times"),
    "retry_after_s": ("retries", "after"),
    "max_canary_failures": ("failures", "canary"),
    "max_failure_rate": ("failures", "rate"),
    "start_s": ("start",),
}
"""Settings of a request that stand elsewhere in the file."""
_IN_POLICY = {"probation_s": "time", "min_inferences": "inferences"}


def read_policy(path: Path, release: str | None = None, slot: str | None = None) -> RolloutRequest:
    """The request that a file makes. ``release`` and ``slot`` go before what it says. Raises :class:`ConfigError` with
    file, line and setting, :class:`UsageError`."""
    return request_of(read_yaml(path), release, slot)


def request_of(file: ConfigFile, release: str | None = None, slot: str | None = None) -> RolloutRequest:
    """See :func:`read_policy`."""
    p = file.validate(RolloutPolicy)
    release, slot = release or p.release, slot or p.slot
    for name, value in (("release", release), ("slot", slot)):
        if value is None:
            raise ConfigError(
                f"{file.name}: it names no {name}", hint="write it into the file or on the command line"
            )
    try:
        return RolloutRequest.model_validate(_settings(p) | {"release": release, "slot": slot})
    except ValidationError as e:
        mistake = mistake_in(e)
        key = _key_in_file(mistake.key)
        raise ConfigError(f"{file.place(key)}: {key_of(key)}: {mistake.what}", key=key) from e


def _settings(p: RolloutPolicy) -> dict[str, Any]:
    named = not isinstance(p.canary.devices, int)
    return {
        "select": p.select,
        "labels": p.labels,
        "devices": p.devices,
        "strata": p.strata,
        "canary": len(p.canary.devices) if isinstance(p.canary.devices, tuple) else p.canary.devices,
        "canary_devices": p.canary.devices if named else (),
        "canary_per_stratum": p.canary.per_stratum,
        "soak_s": p.canary.soak,
        "soak_inferences": p.canary.soak_inferences,
        "waves": [
            {
                "share": w.share,
                "count": w.count,
                "soak_s": w.soak,
                "soak_inferences": w.soak_inferences,
                "approval": w.approval,
                "ramp": w.ramp and w.ramp.model_dump(),
            }
            for w in p.waves
        ],
        "start_s": p.start,
        "in_flight": p.limits.in_flight,
        "per_minute": p.limits.per_minute,
        "max_unavailable": p.limits.unavailable and p.limits.unavailable.model_dump(),
        "quorum": p.quorum,
        "deadline_s": p.deadlines.device,
        "idle_s": p.deadlines.idle,
        "back_s": p.deadlines.back,
        "total_s": p.deadlines.total,
        "retries": p.retries.times,
        "retry_after_s": p.retries.after,
        "max_canary_failures": p.failures.canary,
        "max_failure_rate": p.failures.rate,
        "max_latency_ratio": p.max_latency_ratio,
        "gates": p.gates,
        "alpha": p.alpha,
        "rollback": p.rollback,
        "supersede": p.supersede,
        "policy": {
            "probation_s": p.probation.time,
            "min_inferences": p.probation.inferences,
            "percentile": p.probation.percentile,
            "max_latency_ratio": p.probation.max_latency_ratio,
            "max_latency_ms": p.probation.max_latency_ms,
            "max_error_rate": p.probation.max_error_rate,
            "max_rss_mb": p.probation.max_rss_mb,
            "events": p.probation.events and p.probation.events.model_dump(),
            "windows": p.windows,
            "shadow": p.shadow and p.shadow.model_dump(),
            "shared_plans": p.shared_plans,
        },
    }


def _key_in_file(key: Key) -> Key:
    if not key:
        return key
    first = str(key[0])
    if first == "policy" and len(key) > 1:
        inner = str(key[1])
        return (inner,) if inner == "windows" else ("probation", _IN_POLICY.get(inner, inner), *key[2:])
    rest = tuple(str(k).removesuffix("_s") if k == "soak_s" else k for k in key[1:])
    return (*_ELSEWHERE.get(first, (first,)), *rest)
