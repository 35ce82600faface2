"""The graphs that a device compiles with TensorRT: checked numerically in ONNX Runtime here, measured
nowhere but there."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from onnx import ModelProto, TensorProto

from edgectl.builder.graph import QDQ_PAIR, GraphIndex, all_nodes, is_quantized
from edgectl.builder.int8.calibrate import CalibrationTable
from edgectl.builder.int8.float16 import to_float16
from edgectl.builder.int8.model import QuantizedModel
from edgectl.builder.int8.quantize import symmetric_ranges
from edgectl.builder.judge.significance import affordable
from edgectl.builder.variants.acceptance import accepted
from edgectl.builder.variants.draft import VariantDraft, float_layers, recipe_as_received, recipe_of
from edgectl.builder.variants.numeric_check import CheckedGraph, best_checked, simulation
from edgectl.builder.variants.restriction import UNRESTRICTED, Restriction
from edgectl.builder.variants.rtx import rtx_drafts
from edgectl.builder.variants.trial import Trial
from edgectl.core.bundle import LAYER_RANGES, Precision, SessionSettings
from edgectl.core.errors import EngineError, ModelError
from edgectl.device_profiles.schema import DeviceProfile, TensorRtSpec
from edgectl.engines.finalise.open import open_model

__all__ = ["tensorrt_drafts", "tensorrt_families", "unfit_for_tensorrt"]

_ON_DEVICE = "the TensorRT plan is compiled on the device itself; here its graph was checked numerically in ONNX Runtime"


def tensorrt_families(
    p: DeviceProfile, graph: ModelProto, restriction: Restriction = UNRESTRICTED
) -> tuple[str, ...]:
    """The kernel families that :func:`tensorrt_drafts` takes its graphs from."""
    if not restriction.allows("int8") or not _wanted(p, restriction) or unfit_for_tensorrt(graph):
        return ()
    assert p.tensorrt is not None
    return ("trt-gpu",) if p.tensorrt.dla_core is None else ("trt-dla", "trt-gpu")


def tensorrt_drafts(
    model: QuantizedModel, trial: Trial, p: DeviceProfile, *, with_float: bool = False
) -> list[VariantDraft]:
    """The graphs that the device compiles: explicit Q/DQ where int8 holds the budget, float otherwise; ``with_float``:
    float beside int8, which a device that measures compares it with.

    TensorRT 10 and 11 take every precision from the graph, so float16 is written into it. TensorRT 8 knows no
    float16 scales and chooses float16 by itself. A profile that asks for DLA gets that first.
    """
    restriction = trial.restriction
    if not _wanted(p, restriction):
        return []
    if why := unfit_for_tensorrt(model.source.graph):
        came = (
            ""
            if model.source.precision == "float32"
            else ", in the form that the model came in; build from the float model"
        )
        trial.monitor.note(f"{p.name}: no TensorRT variant: TensorRT does not take {why}{came}")
        return []
    trial.monitor.note(f"{p.name}: {_ON_DEVICE}")
    assert p.tensorrt is not None
    for_dla = _dla(model, trial, p) if p.tensorrt.dla_core is not None else []
    for_dla = [a for d in for_dla if (a := accepted(d, trial.monitor)) is not None]
    best = best_checked(model, trial, "trt-gpu", p)
    for_gpu = _gpu(model, trial, p, p.tensorrt, best)
    beside = _gpu(model, trial, p, p.tensorrt, None) if with_float and best is not None else []
    ahead = bool(for_gpu) and restriction.runs_in("tensorrt-rtx")
    return [
        *(for_dla if restriction.runs_in("tensorrt") else []),
        *((*for_gpu, *beside) if restriction.runs_in("tensorrt") else []),
        *(rtx_drafts(for_gpu[0], p, trial.monitor) if ahead else []),
    ]


def _wanted(p: DeviceProfile, restriction: Restriction) -> bool:
    """Whether a graph for NVIDIA's compilers is to be written."""
    there = [r for r in p.runtimes if r in ("tensorrt", "tensorrt-rtx")]
    return "tensorrt" in there and p.tensorrt is not None and any(map(restriction.runs_in, there))


def unfit_for_tensorrt(model: ModelProto) -> str:
    """What TensorRT does not take of a model, with the node or output; empty if there is nothing to say
    before it is compiled.

    TensorRT reads Q/DQ pairs of int8 codes with zero point 0, and no integer operators.
    """
    index = GraphIndex(model)
    for o in model.graph.output:
        if not index.is_tensor(o.name) or o.type.tensor_type.elem_type == TensorProto.STRING:
            return f"the output {o.name}, which is no tensor of numbers"
    for n in all_nodes(model.graph):
        if n.op_type not in QDQ_PAIR and is_quantized(n):
            return f"{n.op_type} (node {n.name})"
        if n.op_type not in QDQ_PAIR:
            continue
        zero = index.weights(n.input[2]) if len(n.input) > 2 and n.input[2] else None
        made = index.weights(n.input[0])
        if zero is None and (made is None or made.dtype != np.int8):
            if n.op_type == "QuantizeLinear":
                return f"codes of uint8 (node {n.name})"
        elif zero is not None and (zero.dtype not in (np.int8, np.int32) or np.any(zero)):
            return f"codes of {zero.dtype} with zero point {int(np.asarray(zero).ravel()[0])} (node {n.name})"
    return ""


def _dla(model: QuantizedModel, trial: Trial, p: DeviceProfile) -> list[VariantDraft]:
    """Explicit Q/DQ for TensorRT 11, and float with the same ranges for the implicit quantization of 8.6
    to 10.7."""
    best = best_checked(model, trial, "trt-dla", p)
    if best is None:
        # a note says why; DLA is worth its detour in int8 only
        return []
    basis = model.basis_of("trt-dla", best.name, best.quantized)
    recipe = recipe_of(model, "trt-dla", best.name, best.quantized).model_copy(update={"plan": "on-device"})
    fits = (f"arch:{p.cpu.arch}", p.sm_requirement)
    explicit = VariantDraft(
        profile=p.name,
        variant="tensorrt-dla-int8",
        runtime="tensorrt",
        requires=(*fits, "trt:11"),
        model=best.quantized.model.SerializeToString(deterministic=True),
        recipe=recipe,
        precision="int8",
        session=SessionSettings(),
        layers=best.quantized.layers,
        accuracy=best.accuracy,
    )
    ranges = json.dumps(
        symmetric_ranges(best.quantized.model), separators=(",", ":"), sort_keys=True
    ).encode()
    implicit = replace(
        explicit,
        variant="tensorrt-dla-int8-implicit",
        requires=(*fits, "trt:8|trt:10"),
        model=basis.model.SerializeToString(deterministic=True),
        golden=explicit.model,
        engine_layers=((LAYER_RANGES, ranges),),
    )
    mixed = (
        _with_float16(model, trial, explicit, best.quantized.model, basis.table)
        if trial.restriction.allows("float16")
        else None
    )
    return [replace(mixed, variant="tensorrt-dla-int8-float16") if mixed is not None else explicit, implicit]


def _gpu(
    model: QuantizedModel,
    trial: Trial,
    p: DeviceProfile,
    tensorrt: TensorRtSpec,
    best: CheckedGraph | None,
) -> list[VariantDraft]:
    restriction = trial.restriction
    if best is None:
        graph, table = model.source.graph, model.table
        plain = VariantDraft(
            profile=p.name,
            variant=f"tensorrt-{model.source.precision}",
            runtime="tensorrt",
            requires=(),
            model=model.source.onnx_bytes,
            recipe=recipe_as_received(model).model_copy(update={"plan": "on-device"}),
            precision=model.source.precision,
            session=SessionSettings(),
            layers=float_layers(model, "trt-gpu"),
        )
    else:
        graph, table = best.quantized.model, model.basis_of("trt-gpu", best.name, best.quantized).table
        recipe = recipe_of(model, "trt-gpu", best.name, best.quantized)
        plain = VariantDraft(
            profile=p.name,
            variant="tensorrt-int8",
            runtime="tensorrt",
            requires=(),
            model=graph.SerializeToString(deterministic=True),
            recipe=recipe.model_copy(update={"plan": "on-device"}),
            precision="int8",
            session=SessionSettings(),
            layers=best.quantized.layers,
            accuracy=best.accuracy,
        )
    fits: tuple[str, ...] = (f"arch:{p.cpu.arch}", p.sm_requirement)
    typed = [g for g in tensorrt.generations if g >= 10]
    mixed = (
        _with_float16(model, trial, plain, graph, table) if typed and restriction.allows("float16") else None
    )
    if mixed is not None:
        mixed = accepted(mixed, trial.monitor)
    if mixed is None and plain.precision == "float32" and not restriction.allows("float32"):
        if 8 not in tensorrt.generations or not restriction.allows("float16"):
            trial.monitor.note(f"{p.name}: no TensorRT variant: float32 was not asked for")
            return []
        # it makes float16 of a float32 graph by itself
        fits = (*fits, "trt:8")
    if mixed is not None and 8 not in tensorrt.generations:
        return [replace(mixed, requires=(*fits, "|".join(f"trt:{g}" for g in typed)))]
    checked = accepted(plain, trial.monitor, again=mixed is not None)
    if mixed is None:
        return [] if checked is None else [replace(checked, requires=fits)]
    drafts = [replace(mixed, requires=(*fits, "|".join(f"trt:{g}" for g in typed)))]
    return drafts if checked is None else [*drafts, replace(checked, requires=(*fits, "trt:8"))]


def _with_float16(
    model: QuantizedModel,
    trial: Trial,
    plain: VariantDraft,
    graph: ModelProto,
    table: CalibrationTable | None,
) -> VariantDraft | None:
    """The same with what is left in float computing in float16; None, with a note, if that loses too much or
    cannot be written. None if it was never calibrated."""
    if table is None:
        return None
    trial.monitor.tell("confirm", 0.15, f"{plain.variant}: float16")
    try:
        mixed, chosen = to_float16(graph, {t: max(-r.low, r.high) for t, r in table.ranges.items()})
        data = mixed.SerializeToString(deterministic=True)
        engine = open_model(data, simulation(trial))
    except (ModelError, EngineError) as e:
        trial.monitor.note(
            f"{plain.profile}: float16 cannot be written into the graph: {e.message}: what is not int8 stays float32"
        )
        return None
    try:
        accuracy = trial.judges.confirmation.judge(engine, limit=model.limit)
    finally:
        engine.close()
    if not affordable(accuracy, model.limit):
        trial.monitor.note(
            f"{plain.profile}: float16 loses {accuracy.drop:.4f}: what is not int8 stays float32"
        )
        return None
    layers = [
        layer.model_copy(update={"precision": "float16"})
        if layer.precision == "float32" and layer.node in chosen
        else layer
        for layer in plain.layers
    ]
    precision: Precision = "float16" if plain.precision == "float32" else plain.precision
    passes = (*plain.recipe.passes, "float16")
    return replace(
        plain,
        variant=f"tensorrt-{precision}" + ("-float16" if precision == "int8" else ""),
        model=data,
        recipe=plain.recipe.model_copy(update={"passes": passes, "precision": precision}),
        precision=precision,
        layers=tuple(layers),
        accuracy=accuracy,
    )
