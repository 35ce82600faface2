"""The graphs that a device compiles with TensorRT: checked numerically in ONNX Runtime here, measured
nowhere but there."""

from __future__ import annotations

import json
from dataclasses import replace

from onnx import ModelProto

from edgectl.builder.ingest.source_precision import unfit_for_tensorrt
from edgectl.builder.int8.calibrate import CalibrationTable
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.int8.quantize import symmetric_ranges
from edgectl.builder.judge.significance import affordable
from edgectl.builder.search.draft import VariantDraft
from edgectl.builder.search.work import (
    Work,
    basis_of,
    float_layers,
    limit_of,
    numerically_best,
    recipe_as_is,
    recipe_of,
)
from edgectl.core.bundle import LAYER_RANGES, Precision, SessionSettings
from edgectl.device_profiles.schema import DeviceProfile, TensorRtSpec
from edgectl.engines.open import open_model

__all__ = ["tensorrt_plans"]

_ON_DEVICE = "the TensorRT plan is compiled on the device itself; here its graph was checked numerically in ONNX Runtime"


def tensorrt_plans(work: Work, p: DeviceProfile) -> list[VariantDraft]:
    """The graphs that the device compiles: explicit Q/DQ where int8 holds the budget, float otherwise.

    TensorRT 10 and 11 take every precision from the graph, so float16 is written into it. TensorRT 8 knows no
    float16 scales and chooses float16 by itself. A profile that asks for DLA gets that first.
    """
    if why := unfit_for_tensorrt(work.model):
        came = (
            ""
            if work.precision == "float32"
            else ", in the form that the model came in; build from the float model"
        )
        work.notes.append(f"{p.name}: no TensorRT variant: TensorRT does not take {why}{came}")
        return []
    work.notes.append(f"{p.name}: {_ON_DEVICE}")
    assert p.tensorrt is not None
    return [*(_dla(work, p) if p.tensorrt.dla_core is not None else ()), *_gpu(work, p, p.tensorrt)]


def _dla(work: Work, p: DeviceProfile) -> list[VariantDraft]:
    """Explicit Q/DQ for TensorRT 11, and float with the same ranges for the implicit quantization of 8.6
    to 10.7."""
    best = numerically_best(work, "trt-dla", p)
    if best is None:
        # a note says why; DLA is worth its detour in int8 only
        return []
    name, quantized, accuracy = best
    recipe = recipe_of(work, "trt-dla", name, quantized).model_copy(update={"plan": "on-device"})
    fits = (f"arch:{p.cpu.arch}", p.sm_requirement)
    explicit = VariantDraft(
        profile=p.name,
        variant="tensorrt-dla-int8",
        runtime="tensorrt",
        requires=(*fits, "trt:11"),
        model=quantized.model.SerializeToString(deterministic=True),
        recipe=recipe,
        precision="int8",
        session=SessionSettings(),
        layers=quantized.layers,
        accuracy=accuracy,
    )
    ranges = json.dumps(symmetric_ranges(quantized.model), separators=(",", ":"), sort_keys=True).encode()
    implicit = replace(
        explicit,
        variant="tensorrt-dla-int8-implicit",
        requires=(*fits, "trt:8|trt:10"),
        model=basis_of(work, "trt-dla", quantized).model.SerializeToString(deterministic=True),
        golden=explicit.model,
        parts=((LAYER_RANGES, ranges),),
    )
    float16 = _in_float16(work, p, explicit, quantized.model, basis_of(work, "trt-dla", quantized).table)
    return [
        replace(float16, variant="tensorrt-dla-int8-float16") if float16 is not None else explicit,
        implicit,
    ]


def _gpu(work: Work, p: DeviceProfile, tensorrt: TensorRtSpec) -> list[VariantDraft]:
    best = numerically_best(work, "trt-gpu", p)
    if best is None:
        graph, table, recipe = (
            work.model,
            work.table,
            recipe_as_is(work).model_copy(update={"plan": "on-device"}),
        )
        plain = VariantDraft(
            profile=p.name,
            variant=f"tensorrt-{work.precision}",
            runtime="tensorrt",
            requires=(),
            model=work.float_bytes,
            recipe=recipe,
            precision=work.precision,
            session=SessionSettings(),
            layers=float_layers(work, "trt-gpu"),
        )
    else:
        name, quantized, accuracy = best
        graph, table = quantized.model, basis_of(work, "trt-gpu", quantized).table
        recipe = recipe_of(work, "trt-gpu", name, quantized).model_copy(update={"plan": "on-device"})
        plain = VariantDraft(
            profile=p.name,
            variant="tensorrt-int8",
            runtime="tensorrt",
            requires=(),
            model=quantized.model.SerializeToString(deterministic=True),
            recipe=recipe,
            precision="int8",
            session=SessionSettings(),
            layers=quantized.layers,
            accuracy=accuracy,
        )
    fits = (f"arch:{p.cpu.arch}", p.sm_requirement)
    typed = [g for g in tensorrt.generations if g >= 10]
    float16 = _in_float16(work, p, plain, graph, table) if typed else None
    if float16 is None:
        return [replace(plain, requires=fits)]
    plans = [replace(float16, requires=(*fits, "|".join(f"trt:{g}" for g in typed)))]
    if 8 in tensorrt.generations:
        plans.append(replace(plain, requires=(*fits, "trt:8")))
    return plans


def _in_float16(
    work: Work, p: DeviceProfile, plain: VariantDraft, graph: ModelProto, table: CalibrationTable | None
) -> VariantDraft | None:
    """The same with what is left in float computing in float16; None if that loses too much, or was never
    calibrated."""
    if table is None:
        return None
    model, chosen = to_float16(graph, {t: max(-r.low, r.high) for t, r in table.ranges.items()})
    data = model.SerializeToString(deterministic=True)
    work.tell("confirm", 0.15, f"{plain.variant}: float16", "")
    engine = open_model(data, SessionSettings(optimization="disabled", threads=min(2, work.machine.cores)))
    try:
        accuracy = work.judge("confirmation").judge(engine, limit=limit_of(work))
    finally:
        engine.close()
    if not affordable(accuracy, limit_of(work)):
        work.notes.append(f"{p.name}: float16 loses {accuracy.drop:.4f}: what is not int8 stays float32")
        return None
    layers = [
        layer.model_copy(update={"precision": "float16"})
        if layer.precision == "float32" and layer.node in chosen
        else layer
        for layer in plain.layers
    ]
    precision: Precision = "float16" if plain.precision == "float32" else plain.precision
    recipe = plain.recipe.model_copy(
        update={"passes": (*plain.recipe.passes, "float16"), "precision": precision}
    )
    return replace(
        plain,
        variant=f"tensorrt-{precision}" + ("-float16" if precision == "int8" else ""),
        model=data,
        recipe=recipe,
        precision=precision,
        layers=tuple(layers),
        accuracy=accuracy,
    )
