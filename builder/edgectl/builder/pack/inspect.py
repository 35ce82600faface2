"""What a bundle holds, as plain data for ``edgectl bundle inspect``: variants, precisions per layer,
recipes, measurements."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgectl.builder.pack.report import SearchReport, read_report
from edgectl.core.acceptance import Acceptance
from edgectl.core.bundle import (
    LAYER_ACCEPTANCE,
    LAYER_ENGINE,
    LAYER_LAYERS,
    LAYER_PACKED,
    LAYER_PROVENANCE,
    LAYER_SBOM,
    LAYER_WEIGHTS,
    MAX_JSON_BYTES,
    Bundle,
    Descriptor,
    LayerReport,
    Variant,
    added_blobs,
    read_bounded,
)
from edgectl.core.errors import BundleError
from edgectl.core.memory import EngineMemory

__all__ = ["BundleInfo", "VariantInfo", "inspect_bundle", "read_acceptance"]

_ENGINE = (LAYER_ENGINE, LAYER_PACKED, LAYER_WEIGHTS)
_LAYERS: TypeAdapter[list[LayerReport]] = TypeAdapter(list[LayerReport])


@dataclass(frozen=True)
class VariantInfo:
    digest: str
    profile: str
    variant: str
    runtime: str
    requires: tuple[str, ...]
    fallback: bool
    speed_only: bool
    engine_bytes: int
    """As it travels."""
    total_bytes: int
    """All blobs of this variant; blobs that variants share count in each."""
    added_bytes: int
    """What this variant adds to the bundle: its blobs that no variant before it has."""
    added_engine_bytes: int
    """The engine's part of that: 0 where a variant before it has the same file."""
    preferences: tuple[str, ...]
    expected_rss_mb: float | None
    memory: EngineMemory | None
    """What it adds to a process that opens it; None: not known."""
    precisions: dict[str, int]
    """Precision → number of weighted and quantized nodes (empty for a float variant)."""
    layers: tuple[LayerReport, ...]
    recipe: dict[str, Any]
    session: dict[str, Any]
    accuracy: dict[str, float]
    measured: dict[str, Any] | None
    golden: dict[str, Any]
    provenance: dict[str, Any]
    """The in-toto statement; empty if there is none."""
    acceptance: Acceptance | None
    """TensorRT: what NVIDIA's compiler said of it when it was built; None where it was not asked."""
    libraries: tuple[tuple[str, str], ...]
    """Name and version of what the SBOM lists."""


@dataclass(frozen=True)
class BundleInfo:
    digest: str
    name: str
    version: str
    task: str
    variants: tuple[VariantInfo, ...]
    total_bytes: int
    """Everything on disk, shared blobs once."""
    licence: str | None
    """SPDX expression of the weights' licence; None: not known."""
    report: SearchReport | None = None
    """Every candidate that was measured; None for a bundle in which nothing was measured."""


def inspect_bundle(root: Path) -> BundleInfo:
    """Read a bundle. Raises :class:`BundleError` / :class:`IntegrityError`; blobs other than metadata are
    not hashed here."""
    bundle = Bundle(root)
    blobs = {d.digest: d.size for v in bundle.variants for d in v.descriptors()}
    manifests = {d.digest: d.size for d in bundle.index.manifests}
    return BundleInfo(
        bundle.digest,
        bundle.name,
        bundle.version,
        bundle.variants[0].config.task.name,
        tuple(
            _variant(v, added) for v, added in zip(bundle.variants, added_blobs(bundle.variants), strict=True)
        ),
        sum(blobs.values()) + sum(manifests.values()) + len(bundle.index_bytes),
        bundle.variants[0].config.licence,
        next((r for v in bundle.variants if (r := read_report(v)) is not None), None),
    )


def _variant(v: Variant, added: list[Descriptor]) -> VariantInfo:
    c = v.config
    layers = _layers(v)
    sizes = {d.mediaType: d.size for d in v.manifest.layers}
    return VariantInfo(
        digest=v.digest,
        profile=c.profile,
        variant=c.variant,
        runtime=c.runtime,
        requires=c.requires,
        fallback=c.fallback,
        speed_only=c.speed_only,
        engine_bytes=sizes.get(LAYER_ENGINE, sizes.get(LAYER_PACKED, 0)) + sizes.get(LAYER_WEIGHTS, 0),
        total_bytes=sum(d.size for d in v.descriptors()),
        added_bytes=sum(d.size for d in added),
        added_engine_bytes=sum(d.size for d in added if d.mediaType in _ENGINE),
        preferences=c.preferences,
        expected_rss_mb=c.expected_rss_mb,
        memory=c.memory,
        precisions=dict(Counter(r.precision for r in layers)),
        layers=layers,
        recipe=c.recipe.model_dump(exclude_none=True),
        session=c.session.model_dump(exclude_none=True),
        accuracy=c.accuracy,
        measured=c.measured.model_dump(exclude_none=True) if c.measured else None,
        golden=c.golden.model_dump(exclude_none=True),
        provenance=_object(v, LAYER_PROVENANCE),
        acceptance=read_acceptance(v),
        libraries=tuple(
            (str(x.get("name")), str(x.get("version")))
            for x in _object(v, LAYER_SBOM).get("components", [])
            if isinstance(x, dict)
        ),
    )


def _layers(v: Variant) -> tuple[LayerReport, ...]:
    path = v.layer(LAYER_LAYERS)
    if path is None:
        return ()
    try:
        return tuple(_LAYERS.validate_python(json.loads(read_bounded(path, MAX_JSON_BYTES)), strict=False))
    except (ValueError, ValidationError, RecursionError) as e:
        raise BundleError(
            f"the layer report of {v.config.variant} is not valid", hint="build the bundle again"
        ) from e


def read_acceptance(v: Variant) -> Acceptance | None:
    """What NVIDIA's compiler said of a variant when it was built. Raises :class:`BundleError`."""
    return v.document(LAYER_ACCEPTANCE, Acceptance, "acceptance")


def _object(v: Variant, layer: str) -> dict[str, Any]:
    """A JSON object of a layer that others defined (in-toto, CycloneDX); empty if the variant has none."""
    path = v.layer(layer)
    if path is None:
        return {}
    try:
        value = json.loads(read_bounded(path, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as e:
        raise BundleError(
            f"a layer of {v.config.variant} is not JSON ({layer})", hint="build the bundle again"
        ) from e
    return value if isinstance(value, dict) else {}
