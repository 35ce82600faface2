"""Win back what compression cost, without labels: the float model teaches the compressed one.

What the student sees is said in :mod:`~edgectl.builder.compress.material`, what counts in its answers in
:mod:`~edgectl.builder.compress.attention`. What is kept is the running mean of the weights (Polyak & Juditsky,
*Acceleration of Stochastic Approximation by Averaging*, 1992), as it was when it did best on the last eighth of the
samples, which is never trained on. Pruned weights stay zero.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from edgectl.builder.compress.attention import Loss
from edgectl.builder.compress.coupling import Coupling
from edgectl.builder.compress.material import Material, Pool, batched
from edgectl.builder.compress.torchgraph import TorchGraph, unsupported
from edgectl.builder.compress.weights import replace_weights
from edgectl.builder.graph import GraphIndex
from edgectl.core.bundle import SessionSettings
from edgectl.core.errors import ModelError
from edgectl.core.task import DecodeSpec
from edgectl.device_profiles.machine import probe
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model

__all__ = ["Lesson", "agree", "bfloat16_is_fast", "recover", "taylor_damage", "teach", "trainable"]

_RATE = 5e-3
_WARM_UP = 20  # steps
# steps from one look at the held-back samples to the next; the last one is at the end
_LOOK = 100
# steps from one word to whoever waits to the next
_TOLD = 25
# samples from which the spread of the outputs is taken
_SPREAD = 32
# how much of the mean of the weights the step before makes up, once there were many
_REMEMBERED = 0.998
# how far the torch module may be from ONNX Runtime, of the output's largest value
_CLOSE = 1e-3


@dataclass(frozen=True)
class Lesson:
    """Steps taken, and the student's distance from the teacher on held-back samples before and after
    (:class:`Loss`; equal: 0)."""

    steps: int
    before: float
    after: float


def bfloat16_is_fast() -> bool:
    """Whether this machine multiplies tiles of bfloat16: a step then takes less than half the time, and its rounding
    is less than what one batch differs from the next."""
    return "isa:amx_bf16" in probe().facts


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
    more: Sequence[Feeds] = (),
    progress: Callable[[float, float], None] | None = None,
) -> tuple[ModelProto, Lesson]:
    """Train ``student`` to answer like ``teacher`` for ``seconds``, or for ``steps`` if that is given (then
    the result is the same each time). ``more``: further inputs, which are trained on alone; they may be read from
    disk. ``decode`` says where in the outputs detections are; ``progress(share, error)`` is told every 25 steps, ``error``
    as of the last look at what is held back.

    Raises :class:`ModelError` for graphs that cannot be trained here, and where a loss is not finite.
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
        more=more,
        mask=mask,
        bfloat16=bfloat16_is_fast(),
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
    more: Sequence[Feeds] = (),
    mask: Callable[[], None] = lambda: None,
    bfloat16: bool = False,
    progress: Callable[[float, float], None] | None = None,
) -> Lesson:
    """Train ``learner`` in place and leave in it what did best on held-back samples. ``groups``: its
    parameters, each with a ``rate``; ``more``: inputs beside ``samples``, none of which is held back; ``bfloat16``:
    convolutions and matrix products of a step are computed in it (weights and the look at what was held back are not)."""
    torch.manual_seed(0)
    held = max(2, len(samples) // 8)
    material = Material(samples[:-held], more)
    validation = batched(samples[-held:])
    wise = TorchGraph(teacher).eval()
    with torch.no_grad():
        truth = wise(validation)
        loss = Loss(wise(batched(material.spread(_SPREAD))), decode)
    equal = loss(truth, truth).item()  # cross entropy is not zero where both agree
    optimizer = torch.optim.Adam([{**g, "lr": g["rate"]} for g in groups])
    mean = {k: v.clone() for k, v in learner.state_dict().items()}

    def run(graph: TorchGraph, batch: Mapping[str, Tensor]) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            return [o.float() for o in graph(batch)]

    def answer(batch: Mapping[str, Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return run(wise, batch)

    def error() -> float:
        """Of the mean of the weights."""
        last = {k: v.clone() for k, v in learner.state_dict().items()}
        learner.load_state_dict(mean)
        with torch.no_grad():
            found = loss(learner(validation), truth).item() - equal
        learner.load_state_dict(last)
        return found

    before = best = error()
    kept = {k: v.clone() for k, v in mean.items()}

    def look() -> None:
        nonlocal best, kept
        if (now := error()) < best:
            best, kept = now, {k: v.clone() for k, v in mean.items()}

    with _half_the_threads():
        start, step = time.monotonic(), 0
        pool = Pool(material, answer)
        while (share := step / steps if steps is not None else (time.monotonic() - start) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * (
                    min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + np.cos(np.pi * share)) + 1e-3
                )
            batch, answers = pool.batch()
            optimizer.zero_grad()
            wrong = loss(run(learner, batch), answers)
            if not torch.isfinite(wrong):
                raise ModelError(
                    f"recovery lost its way: the loss of step {step + 1} is not finite",
                    hint="look for inputs that are not finite or of another size than usual; or build without --recover",
                )
            wrong.backward()
            optimizer.step()
            step += 1
            with torch.no_grad():
                mask()
                fresh = 1 - min(_REMEMBERED, step / (step + 9))
                for k, v in learner.state_dict().items():
                    mean[k].lerp_(v, fresh)
            if step % _LOOK == 0:
                look()
            if step % _TOLD == 0 and progress is not None:
                progress(min(1.0, share), best)
        look()
    learner.load_state_dict(kept)
    return Lesson(step, before, best)


@contextlib.contextmanager
def _half_the_threads() -> Iterator[None]:
    """Threads that wait for a busy core cost more than they bring. Torch has as many as before afterwards, however that
    ends."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
        outputs = graph(batched([feeds]))
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


def agree(graph: TorchGraph, model: ModelProto, *samples: Feeds, close: float = _CLOSE) -> None:
    """The module computes, as a batch, what ONNX Runtime computes one by one; else it must not be trained."""
    engine = open_model(model.SerializeToString(), SessionSettings(optimization="disabled"))
    with torch.no_grad():
        got = graph(batched(samples))
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
