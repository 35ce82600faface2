"""Decides whether a new configuration is good enough to keep: pure gates over how many frames failed and how many events
came, and the book that counts them.

A configuration breaks a site as a model does: a rule that storms, one that has gone silent, one that makes frames fail.
Events are compared with those of the configuration before it on the same streams, per minute that they ran.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edgectl.agent.deploy.probation import Verdict
from edgectl.agent.streams.worker_life import frames_done
from edgectl.core.wire import EventGate, Policy
from edgectl.pipelines.host.protocol import EventMessage, Stats

__all__ = ["ConfigHealth", "ConfigHealthBook", "EventRate", "judge_config"]

_MIN_ERRORS = 3
_MIN_BEFORE_S = 60.0
"""Of the configuration before, until its events say something."""
_KEPT_MIN = 60
"""Minutes of events that are remembered, over all streams of a slot."""
_RAN_WITHIN_S = 180.0
"""A stream that did something for so long before the activation has to do so after it; three of the longest windows."""
_MOST_RULES, _RULE_CHARACTERS = 1024, 64
_LEVEL = 0.001
"""How rarely a rate that is allowed may be taken for one that is not."""


@dataclass(frozen=True)
class EventRate:
    """``events`` in ``seconds`` that streams ran, each stream's counted."""

    events: int = 0
    seconds: float = 0.0

    def __add__(self, other: EventRate) -> EventRate:
        return EventRate(self.events + other.events, self.seconds + other.seconds)


@dataclass(frozen=True)
class ConfigHealth:
    """What a configuration did since it is in force, over all its streams, and how many events came before."""

    now: EventRate = EventRate()
    before: EventRate = EventRate()
    processed: int = 0
    errors: int = 0
    busiest: EventRate = EventRate()
    """Of the rule, on one stream, that told most."""
    busiest_rule: str = ""
    silent: tuple[str, ...] = ()
    """Streams that ran before, and of which nothing is known yet."""


def judge_config(policy: Policy, health: ConfigHealth, elapsed_s: float) -> Verdict:
    """Judge ``health`` after ``elapsed_s`` of probation; bad news is told as soon as it is certain, good news at the
    end."""
    attempts = health.processed + health.errors
    if health.errors >= _MIN_ERRORS and health.errors > policy.max_error_rate * attempts:
        return Verdict(
            "unhealthy",
            f"{health.errors} of {attempts} frames failed, {policy.max_error_rate:.1%} are allowed",
        )
    gate = policy.events
    if gate is not None and (why := _storm(gate, health) or _rule_storm(gate, health)) is not None:
        return Verdict("unhealthy", why)
    if health.silent:
        return Verdict("wait", f"{', '.join(health.silent[:4])}: no frame with it yet")
    if health.processed < policy.min_inferences:
        return Verdict("wait", f"{health.processed} of {policy.min_inferences} frames")
    if elapsed_s < policy.probation_s:
        return Verdict("wait", f"{elapsed_s:.0f} of {policy.probation_s:.0f} s")
    if gate is not None and (why := _silence(gate, health)) is not None:
        return Verdict("unhealthy", why)
    return Verdict("healthy", f"{_per_minute(health.now)} over {health.processed} frames")


def _storm(gate: EventGate, health: ConfigHealth) -> str | None:
    """More events than the allowed multiple of those before would give by chance; never below a rate that is fine in
    any case."""
    if gate.max_ratio is None or health.now.seconds <= 0:
        return None
    fine = gate.fine_per_minute * health.now.seconds / 60
    if health.before.seconds < _MIN_BEFORE_S:
        allowed = gate.max_ratio * fine
    else:
        # one more than was seen: none in an hour is no rate of zero
        expected = (health.before.events + 1) / health.before.seconds * health.now.seconds
        allowed = max(fine, gate.max_ratio * expected)
    if at_least(health.now.events, allowed) >= _LEVEL:
        return None
    return f"{_per_minute(health.now)}, before {_per_minute(health.before)}: {_allowed(gate)}"


def _rule_storm(gate: EventGate, health: ConfigHealth) -> str | None:
    """One rule tells more than anybody can look at."""
    if gate.rule_per_minute is None or health.busiest.seconds <= 0:
        return None
    allowed = gate.rule_per_minute * health.busiest.seconds / 60
    if at_least(health.busiest.events, allowed) >= _LEVEL:
        return None
    return f"rule {health.busiest_rule} tells {_per_minute(health.busiest)}, {gate.rule_per_minute:g} are allowed"


def _silence(gate: EventGate, health: ConfigHealth) -> str | None:
    """Fewer events than the least multiple of those before would give by chance."""
    if gate.min_ratio is None or health.before.seconds < _MIN_BEFORE_S:
        return None
    least = gate.min_ratio * health.before.events / health.before.seconds * health.now.seconds
    if at_most(health.now.events, least) >= _LEVEL:
        return None
    return (
        f"{_per_minute(health.now)}, before {_per_minute(health.before)}: at least {gate.min_ratio:g} times as many "
        "were expected"
    )


def _allowed(gate: EventGate) -> str:
    return (
        f"{gate.max_ratio:g} times as many, or {gate.fine_per_minute:g} a minute of each stream, are allowed"
    )


def _per_minute(rate: EventRate) -> str:
    if rate.seconds <= 0:
        return "no events known"
    return f"{60 * rate.events / rate.seconds:.1f} events a minute"


def at_most(k: int, mean: float) -> float:
    """P(X ≤ k) of a Poisson distribution, k ≥ 0."""
    if mean <= 0:
        return 1.0
    if mean > 1e4:  # normal, where the sum would be long and the powers too small
        return 0.5 * math.erfc((mean - k - 0.5) / math.sqrt(2 * mean))
    term = total = math.exp(-mean) if mean < 700 else 0.0
    if mean >= 700:
        return 0.5 * math.erfc((mean - k - 0.5) / math.sqrt(2 * mean))
    for i in range(1, k + 1):
        term *= mean / i
        total += term
        if i > mean and term < 1e-18:
            break
    return min(1.0, total)


def at_least(k: int, mean: float) -> float:
    """P(X ≥ k)."""
    return 1.0 if k <= 0 else max(0.0, 1.0 - at_most(k - 1, mean))


@dataclass
class _SlotCount:
    minutes: deque[tuple[int, EventRate]] = field(default_factory=deque)
    """Minute → what came in it; the last hour, of whatever configuration."""
    pending: Counter[str] = field(default_factory=Counter)
    """Stream → events since its last window."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stream → how long it has run with the configuration."""
    rules: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Stream and rule → events with the configuration."""
    health: ConfigHealth = ConfigHealth()
    expected: set[str] = field(default_factory=set)
    """Streams that ran before, until they run with the configuration."""

    def add(self, minute: int, window: EventRate) -> None:
        while self.minutes and self.minutes[0][0] <= minute - _KEPT_MIN:
            self.minutes.popleft()
        if self.minutes and self.minutes[-1][0] == minute:
            window += self.minutes.pop()[1]
        self.minutes.append((minute, window))


class ConfigHealthBook:
    """Counts for each slot with a configuration. Thread-safe, bounded."""

    def __init__(self, slot_of: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        """``slot_of``: stream → slot of its configuration."""
        self._clock = clock
        self._slot_of = slot_of
        self._lock = threading.Lock()
        self._counts = {slot: _SlotCount() for slot in slot_of.values()}
        self._seen: dict[str, tuple[int, int, int]] = {}
        """Stream → frames processed, failed, and processed or left out by choice, at its last window."""
        self._ran_s: dict[str, float] = {}
        """Stream → when it last did something."""

    def event(self, stream: str, message: EventMessage) -> None:
        """What no rule tells says nothing of the configuration."""
        slot = self._slot_of.get(stream)
        rule = message.event.get("rule")
        if slot is None or not rule:
            return
        rule = str(rule)[:_RULE_CHARACTERS]
        with self._lock:
            count = self._counts[slot]
            count.pending[stream] += 1
            if (stream, rule) in count.rules or len(count.rules) < _MOST_RULES:
                count.rules[stream, rule] += 1

    def stats(self, stream: str, stats: Stats) -> None:
        """One window."""
        slot = self._slot_of.get(stream)
        if slot is None:
            return
        frames = stats.stats.frames
        now = (frames.processed, stats.stats.errors, frames_done(frames))
        with self._lock:
            seen = self._seen.get(stream, (0, 0, 0))
            anew = any(new < old for new, old in zip(now, seen, strict=True))
            processed, errors, done = (0, 0, 0) if anew else seen
            self._seen[stream] = now
            count = self._counts[slot]
            window = EventRate(count.pending.pop(stream, 0), stats.window_s)
            count.add(int(self._clock() // 60), window)
            if now[2] > done:
                self._ran_s[stream] = self._clock()
                if anew or stream in count.seconds:  # else the window began before the activation
                    count.expected.discard(stream)
            count.seconds[stream] = count.seconds.get(stream, 0.0) + stats.window_s
            h = count.health
            count.health = replace(
                h,
                now=h.now + window,
                processed=h.processed + now[0] - processed,
                errors=h.errors + now[1] - errors,
            )

    def start_over(self, slot: str) -> None:
        """Another configuration is in force from now on; what came until now is what it is compared with."""
        with self._lock:
            count = self._counts[slot]
            count.add(int(self._clock() // 60), EventRate())  # what is older than an hour goes
            before = EventRate()
            for _, window in count.minutes:
                before += window
            count.minutes.clear()
            count.pending.clear()
            count.seconds.clear()
            count.rules.clear()
            count.health = ConfigHealth(before=before)
            since_s = self._clock() - _RAN_WITHIN_S
            count.expected = {
                s for s, at_s in self._ran_s.items() if self._slot_of[s] == slot and at_s >= since_s
            }

    def take_back(self, slot: str) -> None:
        """The configuration before is back: what came since is no measure for the next one."""
        with self._lock:
            count = self._counts[slot]
            count.minutes.clear()
            count.add(int(self._clock() // 60), count.health.before)
            count.pending.clear()

    def of(self, slot: str) -> ConfigHealth:
        with self._lock:
            count = self._counts[slot]
            health = replace(count.health, silent=tuple(sorted(count.expected)))
            if not count.rules:
                return health
            (stream, rule), n = count.rules.most_common(1)[0]
            rate = EventRate(n, count.seconds.get(stream, 0.0))
            return replace(health, busiest=rate, busiest_rule=rule)
