"""Turn a chosen graph into the contents of one variant: config, golden outputs with tolerances, reports.

Golden outputs are those of the variant's own graph in ONNX Runtime. How far another runtime or machine may be
from them follows from noise that was observed: the same graph with and without graph optimisation (other
kernels, other rounding), and in the runtime that was chosen, with the float that it is told; for int8 also a part of what quantization itself
did to the outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from edgectl.builder.compress.weights import weight_regions
from edgectl.builder.convert.convert import Conversion
from edgectl.builder.ingest.pixels import pixel_feeds
from edgectl.builder.ingest.samples import Sample
from edgectl.builder.int8.calibrate import CalibrationTable
from edgectl.builder.pack.package import VariantContent, provenance, sbom
from edgectl.builder.passes.base import NOUGHT, rounding_of
from edgectl.builder.variants.draft import VariantDraft
from edgectl.core.bundle import (
    LAYER_ACCEPTANCE,
    LAYER_CALIBRATION,
    LAYER_ENGINE,
    LAYER_GOLDEN,
    LAYER_LAYERS,
    LAYER_PACKED,
    LAYER_PROVENANCE,
    LAYER_SBOM,
    GoldenSpec,
    SessionSettings,
    TensorSpec,
    Tolerance,
    Unpacked,
    VariantConfig,
)
from edgectl.core.codebook import pack
from edgectl.core.errors import ModelError
from edgectl.core.files import digest_of
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.core.tensors import write_npz
from edgectl.engines.base import Feeds, Outputs
from edgectl.engines.finalise.golden import measure
from edgectl.engines.finalise.open import open_model

__all__ = ["Identity", "make_variant"]

GOLDEN_SAMPLES = 2
_NOISE_FACTOR = 4.0
_KEPT_BYTES = 16 << 20  # of outputs that are kept for the next variant
_WORTH_PACKING = 0.9  # of the bytes
_FLOOR = 1e-3  # of the output's largest value
_QUANTIZATION_SHARE = {"onnxruntime": 0.5, "openvino": 0.5, "tensorrt": 1.0, "tensorrt-rtx": 1.0}
# the device rounds by rules of its own: as far from the recorded graph as that is from float
_IMPLICIT_SHARE = 2.0


@dataclass(frozen=True)
class Identity:
    """What all variants of one build have in common."""

    name: str
    version: str
    task: TaskSpec
    inputs: tuple[TensorSpec, ...]
    source: str
    """Digest of the ONNX file, as it came or as it was converted."""
    parameters: dict[str, object]
    table: CalibrationTable | None
    samples: Sequence[Sample]
    """Golden inputs are taken from these."""
    float_model: bytes | Path = field(repr=False)
    """A file where its weights lie beside it."""
    speed_only: bool = False
    conversion: Conversion | None = None
    """Where that ONNX file came from; None: it is what the user gave."""
    packed: bool = False
    """Weights were shared: engines travel packed where that is smaller."""
    licence: str | None = None
    """Of the weights."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """File that the ONNX file had its weights in → its digest."""
    answers: dict[str, list[Outputs]] = field(default_factory=dict, repr=False, compare=False)
    """Of graphs on golden inputs, by what they were run with: variants share graphs, and float."""


def make_variant(
    identity: Identity, draft: VariantDraft, *, extra: tuple[tuple[str, bytes], ...] = ()
) -> VariantContent:
    """Record golden outputs and assemble the layers, ``extra`` ones (media type, bytes) last. Raises
    :class:`ModelError` if the graph does not reproduce itself."""
    inputs, outputs, tolerances = _golden(identity, draft)
    task = (
        identity.task if draft.picture is None else identity.task.model_copy(update={"input": draft.picture})
    )
    config = VariantConfig(
        name=identity.name,
        version=identity.version,
        profile=draft.profile,
        variant=draft.variant,
        runtime=draft.runtime,
        requires=draft.requires,
        task=task,
        recipe=draft.recipe,
        session=draft.session,
        inputs=tuple(TensorSpec(name=n, shape=a.shape, dtype=str(a.dtype)) for n, a in inputs[0].items()),
        outputs=tuple(TensorSpec(name=n, shape=o.shape, dtype=str(o.dtype)) for n, o in outputs[0].items()),
        golden=GoldenSpec(samples=len(inputs), tolerances=tolerances),
        accuracy={} if draft.accuracy is None else draft.accuracy.figures,
        measured=draft.measured,
        preferences=draft.preferences,
        expected_rss_mb=draft.measured.fresh.rss_mb if draft.measured and draft.measured.fresh else None,
        memory=draft.memory,
        speed_only=identity.speed_only and draft.precision != "float32",
        fallback=draft.fallback,
        batch=draft.batch,
        licence=identity.licence,
        ahead=draft.ahead,
    )
    golden = {f"in/{i}/{n}": a for i, feeds in enumerate(inputs) for n, a in feeds.items()}
    golden |= {f"out/{i}/{n}": a for i, o in enumerate(outputs) for n, a in o.items()}
    engine_digest = digest_of(draft.model)
    packed = _packed(draft.model) if identity.packed else None
    if packed is not None:
        config = config.model_copy(update={"unpacked": Unpacked(digest=engine_digest, size=len(draft.model))})
    engine = (LAYER_ENGINE, draft.model) if packed is None else (LAYER_PACKED, packed)
    layers: list[tuple[str, bytes | Path]] = [engine, (LAYER_GOLDEN, write_npz(golden)), *draft.engine_layers]
    layers.append(
        (
            LAYER_LAYERS,
            json.dumps(
                [r.model_dump(exclude_none=True) for r in draft.layers], separators=(",", ":")
            ).encode(),
        )
    )
    if draft.acceptance is not None:
        layers.append((LAYER_ACCEPTANCE, draft.acceptance.model_dump_json().encode()))
    # a folder of their own: a file may be called "model", too
    materials = {"model": identity.source, **{f"weights/{n}": d for n, d in identity.weights.items()}}
    if identity.table is not None and draft.precision == "int8":
        layers.append((LAYER_CALIBRATION, identity.table.to_json()))
        materials["calibration"] = identity.table.data_digest
    converted: dict[str, object] = {}
    if identity.conversion is not None:
        materials["source"] = identity.conversion.digest
        converted = {"conversion": identity.conversion.parameters()}
    parameters = {
        **identity.parameters,
        **converted,
        "profile": draft.profile,
        "recipe": draft.recipe.model_dump(exclude_none=True),
    }
    layers.append((LAYER_PROVENANCE, provenance({draft.variant: engine_digest}, parameters, materials)))
    layers.append((LAYER_SBOM, sbom(identity.name, identity.version, engine_digest, identity.licence)))
    return VariantContent(config, (*layers, *extra))


def _packed(model: bytes) -> bytes | None:
    """The engine in the form of the weight-sharing codec; None if that saves less than a tenth."""
    small = pack(model, weight_regions(onnx.load_from_string(model)))
    return small if len(small) <= _WORTH_PACKING * len(model) else None


def _golden(
    identity: Identity, draft: VariantDraft
) -> tuple[list[Feeds], list[Outputs], dict[str, Tolerance]]:
    """Golden inputs, the outputs of this graph on them, and the tolerance of each output."""
    count = min(GOLDEN_SAMPLES, len(identity.samples))
    plain = [
        identity.samples[round(i * (len(identity.samples) - 1) / max(1, count - 1))].feeds
        for i in range(count)
    ]
    inputs: list[Feeds] = list(plain)
    if draft.picture is not None:
        assert isinstance(identity.task.input, ImageInput)
        inputs = [pixel_feeds(feeds, identity.task.input) for feeds in plain]
    graph = draft.golden or draft.file or draft.model
    golden = _run(identity, graph, inputs)
    others = [_run(identity, graph, inputs, optimization="disabled")]
    if draft.runtime == "openvino":
        others.append(
            _run(identity, draft.model, inputs, runtime="openvino", hint=draft.session.precision_hint)
        )
    noise = [_noise(golden, other, _NOISE_FACTOR) for other in others]
    if draft.precision != "float32":
        share = _QUANTIZATION_SHARE[draft.runtime] if draft.golden is None else _IMPLICIT_SHARE
        noise.append(_noise(golden, _run(identity, identity.float_model, plain), share))
    tolerances = {}
    sizes = {
        n: max(float(np.abs(o[n].astype(np.float64)).max(initial=0.0)) for o in golden) for n in golden[0]
    }
    rounding = (
        rounding_of(identity.float_model, plain[0])
        if min(sizes.values()) <= NOUGHT and isinstance(identity.float_model, bytes)
        else {}
    )
    for name, largest in sizes.items():
        if not np.isfinite(largest):
            raise ModelError(
                f"output {name} of variant {draft.variant} is not finite on its golden samples",
                hint="leave that precision out (--precision), or give data on which the float model is finite",
            )
        max_abs = max(_FLOOR * max(largest, 1e-6), *(n[name][1] for n in noise))
        cosine = 1 - max(1e-4, *(n[name][0] for n in noise))
        # all of it is rounding, and another machine rounds in another direction
        if largest <= rounding.get(name, 0.0):
            max_abs, cosine = max(max_abs, largest + rounding[name]), 0.0
        tolerances[name] = Tolerance(cosine=round(max(0.0, cosine), 6), max_abs=float(f"{max_abs:.4g}"))
    return inputs, golden, tolerances


def _noise(golden: list[Outputs], other: list[Outputs], factor: float) -> dict[str, tuple[float, float]]:
    """Per output: (1 - cosine, largest absolute error), worst sample, times ``factor``."""
    worst = {}
    for name in golden[0]:
        errors = [
            measure(a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel())
            for a, b in zip(golden, other, strict=True)
        ]
        worst[name] = (factor * max(1 - e.cosine for e in errors), factor * max(e.max_abs for e in errors))
    return worst


def _run(
    identity: Identity,
    model: bytes | Path,
    inputs: Sequence[Feeds],
    *,
    optimization: str = "all",
    runtime: str = "onnxruntime",
    hint: str | None = None,
) -> list[Outputs]:
    pictures = [(n, a.shape, str(a.dtype)) for n, a in inputs[0].items()]  # pixels, or another size
    which = str(model) if isinstance(model, Path) else digest_of(model)
    key = json.dumps([which, pictures, optimization, runtime, hint])
    if key not in identity.answers:
        settings = SessionSettings.model_validate({"optimization": optimization, "precision_hint": hint})
        engine = open_model(model, settings, runtime=runtime)
        outputs = [engine.run(feeds) for feeds in inputs]
        engine.close()
        if sum(o.nbytes for each in outputs for o in each.values()) > _KEPT_BYTES:
            return outputs
        identity.answers[key] = outputs
    return identity.answers[key]
