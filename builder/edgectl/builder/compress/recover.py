"""Win back what compression cost, without labels: the float model teaches the compressed one on the calibration inputs.

Inputs are mixed and disturbed on the way, so that a hundred samples teach more than a hundred points; the last eighth of them is
never trained on and decides which weights are kept. Pruned weights stay zero.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from onnx import ModelProto

from edgectl.builder.compress.coupling import Coupling
from edgectl.builder.compress.torchgraph import TorchGraph, unsupported
from edgectl.builder.compress.weights import replace_weights
from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.engines.base import Feeds
from edgectl.engines.open import open_model

__all__ = ["recover", "taylor_damage", "trainable"]

_BATCH = 16
_BATCH_VALUES = 1 << 18  # large inputs come in smaller batches: more steps a minute teach more than smoother ones
_RATE = 2e-3
_CLOSE = 1e-3  # how far the torch module may be from ONNX Runtime, of the output's largest value


def trainable(model: ModelProto) -> str | None:
    """Why a graph cannot be trained here; None if it can."""
    if ops := unsupported(model):
        return f"the graph has operators that cannot be trained here: {', '.join(ops)}"
    index = GraphIndex(model)
    if any((index.shape(i) or (0,))[0] != 1 or not index.is_float(i) for i in index.inputs):
        return "its inputs are not float with a batch axis of 1"
    return None


def recover(
    student: ModelProto, teacher: ModelProto, samples: Sequence[Feeds], *, seconds: float, steps: int | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> tuple[ModelProto, float, float]:  # fmt: skip
    """Train ``student`` to answer like ``teacher`` for ``seconds``, or for ``steps`` if that is given (then the result is the same
    each time). ``progress(share, error)``.

    Returns the student, and its error against the teacher on held-back samples before and after (mean square, of the output's
    variance). Raises :class:`ModelError` for graphs that cannot be trained here.
    """
    for model in (student, teacher):
        if reason := trainable(model):
            raise ModelError(f"--recover cannot train this model: {reason}", hint="compress less, without --recover")
    torch.manual_seed(0)
    inputs = _batch(samples)
    count = len(samples)
    held = max(2, count // 8)
    training = {n: x[:-held] for n, x in inputs.items()}
    validation = {n: x[-held:] for n, x in inputs.items()}
    wise, learner = TorchGraph(teacher).eval(), TorchGraph(student)
    _agree(learner, student, samples[0], samples[1])
    with torch.no_grad():
        truth = wise(validation)
        scales = [max(float(t.var()), 1e-12) for t in wise(training)]
    dead = {k: p == 0 for k, p in learner.named_parameters() if p.ndim > 1 and bool((p == 0).any())}
    optimizer = torch.optim.Adam(learner.parameters(), lr=_RATE)

    def error() -> float:
        with torch.no_grad():
            return _loss(learner(validation), truth, scales).item()

    before = best = error()
    kept = learner.state_dict()
    kept = {k: v.clone() for k, v in kept.items()}
    start = time.monotonic()
    step = 0
    while (share := step / steps if steps is not None else (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + np.cos(np.pi * share)) + 1e-6
        batch = _disturbed(training)
        with torch.no_grad():
            answers = wise(batch)
        optimizer.zero_grad()
        _loss(learner(batch), answers, scales).backward()
        optimizer.step()
        with torch.no_grad():
            for k, p in learner.named_parameters():
                if k in dead:
                    p[dead[k]] = 0
        step += 1
        if step % 20 == 0:
            now = error()
            if now < best:
                best, kept = now, {k: v.clone() for k, v in learner.state_dict().items()}
            if progress is not None:
                progress(min(1.0, share), best)
    learner.load_state_dict(kept)
    return replace_weights(student, learner.weights()), before, best


def taylor_damage(model: ModelProto, coupling: Coupling, samples: Sequence[Feeds]) -> dict[int, float]:
    """Channel → first-order Taylor importance: mean square of weight × gradient, summed over the weights that read the channel.

    Without labels the gradient is that of the outputs along random directions: what moves the answer at all counts.
    """
    if reason := trainable(model):
        raise ModelError(
            f"importance taylor cannot see through this model: {reason}", hint="--importance magnitude, activation or hessian"
        )
    torch.manual_seed(0)
    graph = TorchGraph(model)
    parameters = graph.parameters_by_name()
    damage: dict[int, float] = defaultdict(float)
    for feeds in samples:
        graph.zero_grad()
        outputs = graph(_batch([feeds]))
        sum(((o * torch.randn_like(o)).sum() / max(float(o.detach().std()), 1e-6) for o in outputs), torch.zeros(())).backward()
        moved: dict[int, float] = defaultdict(float)
        for r in coupling.readers:
            p = parameters[r.weight.name]
            assert p.grad is not None
            entries = (p.detach() * p.grad).movedim(r.weight.input_axis, 0).flatten(1).sum(1).double()
            for c, value in zip(r.channels.tolist(), entries.tolist(), strict=True):
                moved[c] += value
        for c, value in moved.items():
            damage[c] += value**2 / len(samples)
    return damage


def _batch(samples: Sequence[Feeds]) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(np.concatenate([s[n] for s in samples])) for n in samples[0]}


def _disturbed(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A random batch: half as it is, half mixed with another sample, all with a little noise."""
    first = next(iter(inputs.values()))
    size = max(4, min(_BATCH, _BATCH_VALUES // first[0].numel()))
    a, b = torch.randint(len(first), (2, size))
    share = torch.where(torch.rand(size) < 0.5, torch.ones(size), torch.rand(size))
    mixed = {}
    for name, x in inputs.items():
        s = share.reshape(-1, *[1] * (x.ndim - 1))
        y = s * x[a] + (1 - s) * x[b]
        mixed[name] = y + torch.randn_like(y) * 0.02 * x.std()
    return mixed


def _loss(got: list[torch.Tensor], want: list[torch.Tensor], scales: Sequence[float]) -> torch.Tensor:
    return torch.stack([(g - w).square().mean() / s for g, w, s in zip(got, want, scales, strict=True)]).sum()


def _agree(graph: TorchGraph, model: ModelProto, *samples: Feeds) -> None:
    """The module computes, as a batch, what ONNX Runtime computes one by one; else it must not be trained."""
    engine = open_model(model.SerializeToString(), SessionSettings())
    with torch.no_grad():
        got = graph(_batch(samples))
    for i, feeds in enumerate(samples):
        for (name, want), value in zip(engine.run(feeds).items(), got, strict=True):
            mine = value[i : i + 1].numpy()
            if mine.shape != want.shape or np.abs(mine - want).max() > _CLOSE * max(float(np.abs(want).max()), 1e-6):
                raise ModelError(
                    f"--recover cannot train this model: as a batch its output {name} differs from ONNX Runtime's",
                    hint="compress less, without --recover",
                )
    engine.close()
