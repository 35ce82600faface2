"""Decides whether a new engine is good enough to keep: pure gates over what the workers measured, and the
book that collects it.

An engine is judged against the policy and against the engine before it *on the same device*. Nothing is
judged from too few samples: a percentile needs those of :data:`edgectl.core.histogram.MIN_SAMPLES`, and the
policy's ``min_inferences``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgectl.core.histogram import MIN_SAMPLES, Histogram
from edgectl.core.wire import ENGINE_STAGE, Frames, Policy, ShadowGate
from edgectl.pipelines.host.protocol import Shadowed, Stats

__all__ = ["EngineHealth", "HealthBook", "Verdict", "judge", "judge_shadow", "together"]

_MIN_ERRORS = 3
_KEPT = 3  # engines per slot in the book


@dataclass
class EngineHealth:
    """What one engine did in one slot since it was put there, over all streams that use it."""

    latency: Histogram = field(default_factory=Histogram)
    processed: int = 0
    errors: int = 0
    rss_mb: float = 0.0


@dataclass(frozen=True)
class Verdict:
    outcome: Literal["wait", "healthy", "unhealthy"]
    reason: str


def judge(policy: Policy, live: EngineHealth, baseline: Histogram | None, elapsed_s: float) -> Verdict:
    """Judge ``live`` after ``elapsed_s`` of probation; bad news is told as soon as it is certain, good
    news at the end."""
    attempts = live.processed + live.errors
    if live.errors >= _MIN_ERRORS and live.errors > policy.max_error_rate * attempts:
        return Verdict(
            "unhealthy",
            f"{live.errors} of {attempts} inferences failed, {policy.max_error_rate:.1%} are allowed",
        )
    if policy.max_rss_mb is not None and live.rss_mb > policy.max_rss_mb:
        return Verdict(
            "unhealthy", f"the worker uses {live.rss_mb:.0f} MiB, {policy.max_rss_mb:.0f} MiB are allowed"
        )
    needed = max(policy.min_inferences, MIN_SAMPLES[policy.percentile])
    n = live.latency.n
    if n < needed:
        return Verdict("wait", f"{n} of {needed} inferences")
    p = f"p{policy.percentile}"
    now_ms = live.latency.percentile_ms(policy.percentile)
    assert now_ms is not None
    if policy.max_latency_ms is not None and now_ms > policy.max_latency_ms:
        return Verdict(
            "unhealthy", f"{p} latency is {now_ms:.2f} ms, {policy.max_latency_ms:g} ms are allowed"
        )
    before_ms = baseline.percentile_ms(policy.percentile) if baseline is not None else None
    if policy.max_latency_ratio is not None and before_ms and now_ms > policy.max_latency_ratio * before_ms:
        return Verdict(
            "unhealthy",
            f"{p} latency is {now_ms:.2f} ms, {now_ms / before_ms:.2f} times that of the engine before; "
            f"{policy.max_latency_ratio:g} times are allowed",
        )
    if elapsed_s < policy.probation_s:
        return Verdict("wait", f"{elapsed_s:.0f} of {policy.probation_s:.0f} s")
    compared = f", {now_ms / before_ms:.2f} times the engine before" if before_ms else ""
    return Verdict("healthy", f"{p} latency {now_ms:.2f} ms over {n} inferences{compared}")


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """On a whole, of the verdicts on what it consists of: it is as good as the worst."""
    for outcome in ("unhealthy", "wait"):
        for verdict in verdicts:
            if verdict.outcome == outcome:
                return verdict
    return Verdict("healthy", "; ".join(v.reason for v in verdicts))


def judge_shadow(gate: ShadowGate, shadowed: Shadowed) -> Verdict:
    """Whether an engine that ran beside the old one, on the same frames, may take over."""
    s = shadowed
    if s.errors:
        return Verdict("unhealthy", f"{s.errors} of {s.frames} inferences failed beside the old engine")
    if s.agreement < gate.min_agreement:
        return Verdict(
            "unhealthy",
            f"the engines agree on {s.agreement:.1%} of what they find, {gate.min_agreement:.1%} are asked for",
        )
    ratio = s.new_ms / s.old_ms if s.old_ms > 0 else 0.0
    if gate.max_latency_ratio is not None and ratio > gate.max_latency_ratio:
        return Verdict(
            "unhealthy",
            f"{ratio:.2f} times the old engine's latency on the same frames; {gate.max_latency_ratio:g} are allowed",
        )
    return Verdict(
        "healthy",
        f"agreement {s.agreement:.1%} over {s.frames} frames, {ratio:.2f} times the old engine's latency",
    )


class HealthBook:
    """Attributes workers' windows to the engines that made them. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: dict[str, dict[str, EngineHealth]] = {}
        self._before: dict[tuple[str, str], tuple[int, int]] = {}
        """Stream and part → inferences and failures at the last window."""

    def record(self, stream: str, stats: Stats, parts: Mapping[str, str]) -> None:
        """Take one window. ``parts``: part → slot of this stream; ``stats.stats.slots`` says which bundle
        served each part. A part of a second stage is judged by its crops."""
        s = stats.stats
        with self._lock:
            for part, slot in parts.items():
                crops = s.crops.get(part)
                now = (s.frames.processed, s.errors) if crops is None else _done(crops)
                processed, errors = self._before.get((stream, part), (0, 0))
                if now[0] < processed or now[1] < errors:
                    processed, errors = 0, 0  # the worker was started anew
                self._before[stream, part] = now
                bundle = s.slots.get(part)
                if bundle is None:
                    continue
                engines = self._live.setdefault(slot, {})
                live = engines.setdefault(bundle, EngineHealth())
                live.processed += now[0] - processed
                live.errors += now[1] - errors
                live.rss_mb = stats.rss_mb
                window = s.stages.get(f"{ENGINE_STAGE}:{part}")
                if window is None and crops is None:
                    window = s.stages.get(ENGINE_STAGE)
                # how long a lighter variant takes says nothing of the engine
                if window is not None and part not in s.stand_ins:
                    live.latency.merge(Histogram.of(window))
                while len(engines) > _KEPT:
                    engines.pop(next(k for k in engines if k != bundle))

    def start_over(self, slot: str, bundle: str) -> None:
        """A new probation: what this engine did earlier does not count."""
        with self._lock:
            self._live.setdefault(slot, {})[bundle] = EngineHealth()

    def of(self, slot: str, bundle: str) -> EngineHealth:
        """A snapshot of one engine's record."""
        with self._lock:
            live = self._live.get(slot, {}).get(bundle, EngineHealth())
            return EngineHealth(Histogram.merged([live.latency]), live.processed, live.errors, live.rss_mb)


def _done(crops: Frames) -> tuple[int, int]:
    """Inferences and failures."""
    return crops.processed, crops.dropped.get("engine_error", 0)
