"""A release as its page shows it: variants, accuracy against latency, where it came from, where it runs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgectl.core.bundle import VariantConfig
from edgectl.fleet.web.charts import Scatter, scatter
from edgectl.fleet.web.device_rows import DeviceRow

__all__ = [
    "Provenance",
    "ReleaseContent",
    "VariantLine",
    "by_profile",
    "drops",
    "provenance_of",
    "running",
    "variant_line",
]

_MOST_TEXT = 300
_MOST_LINES = 40


@dataclass(frozen=True)
class VariantLine:
    profile: str
    variant: str
    runtime: str
    precision: str
    family: str
    p50_ms: float | None
    ratio: float | None
    """To the fastest float candidate; < 1 is faster."""
    drop: float | None
    """Of the task's metric, against float."""
    accuracy: str
    """Every metric."""
    machine: str
    """Where that was measured."""
    preferences: str
    fallback: bool
    licence: str | None
    bytes: int


@dataclass(frozen=True)
class Provenance:
    """What an in-toto statement says (SLSA provenance v1), as far as it is understood here."""

    builder: str
    parameters: tuple[tuple[str, str], ...]
    materials: tuple[tuple[str, str], ...]
    """What it was made of → sha256."""


@dataclass(frozen=True)
class ReleaseContent:
    """What a release is: variants of engines, or a configuration, which with parts is a set."""

    lines: tuple[VariantLine, ...] = ()
    provenance: Provenance | None = None
    kind: str = ""
    """Of a configuration: for pipelines of this kind."""
    text: str = ""
    """Of a configuration, as it was written."""
    parts: tuple[tuple[str, str], ...] = ()
    """Of a set: part → release."""
    problem: str = ""
    """Why its blobs cannot be read."""


def variant_line(c: VariantConfig, size: int) -> VariantLine:
    """``size``: bytes of all its blobs."""
    m = c.measured
    return VariantLine(
        profile=c.profile,
        variant=c.variant,
        runtime=c.runtime,
        precision=c.recipe.precision,
        family=c.recipe.family,
        p50_ms=m.p50_ms if m else None,
        ratio=m.ratio_to_float if m else None,
        drop=c.accuracy.get("drop"),
        accuracy=", ".join(f"{k} {v:.4g}" for k, v in sorted(c.accuracy.items())),
        machine=m.machine if m else "",
        preferences=", ".join(c.preferences),
        fallback=c.fallback,
        licence=c.licence,
        bytes=size,
    )


def drops(lines: Iterable[VariantLine]) -> Scatter | None:
    """Accuracy against latency, of those of which both were measured."""
    known = [line for line in lines if line.p50_ms is not None]
    return scatter(
        [
            (f"{v.profile}/{v.variant}", v.p50_ms, 0.0 if v.drop is None else v.drop, v.precision)
            for v in known
            if v.p50_ms is not None and (v.drop is not None or v.precision == "float32")
        ]
    )


def provenance_of(statement: Mapping[str, Any]) -> Provenance:
    """Of a document that anybody may have written: what is not as it should be is left out."""
    predicate = _mapping(statement.get("predicate"))
    definition = _mapping(predicate.get("buildDefinition"))
    details = _mapping(_mapping(predicate.get("runDetails")).get("builder"))
    versions = _mapping(details.get("version"))
    told = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()) if isinstance(v, str))
    return Provenance(
        builder=_short(f"{details.get('id', 'unknown')}" + (f": {told}" if told else "")),
        parameters=tuple(
            (str(k), _short(v)) for k, v in _mapping(definition.get("externalParameters")).items()
        )[:_MOST_LINES],
        materials=tuple(
            (str(m.get("name")), str(_mapping(m.get("digest")).get("sha256")))
            for m in _sequence(definition.get("resolvedDependencies"))
            if isinstance(m, dict)
        )[:_MOST_LINES],
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"


def running(rows: Iterable[DeviceRow], digest: str) -> list[DeviceRow]:
    """Devices on which a slot runs this bundle."""
    return [r for r in rows if any(line.active == digest for line in r.lines)]


def by_profile(rows: Iterable[DeviceRow]) -> list[tuple[str, int]]:
    """Profile → devices, most first."""
    return sorted(Counter(r.profile or "-" for r in rows).items(), key=lambda i: (-i[1], i[0]))
