"""Start from the release that this model fine-tunes: int8 codes move only as far as the weights did, so that
the update is small.

Reconstruction chooses codes that make up for each other's errors; when the weights move a little, it chooses
anew everywhere. Here an engine of the release before is written again: its scales, and the weights that its
codes stand for plus what moved between the two float models, rounded with error feedback. Where nothing moved
much, that is the old code. Layers are paired by name, kind and shape; one without a partner is reconstructed.

What comes out is one more candidate, judged and measured like every other. Left out: engines that were
equalised or have cheaper activations (their weights are not those of the float engine beside them), products
without Q/DQ pairs (plain rounding, which is near already), pictures of another size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8 import lint
from edgectl.builder.int8.activations import has_hard_swish
from edgectl.builder.int8.basis import RECONSTRUCT_SAMPLES, judge_graph, spread
from edgectl.builder.int8.calibrate import RANGE_KINDS, CalibrationTable
from edgectl.builder.int8.escalate import FamilyGraphs
from edgectl.builder.int8.families import Family
from edgectl.builder.int8.placement import weight_axis, weighted_nodes
from edgectl.builder.int8.quantize import Quantized, quantize
from edgectl.builder.int8.reconstruct import reconstruct
from edgectl.builder.judge.accuracy import Judge
from edgectl.builder.judge.significance import affordable
from edgectl.core.bundle import LAYER_ENGINE, LAYER_WEIGHTS, Bundle, Recipe, Variant
from edgectl.core.errors import BundleError, EngineError, IntegrityError, ModelError, UsageError
from edgectl.engines.base import Feeds

__all__ = [
    "PREFIX",
    "ConstantReader",
    "PreviousEngine",
    "PreviousRelease",
    "carry_over",
    "read_previous_release",
    "with_carried_over",
]

PREFIX = "follow-"
"""Of the names of candidates."""
# of the old range: what a tensor may exceed it by and still keep its scale
_SATURATE = 0.05
# of the old range: what a tensor must fill to keep its scale
_WASTE = 0.75
# of the weights: with fewer the update is hardly smaller
_PAIRED = 0.5
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PreviousEngine:
    """One int8 engine of the release before."""

    recipe: Recipe
    engine: GraphIndex = field(repr=False)

    @property
    def name(self) -> str:
        """``full``, ``no-head`` …"""
        made = (p.removeprefix("quantize:") for p in self.recipe.passes if p.startswith("quantize:"))
        return next(made, "")


@dataclass(frozen=True)
class PreviousRelease:
    """What a bundle says that is to be continued from."""

    name: str
    """NAME@VERSION."""
    model: GraphIndex | None = field(repr=False)
    """The float model that its engines were written from; None if it carries none."""
    formers: tuple[PreviousEngine, ...]
    engines: Mapping[tuple[str, str], bytes] = field(repr=False)
    """(profile, variant) → the ONNX file, of those that do not travel packed: what ``edgectl release
    publish`` makes differences to."""


def read_previous_release(root: Path) -> PreviousRelease:
    """Read a bundle, every blob checked against its digest. Raises :class:`UsageError` if ``root`` is no
    bundle,
    :class:`IntegrityError` if one of its files is damaged."""
    try:
        bundle = Bundle(root)
        bundle.verify()
        if any(v.layer(LAYER_WEIGHTS) is not None for v in bundle.variants):
            raise UsageError(
                "--follow: the bundle is of a large model, whose codes are not carried over",
                hint="leave --follow out",
            )
        models = [
            (v, onnx.load_from_string(_engine(v)))
            for v in bundle.variants
            if "small-input" not in v.config.preferences
        ]
    except IntegrityError:
        raise
    except BundleError as e:
        raise UsageError(
            f"--follow: {e.message}", hint="give the folder of a bundle that `edgectl build` made"
        ) from e
    except DecodeError as e:
        raise UsageError(
            f"--follow: {root} has an engine that is no ONNX file", hint="give another bundle"
        ) from e
    floats = (
        m for v, m in models if v.config.recipe.family == "float" and v.config.recipe.precision == "float32"
    )
    model = next(floats, None)
    formers = {
        (f.recipe.family, f.name): f
        for f in (PreviousEngine(v.config.recipe, GraphIndex(m)) for v, m in reversed(models))
        if f.name
    }
    return PreviousRelease(
        f"{bundle.name}@{bundle.version}",
        None if model is None else GraphIndex(model),
        tuple(reversed(formers.values())),
        {
            (v.config.profile, v.config.variant): _engine(v)
            for v in bundle.variants
            if v.config.unpacked is None
        },
    )


def _engine(v: Variant) -> bytes:
    return v.unpack() if v.config.unpacked is not None else v.need(LAYER_ENGINE).read_bytes()


def with_carried_over(
    graphs: FamilyGraphs,
    release: PreviousRelease,
    model: ModelProto,
    table: CalibrationTable,
    families: Collection[Family],
    samples: Sequence[Feeds],
    judge: Judge,
    *,
    max_drop: float,
    tell: Callable[[str], None],
    kept: Collection[str] = (),
) -> FamilyGraphs:
    """``graphs`` and one more graph for each engine of one of ``families`` that the release has, where it
    holds ``max_drop`` on the judge's slice. Notes say what came of it. ``kept``: nodes that stay float."""
    recipes, judged, notes = dict(graphs.recipes), dict(graphs.judged), list(graphs.notes)
    known = {f.name: f for f in families}
    formers = [f for f in release.formers if f.recipe.family in known]
    if release.model is None:
        notes.append(
            f"{release.name} carries no float engine, so what moved is not known: nothing follows it (a CPU profile brings one)"
        )
        formers = []
    elif not formers:
        notes.append(f"{release.name} has no int8 engine of this family: nothing follows it")
    for former in formers:
        name, family = f"{PREFIX}{former.name}", known[former.recipe.family]
        tell(name)
        try:
            few = spread(samples, RECONSTRUCT_SAMPLES)
            q = _carried_over(former, release, model, table, family, few, kept)
            judged[name] = judge_graph(q.model, judge, max_drop, f"the {family.name} graph ({name})")
        except (ModelError, EngineError) as e:
            notes.append(f"{former.name} of {release.name} cannot be carried over: {e.message}")
            continue
        if affordable(judged[name], max_drop):
            recipes[name] = q
        else:
            notes.append(
                f"{name} loses {judged[name].drop:.4f}, more than {max_drop:g}: the build goes on without it"
            )
    return replace(graphs, recipes=recipes, judged=judged, notes=tuple(notes))


def _carried_over(
    former: PreviousEngine,
    release: PreviousRelease,
    model: ModelProto,
    table: CalibrationTable,
    family: Family,
    samples: Sequence[Feeds],
    kept: Collection[str],
) -> Quantized:
    assert release.model is not None
    kind = next((k for k in RANGE_KINDS if k == former.recipe.method), None)
    if kind is None:
        raise ModelError(f"its ranges are of a kind that is not known here ({former.recipe.method})")
    if "equalise" in former.recipe.passes:
        raise ModelError("it was equalised, and the float engine beside it was not")
    if any(has_hard_swish(p) for p in former.recipe.passes):
        raise ModelError(
            "its activations were made cheaper, and those of the float engine beside it were not"
        )
    plain = quantize(
        model,
        table,
        family,
        exclude=former.recipe.excluded,
        kept=kept,
        chains=former.name != "conv-only",
        ranges=kind,
    )
    q, moved = carry_over(plain, model, former.engine, release.model)
    share = _share(q, model, moved)
    if share < _PAIRED:
        raise ModelError(
            f"{share:.0%} of the weights have a partner there by name and shape, {_PAIRED:.0%} are needed"
        )
    q = reconstruct(q, model, family, samples, towards=moved)
    lint.check(q.model, family)
    return q


def carry_over(
    plain: Quantized, model: ModelProto, engine: GraphIndex, before: GraphIndex
) -> tuple[Quantized, dict[str, Array]]:
    """``plain``, written from ``model``, with the ranges of ``engine`` and its codes, moved by what moved
    since ``before``, the float model of ``engine``. Also, by node name, the weights that were rounded to
    these codes: what :func:`reconstruct` does better.

    A range is kept if the new one exceeds it by at most 5 % of its width and fills three quarters of it. The
    scale of an output channel grows if a weight would no longer fit.
    """
    changed = ModelProto()
    changed.CopyFrom(plain.model)
    now, written = GraphIndex(model), ConstantReader(GraphIndex(changed))
    old, was = ConstantReader(engine), ConstantReader(before)
    _keep_ranges(plain, now, written, old)
    moved: dict[str, Array] = {}
    for n in weighted_nodes(now):
        if n.name not in plain.placement.nodes:
            continue
        weight = np.asarray(now.weights(n.input[1]), np.float64)
        partner = _partner(n, weight, old, was)
        if partner is not None:
            moved[n.name] = partner.codes * partner.scale + (weight - partner.weight)
            _move_weight(n, moved[n.name], partner.scale, written, plain.family.weight_max)
        _rescale_bias(n, now, written)
    layers = tuple(
        r if r.scale is None else r.model_copy(update=written.report(r.node)) for r in plain.layers
    )
    return replace(plain, model=changed, layers=layers, carried_over=True), moved


def _share(q: Quantized, model: ModelProto, moved: Mapping[str, Array]) -> float:
    """Of the quantized weights, those that had a partner."""
    index = GraphIndex(model)
    sizes = {
        n.name: math.prod(index.shape(n.input[1]) or ())
        for n in weighted_nodes(index)
        if n.name in q.placement.nodes
    }
    return sum(sizes[name] for name in moved) / max(1, sum(sizes.values()))


class ConstantReader:
    """What a graph has at an input of a node, by the node's name: the one name that engines keep."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index
        self.nodes = {n.name: n for n in index.nodes if n.name}

    def pair(self, node: str, i: int) -> NodeProto | None:
        """The DequantizeLinear that an input is read through."""
        found = self.nodes.get(node)
        return None if found is None or len(found.input) <= i else self.dequantizer(found.input[i])

    def dequantizer(self, tensor: str) -> NodeProto | None:
        maker = self.index.producer.get(tensor)
        return (
            maker
            if maker is not None and maker.op_type == "DequantizeLinear" and len(maker.input) == 3
            else None
        )

    def codes(self, node: str, i: int) -> tuple[Array, Array] | None:
        """Codes and scale of a quantized constant."""
        dq = self.pair(node, i)
        found = None if dq is None else (self._number(dq.input[0]), self._number(dq.input[1]))
        return None if found is None or found[0] is None or found[1] is None else (found[0], found[1])

    def tensor(self, like: NodeProto, i: int) -> NDArray[np.generic] | None:
        """The constant, as it is stored, at an input of the node that has the name and kind of ``like``."""
        found = self.nodes.get(like.name)
        if found is None or found.op_type != like.op_type or len(found.input) <= i:
            return None
        return self.index.weights(found.input[i])

    def constant(self, node: str, i: int) -> Array | None:
        """The value of a constant that is stored as float."""
        found = self.nodes.get(node)
        return None if found is None or len(found.input) <= i else self._number(found.input[i])

    def range_of(self, dq: NodeProto | None) -> tuple[float, int] | None:
        """Scale and zero point of an activation."""
        found = None if dq is None else (self._number(dq.input[1]), self._number(dq.input[2]))
        if found is None or found[0] is None or found[1] is None or found[0].ndim:
            return None
        return float(found[0]), int(found[1])

    def report(self, node: str) -> dict[str, float | int]:
        """Scale and zero point that a layer's report names."""
        found = self.range_of(self.pair(node, 0))
        return {} if found is None else {"scale": found[0], "zero_point": found[1]}

    def store(self, name: str, value: NDArray[Any]) -> None:
        self.index.initializers[name].CopyFrom(numpy_helper.from_array(value, name))

    def _number(self, name: str) -> Array | None:
        value = self.index.weights(name)
        return None if value is None else np.asarray(value, np.float64)


@dataclass(frozen=True)
class _Partner:
    """The same layer in the release before: its codes, their scales as a factor, and the float weight that
    they were chosen for."""

    codes: Array
    scale: Array
    weight: Array


def _partner(n: NodeProto, weight: Array, old: ConstantReader, was: ConstantReader) -> _Partner | None:
    """None if the engine or its float model has no such node with a weight of the same shape, or the
    engine keeps it float."""
    found, before = old.codes(n.name, 1), was.constant(n.name, 1)
    if (
        found is None
        or before is None
        or {old.nodes[n.name].op_type, was.nodes[n.name].op_type} != {n.op_type}
    ):
        return None
    codes, scale = found
    axis = weight_axis(n)
    if not codes.shape == before.shape == weight.shape or scale.shape != (weight.shape[axis],):
        return None
    along = [1] * codes.ndim
    along[axis] = -1
    return _Partner(codes, scale.reshape(along), before) if weight_axis(was.nodes[n.name]) == axis else None


def _keep_ranges(plain: Quantized, now: GraphIndex, written: ConstantReader, old: ConstantReader) -> None:
    """Give activations the scales that they had, where the new ranges fit; tensors that share a scale keep
    it together or not at all."""
    groups: dict[str, list[str]] = {}
    for t in plain.placement.tensors:
        groups.setdefault(plain.placement.root.get(t, t), []).append(t)
    for tensors in groups.values():
        found = {_former_range(t, now, old) for t in tensors}
        former = found.pop()
        scale, zero = (
            np.asarray(written.index.weights(f"{tensors[0]}_{what}")) for what in ("scale", "zero")
        )
        if former is None or found or not _fits((float(scale), int(zero)), former, np.iinfo(zero.dtype)):
            continue
        for t in tensors:
            written.store(f"{t}_scale", np.asarray(former[0], scale.dtype))
            written.store(f"{t}_zero", np.asarray(former[1], zero.dtype))


def _former_range(tensor: str, now: GraphIndex, old: ConstantReader) -> tuple[float, int] | None:
    readers = (old.pair(n.name, i) for n, i in now.readers[tensor])
    ranges = (old.range_of(dq) for dq in (*readers, old.dequantizer(tensor)))
    return next((r for r in ranges if r is not None), None)


def _fits(new: tuple[float, int], former: tuple[float, int], codes: np.iinfo[Any]) -> bool:
    """Both: scale and zero point."""
    if not codes.min <= former[1] <= codes.max:
        return False
    (low, high), (least, most) = (
        ((codes.min - zero) * scale, (codes.max - zero) * scale) for scale, zero in (new, former)
    )
    width = most - least
    return max(least - low, high - most) <= _SATURATE * width and high - low >= _WASTE * width


def _move_weight(n: NodeProto, weight: Array, scale: Array, written: ConstantReader, weight_max: int) -> None:
    dq = written.pair(n.name, 1)
    assert dq is not None
    others = tuple(i for i in range(weight.ndim) if i != weight_axis(n) % weight.ndim)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > (weight_max + 1) * scale, largest / weight_max, scale)
    codes = np.clip(np.rint(weight / scale), -weight_max, weight_max)
    written.store(dq.input[0], codes.astype(np.int8))
    written.store(dq.input[1], scale.reshape(-1).astype(np.float32))


def _rescale_bias(n: NodeProto, now: GraphIndex, written: ConstantReader) -> None:
    """The scale of a quantized bias is that of the input times that of the weight."""
    dq = written.pair(n.name, 2)
    if dq is None:
        return
    x, w = written.range_of(written.pair(n.name, 0)), written.codes(n.name, 1)
    assert x is not None
    assert w is not None
    scale = (x[0] * w[1]).astype(np.float32)
    codes = np.rint(np.asarray(now.weights(n.input[2]), np.float64) / scale)
    written.store(dq.input[1], scale)
    written.store(dq.input[0], np.clip(codes, -(2**31), 2**31 - 1).astype(np.int32))
