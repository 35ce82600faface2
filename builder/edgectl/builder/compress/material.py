"""What a student sees: inputs drawn at random, changed on the way, with the teacher's answers to them.

Asking the teacher costs as much as the student's whole step, or more. So a picture with its answer stays in a pool
and is drawn about ``_ECHOES`` times among others before a new one takes its place (Choi et al., *Faster Neural
Network Training with Data Echoing*, 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from edgectl.engines.base import Feeds

__all__ = ["Material", "Pool", "batched"]

_BATCH = 16
# values of inputs, of which a batch holds no more, unless four take more: memory, and steps a minute
_BATCH_VALUES = 1 << 22
# times that an input is drawn before a new one takes its place
_ECHOES = 4
# batches in the pool, and the bytes of inputs and answers that it holds at most, unless two batches take more
_POOL_BATCHES = 16
_POOL_BYTES = 256 << 20
# how often one of the samples is drawn where there are further inputs: they are what the device will see
_OWN = 0.3
# how many inputs are changed at all where there are few (beyond, as many fewer as there are more), and how many of
# those are mixed
_CHANGED = 0.5
_FEW = 256
_MIXED = 0.5
_NOISE = 0.01  # of the spread of the values
# edge from which a tensor of four axes is a picture whose content may move
_PICTURE = 64
_MOVE = 0.15  # of its edge, at most half of it each way

Batch = dict[str, Tensor]


def batched(samples: Sequence[Feeds]) -> Batch:
    """One batch of them. Pictures in the memory layout that torch convolves fastest."""
    joined = {n: torch.from_numpy(np.concatenate([s[n] for s in samples])) for n in samples[0]}
    return {n: _laid_out(x) for n, x in joined.items()}


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


class Material:
    """Inputs to train on: ``samples`` and ``more``, which may be on disk and is read when a batch needs it."""

    def __init__(self, samples: Sequence[Feeds], more: Sequence[Feeds]) -> None:
        self._samples, self._more = samples, more

    def __len__(self) -> int:
        return len(self._samples) + len(self._more)

    def spread(self, count: int) -> list[Feeds]:
        """At most ``count`` of all, spread evenly."""
        own = len(self._samples)
        picked = range(0, len(self), max(1, -(-len(self) // count)))
        return [self._samples[i] if i < own else self._more[i - own] for i in picked]

    @property
    def values(self) -> int:
        """Of one input, all its tensors together."""
        return sum(v.size for v in self._samples[0].values())

    def one(self, random: torch.Generator) -> Feeds:
        """One at random: a sample by ``_OWN``, or by their even share if that is larger."""
        own = len(self._samples) / len(self)
        of = self._samples if float(torch.rand((), generator=random)) < max(_OWN, own) else self._more
        return of[int(torch.randint(len(of), (), generator=random))]

    def drawn(self, count: int, random: torch.Generator) -> Batch:
        """A batch of ``count`` at random: some as they are, the others changed, the fewer the more inputs there
        are."""
        changed = (torch.rand(count, generator=random) < _CHANGED * min(1.0, _FEW / len(self))).tolist()
        picked = []
        for change in changed:
            x = self.one(random)
            picked.append(
                _changed(self, x, random) if change else {n: torch.from_numpy(a) for n, a in x.items()}
            )
        return {n: _laid_out(torch.cat([p[n] for p in picked])) for n in picked[0]}


class Pool:
    """Changed inputs and what the teacher (``answer``) says to them. The same ``seed``: the same batches."""

    def __init__(self, material: Material, answer: Callable[[Batch], list[Tensor]], seed: int = 0) -> None:
        self._material, self._answer = material, answer
        self._random = torch.Generator().manual_seed(seed)
        self._size = max(_ECHOES, min(_BATCH, _BATCH_VALUES // material.values))
        self._capacity = 0
        self._inputs: Batch = {}
        self._answers: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._answers[0]) if self._answers else 0

    def batch(self) -> tuple[Batch, list[Tensor]]:
        """The next batch, and the answers. Before, the pool grows by a batch; once it is full, a share of one takes
        the place of what is in it."""
        if not self._capacity or len(self) < self._capacity:
            self._grow()
        else:
            self._renew()
        drawn = torch.randperm(len(self), generator=self._random)[: self._size]
        return {n: _laid_out(x[drawn]) for n, x in self._inputs.items()}, [a[drawn] for a in self._answers]

    def _grow(self) -> None:
        inputs, answers = self._fresh(self._size)
        if not self._capacity:
            taken = sum(x.nbytes for x in (*inputs.values(), *answers))
            self._capacity = self._size * max(2, min(_POOL_BATCHES, _POOL_BYTES // taken))
        self._inputs = {n: torch.cat([self._inputs[n], x]) if len(self) else x for n, x in inputs.items()}
        self._answers = (
            [torch.cat(a) for a in zip(self._answers, answers, strict=True)] if len(self) else answers
        )

    def _renew(self) -> None:
        inputs, answers = self._fresh(self._size // _ECHOES)
        replaced = torch.randperm(len(self), generator=self._random)[: self._size // _ECHOES]
        for n, x in inputs.items():
            self._inputs[n][replaced] = x
        for kept, a in zip(self._answers, answers, strict=True):
            kept[replaced] = a

    def _fresh(self, count: int) -> tuple[Batch, list[Tensor]]:
        inputs = self._material.drawn(count, self._random)
        return inputs, self._answer(inputs)


def _changed(material: Material, x: Feeds, random: torch.Generator) -> dict[str, Tensor]:
    """``x`` with a little noise, half of the time mixed with another input. Pictures also mirrored, moved and
    brightened or darkened, within the range of values they had."""
    share, gain, flip = torch.rand(3, generator=random).tolist()
    other = material.one(random) if share < _MIXED else x
    down, right = (_MOVE * (torch.rand(2, generator=random) - 0.5)).tolist()
    found = {}
    for name, array in x.items():
        own = torch.from_numpy(array)
        y = own.lerp(torch.from_numpy(other[name]), share / _MIXED) if other is not x else own
        if y.ndim == 4 and min(y.shape[2:]) >= _PICTURE:
            y = (y * (0.8 + 0.4 * gain)).clamp(float(own.min()), float(own.max()))
            y = y.roll((round(down * y.shape[2]), round(right * y.shape[3])), (2, 3))
            y = y.flip(3) if flip < 0.5 else y
        found[name] = y + torch.randn(y.shape, generator=random) * _NOISE * own.std(unbiased=False)
    return found
