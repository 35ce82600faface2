"""Win back what compression cost, without labels: the float model teaches the compressed one on the
calibration inputs.

Pictures are mirrored, moved, brightened and mixed on the way, so that a hundred samples teach more than a
hundred points; teacher and student see the same. What counts is said in
:mod:`~edgectl.builder.compress.attention`. The last eighth of the samples is never trained on and decides
which weights are kept. Pruned weights stay zero.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto

from edgectl.builder.compress.attention import Loss
from edgectl.builder.compress.coupling import Coupling
from edgectl.builder.compress.torchgraph import TorchGraph, unsupported
from edgectl.builder.compress.weights import replace_weights
from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import DecodeSpec
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = ["Lesson", "agree", "recover", "taylor_damage", "teach", "trainable"]

_BATCH = 16
# large inputs come in smaller batches: more steps a minute teach more than smoother ones
_BATCH_VALUES = 1 << 18
_RATE = 2e-3
_WARM_UP = 20  # steps
# steps from one look at the held-back samples to the next
_LOOK = 25
# samples from which the spread of the outputs is taken
_SPREAD = 32
_ANSWER_BYTES = 64 << 20  # of the teacher's answers that are remembered
# edge from which a tensor of four axes is a picture whose content may move
_PICTURE = 64
_MOVE = 0.15  # of its edge, at most half of it each way
# how far the torch module may be from ONNX Runtime, of the output's largest value
_CLOSE = 1e-3


@dataclass(frozen=True)
class Lesson:
    """Steps taken, and the student's distance from the teacher on held-back samples before and after
    (:class:`Loss`; equal: 0)."""

    steps: int
    before: float
    after: float


def trainable(model: ModelProto) -> str | None:
    """Why a graph cannot be trained here; None if it can."""
    if ops := unsupported(model):
        return f"the graph has operators that cannot be trained here: {', '.join(ops)}"
    index = GraphIndex(model)
    if any((index.shape(i) or (0,))[0] != 1 or not index.is_float(i) for i in index.inputs):
        return "its inputs are not float with a batch axis of 1"
    return None


def recover(
    student: ModelProto,
    teacher: ModelProto,
    samples: Sequence[Feeds],
    *,
    seconds: float,
    steps: int | None = None,
    decode: DecodeSpec | None = None,
    progress: Callable[[float, float], None] | None = None,
) -> tuple[ModelProto, Lesson]:
    """Train ``student`` to answer like ``teacher`` for ``seconds``, or for ``steps`` if that is given (then
    the result is the same each time). ``decode`` says where in the outputs detections are; ``progress(share,
    error)``.

    Raises :class:`ModelError` for graphs that cannot be trained here.
    """
    for model in (student, teacher):
        if reason := trainable(model):
            raise ModelError(
                f"--recover cannot train this model: {reason}", hint="compress less, without --recover"
            )
    learner = TorchGraph(student)
    agree(learner, student, samples[0], samples[1])
    dead = {k: p == 0 for k, p in learner.named_parameters() if p.ndim > 1 and bool((p == 0).any())}

    def mask() -> None:
        for k, p in learner.named_parameters():
            if k in dead:
                p[dead[k]] = 0

    groups = [{"params": list(learner.parameters()), "rate": _RATE}]
    lesson = teach(
        learner,
        teacher,
        samples,
        groups,
        seconds=seconds,
        steps=steps,
        decode=decode,
        mask=mask,
        progress=progress,
    )
    return replace_weights(student, learner.weights()), lesson


def teach(
    learner: TorchGraph,
    teacher: ModelProto,
    samples: Sequence[Feeds],
    groups: list[dict[str, Any]],
    *,
    seconds: float,
    steps: int | None,
    decode: DecodeSpec | None,
    mask: Callable[[], None] = lambda: None,
    progress: Callable[[float, float], None] | None = None,
) -> Lesson:
    """Train ``learner`` in place and leave in it what did best on held-back samples. ``groups``: its
    parameters, each with a ``rate``.

    The random batches repeat after a while, so that the teacher answers each but once.
    """
    torch.manual_seed(0)
    inputs = _batch(samples)
    held = max(2, len(samples) // 8)
    training, validation = (
        {n: x[:-held] for n, x in inputs.items()},
        {n: x[-held:] for n, x in inputs.items()},
    )
    wise = TorchGraph(teacher).eval()
    with torch.no_grad():
        truth = wise(validation)
        loss = Loss(wise({n: x[:: max(1, len(x) // _SPREAD)] for n, x in training.items()}), decode)
    equal = loss(truth, truth).item()  # cross entropy is not zero where both agree
    optimizer = torch.optim.Adam([{**g, "lr": g["rate"]} for g in groups])
    answers: dict[int, list[torch.Tensor]] = {}
    repeat = max(1, _ANSWER_BYTES // max(1, _size(training) * sum(t[0].numel() * 4 for t in truth)))

    def error() -> float:
        with torch.no_grad():
            return loss(learner(validation), truth).item() - equal

    before = best = error()
    kept = {k: v.clone() for k, v in learner.state_dict().items()}
    threads = torch.get_num_threads()
    # threads that wait for a busy core cost more than they bring
    torch.set_num_threads(max(1, threads // 2))
    start, step = time.monotonic(), 0
    while (share := step / steps if steps is not None else (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * (
                min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + np.cos(np.pi * share)) + 1e-3
            )
        number = step % repeat
        batch = _disturbed(training, torch.Generator().manual_seed(number))
        if number not in answers:
            with torch.no_grad():
                answers[number] = wise(batch)
        optimizer.zero_grad()
        loss(learner(batch), answers[number]).backward()
        optimizer.step()
        with torch.no_grad():
            mask()
        step += 1
        if step % _LOOK == 0 or step == steps:
            now = error()
            if now < best:
                best, kept = now, {k: v.clone() for k, v in learner.state_dict().items()}
            if progress is not None:
                progress(min(1.0, share), best)
    torch.set_num_threads(threads)
    learner.load_state_dict(kept)
    return Lesson(step, before, best)


def taylor_damage(model: ModelProto, coupling: Coupling, samples: Sequence[Feeds]) -> dict[int, float]:
    """Channel → first-order Taylor importance: mean square of weight × gradient, summed over the weights that
    read the channel.

    Without labels the gradient is that of the outputs along random directions: what moves the answer at all
    counts.
    """
    if reason := trainable(model):
        raise ModelError(
            f"importance taylor cannot see through this model: {reason}",
            hint="--importance magnitude, activation or hessian",
        )
    torch.manual_seed(0)
    graph = TorchGraph(model)
    parameters = graph.parameters_by_name()
    damage: dict[int, float] = defaultdict(float)
    for feeds in samples:
        graph.zero_grad()
        outputs = graph(_batch([feeds]))
        sum(
            ((o * torch.randn_like(o)).sum() / max(float(o.detach().std()), 1e-6) for o in outputs),
            torch.zeros(()),
        ).backward()
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
    """Pictures in the memory layout that torch convolves fastest."""
    joined = {n: torch.from_numpy(np.concatenate([s[n] for s in samples])) for n in samples[0]}
    return {
        n: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for n, x in joined.items()
    }


def _size(inputs: Mapping[str, torch.Tensor]) -> int:
    return max(4, min(_BATCH, _BATCH_VALUES // next(iter(inputs.values()))[0].numel()))


def _disturbed(inputs: Mapping[str, torch.Tensor], random: torch.Generator) -> dict[str, torch.Tensor]:
    """A random batch: half as it is, half mixed with another sample, all with a little noise. Pictures
    also mirrored, moved and brightened or darkened, within the range of values they had."""
    first = next(iter(inputs.values()))
    size = _size(inputs)
    a, b = torch.randint(len(first), (2, size), generator=random)
    share = torch.where(torch.rand(size, generator=random) < 0.5, 1.0, torch.rand(size, generator=random))
    gain, flip = 0.8 + 0.4 * torch.rand(size, generator=random), bool(torch.rand((), generator=random) < 0.5)
    down, right = (torch.rand(2, generator=random) - 0.5).tolist()
    mixed = {}
    for name, x in inputs.items():
        along = (-1, *[1] * (x.ndim - 1))
        s = share.reshape(along)
        y = s * x[a] + (1 - s) * x[b]
        if x.ndim == 4 and min(x.shape[2:]) >= _PICTURE:
            y = (y * gain.reshape(along)).clamp(float(x[a].min()), float(x[a].max()))
            y = y.roll((round(down * _MOVE * x.shape[2]), round(right * _MOVE * x.shape[3])), (2, 3))
            y = y.flip(3) if flip else y
        mixed[name] = y + torch.randn(y.shape, generator=random) * 0.02 * x.std()
    return mixed


def agree(graph: TorchGraph, model: ModelProto, *samples: Feeds, close: float = _CLOSE) -> None:
    """The module computes, as a batch, what ONNX Runtime computes one by one; else it must not be trained."""
    engine = open_model(model.SerializeToString(), SessionSettings(optimization="disabled"))
    with torch.no_grad():
        got = graph(_batch(samples))
    for i, feeds in enumerate(samples):
        for (name, want), value in zip(engine.run(feeds).items(), got, strict=True):
            mine = value[i : i + 1].numpy()
            if mine.shape != want.shape or np.abs(mine - want).max() > close * max(
                float(np.abs(want).max()), 1e-6
            ):
                raise ModelError(
                    f"--recover cannot train this model: as a batch its output {name} differs from ONNX Runtime's",
                    hint="compress less, without --recover",
                )
    engine.close()
