"""Structured pruning: whole channels go, so every runtime gets faster. At ONNX level, no training library.

:mod:`~edgectl.builder.compress.coupling` says which channels go together. What is asked for is a share of
  every group's channels;
the multiply-accumulates that this would save are saved where they cost least.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgectl.builder.compress.coupling import Coupling, remove
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.placement import weighted_nodes
from edgectl.core.bundle import SessionSettings
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave

__all__ = ["channel_step", "prune_channels"]

_STEPS = (1, 2, 4, 8, 16)
_TOLERANCE = 1.10  # latency per MAC against full vectors
_BASE, _FULL = 64, (80, 96)  # channels that fill vectors of up to 16

Array = NDArray[np.float64]


def prune_channels(
    model: ModelProto, coupling: Coupling, share: float, step: int, damage: Mapping[int, float]
) -> tuple[ModelProto, dict[str, NDArray[np.int64]], dict[str, str]]:
    """Remove the channels whose ``damage`` (channel → what its removal costs, in any unit) per saved MAC is
    least.

    As many MACs go as by removing ``share`` of every group; of each group at least half of that share's
    remainder stays, a multiple of ``step`` channels. Returns the graph, layer → which of its channels are
    left, and layer → why it stayed whole.
    """
    groups = [
        g.channels[np.argsort([damage.get(int(c), 0.0) for c in g.channels], kind="stable")]
        for g in coupling.groups
    ]
    costs = [np.asarray([damage.get(int(c), 0.0) for c in g], np.float64) for g in groups]
    kept = _choose(costs, _Work(model, coupling, groups), share, step)
    gone = {int(c) for g, k in zip(groups, kept, strict=True) for c in g[: len(g) - k]}
    dead = np.fromiter(gone, np.int64, len(gone))
    done, reasons = {}, dict(coupling.reasons)
    for name, channels in (*coupling.made.items(), *coupling.passed.items()):
        left = np.flatnonzero(~np.isin(channels, dead))
        if len(left) < len(channels):
            done[name] = left
        elif name not in reasons and name in coupling.made:
            reasons[name] = (
                f"its {len(channels)} channels cost more than others, or do not shrink by {share:g} in steps of {step}"
            )
    return remove(model, coupling, gone), done, reasons


def _uniform(size: int, share: float, step: int) -> int:
    return min(size, max(step, round(size * (1 - share) / step) * step))


def _choose(costs: Sequence[Array], work: _Work, share: float, step: int) -> NDArray[np.int64]:
    """How many channels each group keeps."""
    sizes = np.asarray([len(c) for c in costs], np.int64)
    target = work.macs(np.asarray([_uniform(n, share, step) for n in sizes.tolist()], np.int64))
    floor = np.asarray([_uniform(n, 1 - (1 - share) ** 2, step) for n in sizes.tolist()], np.int64)
    total = [np.concatenate([[0.0], np.cumsum(c)]) for c in costs]
    kept: NDArray[np.int64] = np.array(sizes)
    while (needed := work.macs(kept) - target) > 0:
        move = np.where(kept % step, kept % step, step)
        move = np.where(kept - move >= floor, move, 0)
        if not move.any():
            break
        price = np.asarray(
            [t[n - k + m] - t[n - k] for t, n, k, m in zip(total, sizes, kept, move, strict=True)]
        )
        # what is saved beyond the target is worth nothing
        saved = np.minimum(work.savings(kept, move), needed)
        cheapest = int(np.argmin(np.where(move > 0, price / np.maximum(saved, 1e-9), math.inf)))
        kept[cheapest] -= move[cheapest]
    return _given_back(kept, sizes, total, work, target, step)


def _given_back(
    kept: NDArray[np.int64],
    sizes: NDArray[np.int64],
    total: Sequence[Array],
    work: _Work,
    target: float,
    step: int,
) -> NDArray[np.int64]:
    """The last channels taken can save more than was needed: those whose loss costs most come back as long as the
    target is met."""
    while True:
        back = np.minimum(step, sizes - kept)
        fits = [
            i for i, b in enumerate(back) if b and work.macs(kept + b * (np.arange(len(kept)) == i)) <= target
        ]
        if not fits:
            return kept
        gone = sizes - kept
        dearest = max(fits, key=lambda i: float(total[i][gone[i]] - total[i][gone[i] - back[i]]))
        kept[dearest] += back[dearest]


class _Work:
    """Multiply-accumulates as a function of how many channels each group keeps."""

    def __init__(self, model: ModelProto, coupling: Coupling, groups: Sequence[NDArray[np.int64]]) -> None:
        index = GraphIndex(model)
        self._groups = groups
        reads = {r.weight.node.name: r.channels for r in coupling.readers}
        whole, into, out = [], [], []
        for n in weighted_nodes(index):
            known = index.shape(n.input[1])
            across = index.shape(n.input[0] if n.op_type == "ConvTranspose" else n.output[0])
            if known is None or across is None:
                continue
            whole.append(
                math.prod(known) * math.prod(across[2:] if n.op_type.startswith("Conv") else across[:-1])
            )
            into.append(self._shares(reads.get(n.name)))
            out.append(self._shares(coupling.made.get(n.name, coupling.passed.get(n.name))))
        self._whole = np.asarray(whole, np.float64)
        self._into, self._out = np.stack(into), np.stack(out)

    def _shares(self, channels: NDArray[np.int64] | None) -> Array:
        """Of one side of a layer: per group the share of one of its channels; last, the share that stays
        whatever happens."""
        if channels is None or not len(channels):
            return np.asarray([0.0] * len(self._groups) + [1.0])
        parts = [float(np.isin(channels, g).mean()) for g in self._groups]
        return np.asarray([p / len(g) for p, g in zip(parts, self._groups, strict=True)] + [1 - sum(parts)])

    def _sides(self, kept: NDArray[np.int64]) -> tuple[Array, Array]:
        known = np.append(kept, 1)
        return self._into @ known, self._out @ known

    def macs(self, kept: NDArray[np.int64]) -> float:
        into, out = self._sides(kept)
        return float(self._whole @ (into * out))

    def savings(self, kept: NDArray[np.int64], move: NDArray[np.int64]) -> Array:
        """What each group's move alone would save."""
        into, out = self._sides(kept)
        after = (into[:, None] - self._into[:, :-1] * move) * (out[:, None] - self._out[:, :-1] * move)
        return np.asarray(float(self._whole @ (into * out)) - self._whole @ after, np.float64)


def channel_step(*, seconds: float = 1.5, steps: Sequence[int] = _STEPS) -> int:
    """The smallest step at which this machine's convolutions lose nothing to half-full vectors, by
    micro-benchmark.

    A 3×3 convolution of 64 + step channels must cost per MAC at most a tenth more than one of 64 channels, or than
    the cheaper one of 80 and 96. The fastest block of calls of each counts: what else runs on the machine makes calls slower, never
    faster, and by a median a busy machine would take half-full vectors for full ones.
    """
    sizes = sorted({_BASE, *(_BASE + s for s in steps), *_FULL})
    engines = {c: open_model(_conv(c), SessionSettings()) for c in sizes}
    feeds = {c: {"x": np.zeros((1, c, 28, 28), np.float32)} for c in engines}
    times = interleave(
        {str(c): partial(e.run, feeds[c]) for c, e in engines.items()}, seconds=seconds, min_rounds=30
    )
    for e in engines.values():
        e.close()

    def per_mac(c: int) -> float:
        return float(times[str(c)].min() / times[str(_BASE)].min()) * (_BASE / c) ** 2

    full = max(1.0, min(per_mac(c) for c in _FULL))
    return next((s for s in steps if per_mac(_BASE + s) <= full * _TOLERANCE), steps[-1])


def _conv(channels: int) -> bytes:
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3)).astype(np.float32)
    shape = [1, channels, 28, 28]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
    )
    return bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
