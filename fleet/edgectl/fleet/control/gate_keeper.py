"""Shows the judges of rollouts the devices that they are to watch. Pure; under ``Devices.lock``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from edgectl.core.wire import EngineProof, ReportedSlot
from edgectl.fleet.control.telemetry_view import LatencyBook
from edgectl.fleet.rollouts.gates import GateDecision, GateJudge, Watched
from edgectl.fleet.rollouts.planner import (
    DeviceOutcome,
    DeviceView,
    GateEvidence,
    Member,
    RolloutProgress,
    RolloutSpec,
    RolloutState,
    order,
)

__all__ = ["GateKeeper", "verdicts"]

_GONE = frozenset({DeviceOutcome.SKIPPED, DeviceOutcome.SUPERSEDED})
_SITE = "site"
"""Label of devices that may see the same scene."""
_TELL_S = 10.0
"""Between two records that only have more figures: each is written to the database with the rollout."""


class GateKeeper:
    """One judge for each rollout that is under way."""

    def __init__(self, latency: LatencyBook) -> None:
        self._latency = latency
        self._judges: dict[str, GateJudge] = {}
        self._looked: dict[str, tuple[int, int]] = {}
        """Rollout → blocks and proofs that there were when its judge looked last."""

    def keep(self, rollouts: Iterable[str]) -> None:
        """Forget all but these."""
        for rollout in self._judges.keys() - set(rollouts):
            del self._judges[rollout]
            self._looked.pop(rollout, None)

    def evidence(
        self, spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
    ) -> GateEvidence:
        """What telemetry says now; of a rollout that takes its release back, what it said last."""
        if progress.state is RolloutState.ROLLING_BACK:
            return GateEvidence(progress.decisions)
        return GateEvidence(self._decisions(spec, progress, views, now_s), self._inferences(spec, progress))

    def _inferences(self, spec: RolloutSpec, progress: RolloutProgress) -> int:
        """Of the release, where a wave soaks by them."""
        if not any(spec.wave(wave).soak_inferences for wave in range(spec.last_wave + 1)):
            return 0
        asked = frozenset(n for n, m in progress.members.items() if m.admitted_s is not None)
        return self._latency.engine(spec.slot, spec.digest, asked).n

    def _decisions(
        self, spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView], now_s: float
    ) -> tuple[GateDecision, ...]:
        watched = self._watched(spec, progress, views)
        if not watched:
            return progress.decisions
        judge = self._judges.get(spec.id)
        if judge is None:
            judge = self._judges[spec.id] = GateJudge(spec.gates_in_force(), spec.digest, spec.alpha)
            judge.resume(progress.decisions, {w.name: w for w in watched})
        blocks = self._latency.blocks
        seen = (blocks.made, sum(w.proof is not None for w in watched))
        if self._looked.get(spec.id) == seen:
            return progress.decisions
        self._looked[spec.id] = seen
        free = self._free(spec, progress, views)
        decisions = judge.look(watched, free, blocks.in_slot(spec.slot), now_s)
        told_s = max((d.at_s for d in progress.decisions), default=-math.inf)
        is_news = bool(verdicts(progress.decisions, decisions)) or now_s - told_s >= _TELL_S
        return decisions if is_news else progress.decisions

    def _watched(
        self, spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView]
    ) -> list[Watched]:
        found = []
        for name, m in progress.members.items():
            asked = m.admitted_s is not None and not m.left and m.outcome not in _GONE and name in views
            if asked and m.before is not None and m.before.digest != spec.digest:
                stratum = _stratum(views[name].profile, m.before.release, m)
                site = views[name].labels.get(_SITE)
                proofs = _proofs(spec, m.before.digest, views[name].reported.get(spec.slot))
                found.append(Watched(name, stratum, site, m.before.digest, m.admitted_s or 0.0, *proofs))
        return sorted(found, key=lambda w: (w.asked_s, w.name))

    def _free(
        self, spec: RolloutSpec, progress: RolloutProgress, views: Mapping[str, DeviceView]
    ) -> dict[str, list[str]]:
        """Stratum → devices that run what its devices had before; those that are asked last, or never, first."""
        asked = {n for n, m in progress.members.items() if m.admitted_s is not None}
        found: dict[str, list[str]] = {}
        for name in reversed(order(views.keys() - asked, spec.release)):
            r = views[name].reported.get(spec.slot)
            if r is not None and r.active_release is not None and views[name].online:
                stratum = _stratum(views[name].profile, r.active_release, progress.members.get(name))
                found.setdefault(stratum, []).append(name)
        return found


def _proofs(
    spec: RolloutSpec, before: str, r: ReportedSlot | None
) -> tuple[EngineProof | None, EngineProof | None]:
    """Of the release, once it is active, and of the engine before. An older agent tells nothing: an empty one."""
    if r is None or r.active != spec.digest:
        return None, None
    return r.proof or EngineProof(), r.previous_proof if r.previous == before else None


def verdicts(before: Iterable[GateDecision], now: Iterable[GateDecision]) -> list[str]:
    """For the log: verdicts that are new."""
    known = {(d.gate, d.stratum): d.verdict for d in before}
    return [
        f"gate {d.gate}, {d.stratum}: {d.verdict.value}: {d.reason}"
        for d in now
        if known.get((d.gate, d.stratum)) is not d.verdict
    ]


def _stratum(profile: str | None, release: str, m: Member | None) -> str:
    """``jetson-orin, from gate@1.0``, and the stratum of the rollout where it has any."""
    return ", ".join(filter(None, (profile or "unknown profile", f"from {release}", m.stratum if m else "")))
