"""Apply what was asked for, step by step, and measure after each what it cost and what it gained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from edgectl.builder.compress.channel import channel_step, prune_channels
from edgectl.builder.compress.cluster import share_weights
from edgectl.builder.compress.coupling import couple
from edgectl.builder.compress.hessian import hessian_damage
from edgectl.builder.compress.importance import channel_damage, input_norms
from edgectl.builder.compress.magnitude import prune_two_of_four, prune_weights
from edgectl.builder.compress.options import CompressOptions
from edgectl.builder.compress.weights import macs, weight_regions, weights_of
from edgectl.builder.graph import GraphIndex
from edgectl.builder.int8.refit import refit
from edgectl.builder.judge.accuracy import Judge
from edgectl.core.bundle import SessionSettings
from edgectl.core.codebook import pack
from edgectl.core.errors import ModelError, UsageError
from edgectl.core.task import DecodeSpec
from edgectl.engines.base import Feeds
from edgectl.engines.finalise.open import open_model
from edgectl.engines.timing import interleave, paired_ratio

__all__ = ["CompressionReport", "CompressionStep", "compress", "training"]

_SAMPLES = 16  # for importance; recovery takes them all
_REFIT_SAMPLES = 64
_SECONDS = 1.0  # of measuring a step


@dataclass(frozen=True)
class CompressionStep:
    """The graph after one step, against the model as it came."""

    step: str
    drop: float
    macs_ratio: float
    latency_ratio: float
    """Median of paired ratios, one thread, ONNX Runtime, float; with its 95 % interval."""
    latency_low: float
    latency_high: float
    bytes: int
    """Of the float graph."""
    packed_bytes: int
    """As the weight-sharing codec packs it; ``bytes`` deflated where it shares nothing."""
    seconds: float
    note: str


@dataclass(frozen=True)
class CompressionReport:
    steps: tuple[CompressionStep, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    """Node → why a method left it alone."""

    @property
    def drop(self) -> float:
        return self.steps[-1].drop if self.steps else 0.0


def compress(
    model: ModelProto,
    options: CompressOptions,
    samples: Sequence[Feeds],
    judge: Judge,
    *,
    max_drop: float,
    decode: DecodeSpec | None = None,
    more: Sequence[Feeds] = (),
    progress: Callable[[str, float], None] | None = None,
    each: Callable[[ModelProto], None] | None = None,
) -> tuple[ModelProto, CompressionReport]:
    """The compressed graph. ``samples``: calibration inputs; ``more``: what recovery may learn from beside them;
    ``judge``: of the model as it came;
    ``progress(what, share)``; ``decode``: what recovery looks at in the outputs; ``each`` is shown the graph
    after every step.

    Raises :class:`ModelError` if the graph cannot be compressed as asked or the result loses more than
    ``max_drop``, and
    :class:`UsageError` if training was asked for without torch.
    """
    tell = progress or (lambda what, share: None)
    torch_part = (
        training()
        if options.recover_minutes or options.recover_steps or options.importance == "taylor"
        else None
    )
    meter = _Meter(model, judge, each, samples[: min(8, len(samples))])
    reasons: dict[str, str] = {}
    some = list(samples[:: max(1, len(samples) // _SAMPLES)])
    now = model

    def norms() -> dict[str, NDArray[np.float64]] | None:
        return (
            None if options.importance == "magnitude" else input_norms(now, weights_of(GraphIndex(now)), some)
        )

    if options.channel:
        step = options.channel_step or channel_step()
        tell(f"pruning channels in steps of {step}", 0.1)
        coupling = couple(now)
        if torch_part is not None and options.importance == "taylor":
            damage = torch_part.taylor_damage(now, coupling, some)
        elif options.importance == "hessian":
            damage = hessian_damage(now, coupling, some)
        else:
            damage = channel_damage(coupling, norms())
        now, done, why = prune_channels(now, coupling, options.channel, step, damage)
        if not done:
            text = "; ".join(f"{n}: {r}" for n, r in list(why.items())[:4]) or "it has no convolutions"
            raise ModelError(
                f"no channel of this model can be pruned: {text}",
                hint="--prune magnitude or 2:4 take any graph",
            )
        reasons |= why
        removed = sum(
            len(coupling.made[name]) - len(left) for name, left in done.items() if name in coupling.made
        )
        meter.add(
            now,
            f"channel:{options.channel:g}/{step}",
            f"{removed} channels of {len(done)} layers; {len(why)} stay whole",
        )
        now = refit(
            now,
            model,
            done,
            samples[:: max(1, len(samples) // _REFIT_SAMPLES)],
            progress=lambda share: tell("refitting the rest", 0.1 + 0.1 * share),
        )
        meter.add(now, "refit", "the weights that are left, in closed form")
    if options.magnitude:
        tell("pruning weights", 0.2)
        now, zeros = prune_weights(now, options.magnitude, norms())
        meter.add(
            now,
            f"magnitude:{options.magnitude:g}",
            f"{zeros:.0%} of the weights are zero; no runtime is faster for it",
        )
    if options.two_of_four:
        tell("pruning 2:4", 0.2)
        now, zeros, why = prune_two_of_four(now, norms())
        reasons |= why
        meter.add(
            now,
            "2:4",
            f"{zeros:.0%} of the weights are zero, {len(why)} nodes stay dense; sparse kernels need TensorRT on Ampere or later",
        )
    if (options.recover_minutes or options.recover_steps) and torch_part is not None:
        tell("recovering", 0.3)
        now, lesson = torch_part.recover(
            now,
            model,
            list(samples),
            seconds=options.recover_minutes * 60,
            steps=options.recover_steps,
            decode=decode,
            more=more,
            progress=lambda share, error: tell(f"recovering: error {error:.4f}", 0.3 + 0.6 * share),
        )
        meter.add(
            now,
            f"recover:{options.recover_steps or options.recover_minutes:g}",
            f"{lesson.steps} steps; held-back loss {lesson.before:.4f} → {lesson.after:.4f}",
        )
    if options.cluster:
        tell("sharing weights", 0.9)
        now, snr = share_weights(now, options.cluster)
        meter.add(now, f"cluster:{options.cluster}", f"weights at {snr:.1f} dB")
    report = CompressionReport(tuple(meter.steps), reasons)
    if report.drop > max_drop:
        raise ModelError(
            f"compression loses {report.drop:.4f}, more than {max_drop:g}",
            hint="prune less, give --recover MINUTES, or allow more with --max-drop",
        )
    return now, report


class _Meter:
    """Judges and times each step against the model as it came."""

    def __init__(
        self,
        model: ModelProto,
        judge: Judge,
        each: Callable[[ModelProto], None] | None,
        feeds: Sequence[Feeds],
    ) -> None:
        self._each = each
        self._original, self._judge, self._feeds = model, judge, feeds
        self._macs = macs(model)
        self._since = time.monotonic()
        self.steps: list[CompressionStep] = []

    def add(self, model: ModelProto, step: str, note: str) -> None:
        if self._each is not None:
            self._each(model)
        data = model.SerializeToString(deterministic=True)
        before, after = (
            open_model(self._original.SerializeToString(), SessionSettings()),
            open_model(data, SessionSettings()),
        )
        drop = self._judge.judge(after).drop
        turn = iter(range(1 << 30))
        runs = {
            n: (lambda e=e: e.run(self._feeds[next(turn) % len(self._feeds)]))
            for n, e in (("before", before), ("after", after))
        }
        times = interleave(runs, seconds=_SECONDS, min_rounds=30)
        ratio = paired_ratio(times["after"], times["before"])
        before.close()
        after.close()
        self.steps.append(
            CompressionStep(
                step,
                drop,
                round(macs(model) / max(1, self._macs), 4),
                round(ratio.median, 4),
                round(ratio.low, 4),
                round(ratio.high, 4),
                len(data),
                len(pack(data, weight_regions(model))),
                round(time.monotonic() - self._since, 1),
                note,
            )
        )
        self._since = time.monotonic()


def training() -> ModuleType:
    """:mod:`edgectl.builder.compress.recover`; :class:`UsageError` without torch."""
    try:
        from edgectl.builder.compress import recover
    except ImportError as e:
        raise UsageError(
            f"--recover and --importance taylor need torch ({e})", hint="pip install 'edgectl[compress]'"
        ) from e
    return recover
