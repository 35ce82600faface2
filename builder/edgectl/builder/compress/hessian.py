"""What removing a channel costs once the weights that are left make up for it: second-order importance,
without labels or training.

A layer's squared output error is a quadratic in its weights, whose Hessian is the covariance of its inputs.
So the cost of taking one channel out, and what the other weights must become, are known in closed form
(Hassibi & Stork, *Optimal Brain Surgeon*, 1993; by whole channels: Kurtic et al., *ZipLM*, 2023). Channels of
a group are taken out one after the other, the cheapest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.compress.coupling import Coupling
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.reconstruct import Layer, Walk, patched
from edgectl.engines.base import Feeds

__all__ = ["hessian_damage"]

Array = NDArray[np.float64]

_ROWS = 4  # patches per input of a layer
_MIN_ROWS = 2048
# the inverse is cubic: of larger layers only the diagonal of the covariance is used
_MAX_INPUTS = 2400
_RIDGE = 1e-3  # of the mean variance of an input


@dataclass
class _LayerStatistics:
    """``weight``: (outputs, inputs); ``inverse``: of the covariance of the inputs, or its diagonal alone;
    ``energy`` of the outputs."""

    weight: Array
    inverse: Array
    energy: float
    taps: int
    channels: NDArray[np.int64]

    def inputs_of(self, channels: Sequence[int]) -> NDArray[np.int64]:
        """(channels, inputs that belong to each)."""
        return np.stack([np.flatnonzero(np.repeat(self.channels == c, self.taps)) for c in channels])

    def costs(self, inputs: NDArray[np.int64]) -> Array:
        """Share of the output's energy that is lost with each of these sets of inputs."""
        part = self.weight[:, inputs]
        if self.inverse.ndim == 1:
            return np.asarray(
                np.einsum("oci,ci->c", np.square(part), 1 / self.inverse[inputs]) / self.energy, np.float64
            )
        block = np.linalg.inv(self.inverse[inputs[:, :, None], inputs[:, None, :]])
        return np.asarray(
            np.einsum("oci,cij,ocj->c", part, block, part, optimize=True) / self.energy, np.float64
        )

    def eliminate(self, inputs: NDArray[np.int64]) -> None:
        if self.inverse.ndim == 1:
            return
        step = np.linalg.solve(self.inverse[np.ix_(inputs, inputs)], self.inverse[inputs])
        self.weight -= self.weight[:, inputs] @ step
        self.inverse -= self.inverse[:, inputs] @ step


def hessian_damage(model: ModelProto, coupling: Coupling, samples: Sequence[Feeds]) -> dict[int, float]:
    """Channel → the share of its readers' output energy that is lost when it goes, after all those of its
    group that cost less."""
    readers = _readers(model, coupling, samples)
    damage: dict[int, float] = {}
    for group in coupling.groups:
        alive = [int(c) for c in group.channels]
        mine = [
            _LayerStatistics(r.weight.copy(), r.inverse.copy(), r.energy, r.taps, r.channels)
            for r in readers
            if np.isin(group.channels[:1], r.channels).any()
        ]
        where = [r.inputs_of(alive) for r in mine]
        worst, left = 0.0, np.arange(len(alive))
        while len(left):
            costs = sum((r.costs(w[left]) for r, w in zip(mine, where, strict=True)), np.zeros(len(left)))
            cheapest = int(costs.argmin())
            worst = max(worst, float(costs[cheapest]))
            damage[alive[left[cheapest]]] = worst
            for r, w in zip(mine, where, strict=True):
                r.eliminate(w[left[cheapest]])
            left = np.delete(left, cheapest)
    return damage


def _readers(model: ModelProto, coupling: Coupling, samples: Sequence[Feeds]) -> list[_LayerStatistics]:
    index = GraphIndex(model)
    order = {n.name: i for i, n in enumerate(index.nodes)}
    wanted = sorted(coupling.readers, key=lambda r: order[r.weight.node.name])
    wanted = [r for r in wanted if patched(r.weight.node, index)]
    walk = Walk(model, [r.weight.node.input[0] for r in wanted], samples)
    rng = np.random.default_rng(0)
    found = []
    for r in wanted:
        layer = Layer.read(index, r.weight.node)
        weight = np.array(layer.weight[0])
        rows = max(1, -(-max(_MIN_ROWS, _ROWS * weight.shape[1]) // len(samples)))
        patches = np.concatenate([layer.patches(x, x, rows, rng)[0][0] for x in walk.next()])
        patches = patches - patches.mean(0)
        large = weight.shape[1] > _MAX_INPUTS
        covariance = np.square(patches).mean(0) if large else patches.T @ patches / np.float32(len(patches))
        covariance = covariance.astype(np.float64)
        variance = covariance if large else covariance.diagonal()
        ridge = _RIDGE * float(variance.mean()) + 1e-12
        energy = (
            float((np.square(weight) @ covariance).sum() if large else ((weight @ covariance) * weight).sum())
            + 1e-30
        )
        inverse = (
            1 / (covariance + ridge) if large else np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        )
        found.append(
            _LayerStatistics(weight, inverse, energy, weight.shape[1] // len(r.channels), r.channels)
        )
    return found
