"""The judge of one rollout: follows the blocks of its devices and says what each gate makes of them. No IO; time and
blocks are arguments.

Each device is compared with itself, and where others of its stratum have not been asked yet, less what these did at the
same time (controls): a scene that changes for all changes nothing. In later waves, devices that have run the release for
a while are controls, too. Wealths multiply only where each control serves one device. Without controls, :func:`~edgectl.fleet.rollouts.gates.blocks.drift` of the device's own history is allowed
on top, and :data:`UNSEEN` while that history is short.

The rollout's α is split over its gates, and a gate's over the strata in the order in which they came.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

from edgectl.core.wire import EngineProof
from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, COARSE, Block, BlockHistory, drift, merged, paired
from edgectl.fleet.rollouts.gates.decision import (
    Bets,
    ControlDevice,
    GateDecision,
    GateVerdict,
    Rest,
    standing,
)
from edgectl.fleet.rollouts.gates.gate_type import GateType
from edgectl.fleet.rollouts.gates.table import GateTerms, type_of
from edgectl.fleet.rollouts.gates.wealth import (
    Bettings,
    CertainBets,
    MeanBets,
    RankBets,
    log_sum,
    mixed,
    share,
)

__all__ = ["LONG_S", "MIN_BEFORE", "UNSEEN", "BlockSource", "GateJudge", "Watched"]

MIN_BEFORE = 30
"""Blocks of the old engine from which a device is judged: five minutes."""
MAX_AFTER = 256
"""Blocks of the new engine that are bet on, for each device: 43 minutes. A record holds them all."""
LONG_S = 3600.0
"""From here on a history is long: it has seen the scene change."""
UNSEEN = math.log2(1.25)
"""What a scene may cost that a shorter history has not seen. Of latency, in log2: a quarter more."""
CONTROLS = 3
"""For each device, at most."""
_SETTLED = 4 * CONTROLS
"""Devices of a stratum that may be controls of later ones: those that got the release first."""
_LISTED = 4
"""Devices that a record lists."""
_WAIT_BLOCKS = 3
"""So long a control that is silent is waited for."""


@dataclass(frozen=True)
class Watched:
    """A device that has the release, or is getting it."""

    name: str
    stratum: str
    """Devices of the same kind: ``jetson-orin, from gate@1.0``. Different ones are never put together."""
    site: str | None
    """Devices of one site may see the same scene."""
    before: str
    """Digest of the engine that it had."""
    asked_s: float
    """When it was asked: what it did before counts as before."""
    proof: EngineProof | None = None
    """What it found of the new engine before that served; None: it has not told yet."""
    proof_before: EngineProof | None = None
    """The same of the engine before, if it has told."""


class BlockSource(Protocol):
    """What is known of engines in the slot of the rollout."""

    def last_s(self, device: str, digest: str) -> float:
        """End of the newest block; -inf: there is none."""
        ...

    def history(self, device: str, digest: str, until_s: float) -> BlockHistory:
        """What it did until then."""
        ...

    def since(self, device: str, digest: str, at_s: float) -> Sequence[Block]:
        """Blocks that ended later, oldest first."""
        ...


@dataclass
class _Betting:
    """One device at one gate."""

    watched: Watched
    place: int
    multiplies: bool
    bets: RankBets | MeanBets | CertainBets | None
    before: tuple[float, ...]
    known: tuple[float, ...]
    """``before``, sorted."""
    slack: float
    controls: tuple[ControlDevice, ...]
    until_s: float
    lacks: str | None = None
    after: list[float] = field(default_factory=list)
    won: float = 0.0
    """Log of its wealth."""

    @property
    def logs(self) -> list[float]:
        assert self.bets is not None
        return self.bets.logs

    def record(self) -> Bets:
        return Bets(
            device=self.watched.name,
            place=self.place,
            multiplies=self.multiplies,
            before=self.before,
            after=tuple(self.after),
            slack=self.slack,
            controls=self.controls,
            until_s=self.until_s,
        )


class GateJudge:
    """Of one rollout. Keeps what was bet so far; the last records (:meth:`resume`) are enough to go on after a restart
    with the devices that they list."""

    def __init__(self, gates: Sequence[GateTerms], digest: str, alpha: float) -> None:
        """``digest``: of the new engine. ``alpha``: the chance that any gate of the rollout ever stops it wrongly."""
        self._gates = tuple(gates)
        self._digest = digest
        self._alpha = alpha
        self._by_chance = max(1, sum(type_of(terms).bets != "once" for terms in self._gates))
        """Gates that α is split over."""
        self._devices: list[dict[str, _Betting]] = [{} for _ in self._gates]
        self._strata: list[str] = []
        """In the order in which they came."""
        self._served: set[str] = set()
        """Controls that have a device."""
        self._settled: dict[str, list[str]] = {}
        """Stratum → devices that got the release first."""
        self._decisions: dict[tuple[int, str], GateDecision] = {}

    def look(
        self, watched: Sequence[Watched], free: Mapping[str, Sequence[str]], blocks: BlockSource, now_s: float
    ) -> tuple[GateDecision, ...]:
        """What all gates say now; only what changed is worked out again.

        ``watched``: in the order in which they were asked. ``free``: stratum → devices of it that have not been asked,
        those that come last first.
        """
        self._settled = {}
        for w in watched:
            if len(first := self._settled.setdefault(w.stratum, [])) < _SETTLED:
                first.append(w.name)
        for k, terms in enumerate(self._gates):
            moving = list(watched)
            while (
                moving
            ):  # a block of each at a time: nothing that was won on the way is lost by looking late
                moving = [
                    w for w in moving if not self._is_over(k, w) and self._follow(k, terms, w, free, blocks)
                ]
                for stratum in sorted({w.stratum for w in moving}):
                    self._decisions[k, stratum] = self._decide(k, terms, stratum, now_s)
        return tuple(self._decisions.values())

    def resume(self, decisions: Sequence[GateDecision], watched: Mapping[str, Watched]) -> None:
        """Go on from records of an earlier run."""
        titles = {type_of(terms).title(terms): k for k, terms in enumerate(self._gates)}
        for d in decisions:
            k = titles.get(d.gate)
            if k is None:
                continue
            if d.stratum not in self._strata:
                self._strata.append(d.stratum)
            self._decisions[k, d.stratum] = d
            for b in d.devices:
                if b.device in watched:
                    self._devices[k][b.device] = self._again(d, b, watched[b.device])
                    self._served.update(c.device for c in b.controls)

    def _is_over(self, k: int, w: Watched) -> bool:
        """WORSE once is WORSE: that is what α is paid for."""
        d = self._decisions.get((k, w.stratum))
        return d is not None and d.verdict is GateVerdict.WORSE

    def _again(self, d: GateDecision, b: Bets, w: Watched) -> _Betting:
        found = _Betting(
            w,
            b.place,
            b.multiplies,
            _bets(d.bets, d.allowed, len(b.before)),
            b.before,
            tuple(sorted(b.before)),
            b.slack,
            b.controls,
            b.until_s,
        )
        for x in b.after:
            _bet(found, x, d.allowed)
        return found

    def _follow(
        self,
        k: int,
        terms: GateTerms,
        w: Watched,
        free: Mapping[str, Sequence[str]],
        blocks: BlockSource,
    ) -> bool:
        """Bet on the next block. Whether there was anything to bet on, or to say."""
        if type_of(terms).of_proof is not None:
            return self._follow_proof(k, terms, w)
        last_s = blocks.last_s(w.name, self._digest)
        if last_s == -math.inf:
            return False
        device = self._devices[k].get(w.name)
        if device is None:
            device = self._devices[k][w.name] = self._begin(k, terms, w, free, blocks)
            if device.lacks is not None:
                return True
        if device.lacks is not None or last_s <= device.until_s or len(device.after) >= MAX_AFTER:
            return False
        gate = type_of(terms)
        for block in _each(gate, blocks.since(w.name, self._digest, device.until_s)):
            figure = gate.of(terms, block)
            if device.controls:
                since_s = block.at_s - 4 * block.seconds
                controls = [blocks.since(c.device, c.engine, since_s) for c in device.controls]
                late = block.at_s + _WAIT_BLOCKS * block.seconds <= last_s
                if not late and any(not c or c[-1].at_s < block.at_s - block.seconds / 2 for c in controls):
                    return False
                figure -= _mean([gate.of(terms, b) for b in paired(block, controls)], len(device.controls))
            device.until_s = block.at_s
            if not math.isnan(figure):
                _bet(device, round(figure, 5), gate.allowed(terms))
                return True
        return False

    def _follow_proof(self, k: int, terms: GateTerms, w: Watched) -> bool:
        """The same of what the device found before the engine served."""
        gate = type_of(terms)
        assert gate.of_proof is not None
        if w.proof is None:
            return False
        found = gate.of_proof(terms, w.proof, w.proof_before)
        device = self._devices[k].get(w.name)
        if device is None:
            if w.stratum not in self._strata:
                self._strata.append(w.stratum)
            if isinstance(found, str):
                self._devices[k][w.name] = _lacking(w, f"{w.name}: {found}")
                return True
            place, first = self._peers(k, w)
            bets = _bets(gate.bets, gate.allowed(terms), len(found.before))
            before = tuple(_known(found.before))
            device = _Betting(w, place, first, bets, before, before, round(found.slack, 5), (), w.asked_s)
            self._devices[k][w.name] = device
        if isinstance(found, str) or device.lacks is not None or len(device.after) >= len(found.after):
            return False
        _bet(device, round(found.after[len(device.after)], 5), gate.allowed(terms))
        return True

    def _peers(self, k: int, w: Watched) -> tuple[int, bool]:
        """How many of its stratum bet before it, and whether none of them sees its scene."""
        peers = [d for d in self._devices[k].values() if d.watched.stratum == w.stratum and d.lacks is None]
        site = w.site or w.name
        return len(peers), all((d.watched.site or d.watched.name) != site or d.controls for d in peers)

    def _begin(
        self,
        k: int,
        terms: GateTerms,
        w: Watched,
        free: Mapping[str, Sequence[str]],
        blocks: BlockSource,
    ) -> _Betting:
        """Look once at what the device did before, and never again: who may choose later bets on chance."""
        gate = type_of(terms)
        if w.stratum not in self._strata:
            self._strata.append(w.stratum)
        place, first = self._peers(k, w)
        if gate.bets == "mean":
            bound = MeanBets(gate.allowed(terms))
            return _Betting(w, place, first, bound, (), (), 0.0, (), w.asked_s)
        history = self._before(w, blocks)
        if gate.lasting:
            history = BlockHistory(history.coarse[0] if history.coarse else (), history.coarse[1:])
        own = _known(gate.of(terms, b) for b in history.blocks)
        if len(own) < MIN_BEFORE:
            of = f" of {COARSE[0] * BLOCK_S:.0f} s" if gate.lasting else ""
            lacks = f"{w.name}: {len(own)} of {MIN_BEFORE} blocks{of} of the engine before"
            return _lacking(w, lacks)
        controls, alone = ((), False) if gate.lasting else self._controls(k, w, free, blocks)
        before = self._less_controls(terms, w, history, controls, blocks)
        slack = drift(before, place=place)
        if not before and not gate.alone:
            lacks = f"{w.name}: no device of its kind to compare it with"
            return _lacking(w, lacks)
        if not before:
            controls, before = (), own
            coarse = [
                (m, _known(gate.of(terms, b) for b in level))
                for m, level in zip(
                    COARSE, history.coarse, strict=False
                )  # of eight blocks each: 8 is right, too
            ]
            slack = drift(own, coarse, place)
            if gate.name == "latency" and history.covers_s < LONG_S:
                slack = max(slack, UNSEEN)
        self._served.update(c.device for c in controls)
        bets = RankBets(len(before))
        return _Betting(
            w,
            place,
            alone if controls else first,
            bets,
            tuple(before),
            tuple(sorted(before)),
            round(slack, 5),
            controls,
            w.asked_s,
        )

    def _before(self, w: Watched, blocks: BlockSource) -> BlockHistory:
        """What it did before it was asked: from then on it had the download beside its work. Where that was too long ago,
        for example because it waited for its window, what it did until the new engine began."""
        history = blocks.history(w.name, w.before, w.asked_s)
        if len(history.blocks) >= MIN_BEFORE:
            return history
        first = blocks.since(w.name, self._digest, w.asked_s)[:1]
        return blocks.history(w.name, w.before, first[0].at_s - first[0].seconds) if first else history

    def _controls(
        self, k: int, w: Watched, free: Mapping[str, Sequence[str]], blocks: BlockSource
    ) -> tuple[tuple[ControlDevice, ...], bool]:
        """The same at every gate; and whether nothing that another device says depends on them."""
        for devices in self._devices[:k]:
            if w.name in devices and devices[w.name].controls:
                return devices[w.name].controls, devices[w.name].multiplies
        old = [ControlDevice(device=c, engine=w.before) for c in free.get(w.stratum, ()) if c != w.name]
        old = [c for c in old if blocks.last_s(c.device, c.engine) > w.asked_s]
        own = [c for c in old if c.device not in self._served][:CONTROLS]
        if len(own) == CONTROLS:
            return tuple(own), True
        new = [c for c in self._settled.get(w.stratum, ()) if c != w.name]
        had = [c for c in new if self._has_had_it(c, w, blocks)]
        rest = [*old, *(ControlDevice(device=c, engine=self._digest) for c in had)]
        chosen = (*own, *(c for c in rest if c not in own))[:CONTROLS]
        return chosen, len(chosen) == len(own)

    def _has_had_it(self, device: str, w: Watched, blocks: BlockSource) -> bool:
        """The release, for as long as ``w`` has to be known with what it had before."""
        until_s = w.asked_s - MIN_BEFORE * BLOCK_S
        there = blocks.last_s(device, self._digest) > w.asked_s
        return there and bool(blocks.history(device, self._digest, until_s).blocks)

    def _less_controls(
        self,
        terms: GateTerms,
        w: Watched,
        history: BlockHistory,
        controls: Sequence[ControlDevice],
        blocks: BlockSource,
    ) -> list[float]:
        """The figure of each block less the controls' at its time; empty where these do not go back far enough."""
        if not controls or not history.blocks:
            return []
        gate = type_of(terms)
        since_s = history.blocks[0].at_s - history.blocks[0].seconds
        known = [blocks.since(c.device, c.engine, since_s) for c in controls]
        found = []
        for block in history.blocks:
            theirs = [gate.of(terms, b) for b in paired(block, known)]
            found.append(gate.of(terms, block) - _mean(theirs, len(controls)))
        both = _known(found)
        return both if len(both) >= MIN_BEFORE else []

    def _decide(self, k: int, terms: GateTerms, stratum: str, now_s: float) -> GateDecision:
        gate = type_of(terms)
        mine = [d for d in self._devices[k].values() if d.watched.stratum == stratum]
        judged = sorted((d for d in mine if d.lacks is None), key=lambda d: -d.won)
        alpha = self._alpha / self._by_chance * share(self._strata.index(stratum))
        listed = [(d.record(), d.logs) for d in judged[:_LISTED]]
        rest = _rest(judged[_LISTED:])
        log, verdict = standing(listed, rest, alpha)
        lacking = tuple(d.lacks for d in mine if d.lacks is not None)[:_LISTED]
        found = GateDecision(
            gate=gate.title(terms),
            kind=gate.name,
            bets=gate.bets,
            stratum=stratum,
            at_s=now_s,
            allowed=gate.allowed(terms),
            alpha=alpha,
            verdict=verdict,
            log_wealth=log,
            devices=tuple(bets for bets, _ in listed),
            rest=rest,
            lacking=lacking,
        )
        return found.model_copy(update={"reason": _told(found, gate)})


def _each(gate: GateType, blocks: Sequence[Block]) -> Sequence[Block]:
    """What a gate bets on next: a block, or whole eights of them."""
    if not gate.lasting:
        return blocks
    n = COARSE[0]
    return [merged(blocks[i : i + n]) for i in range(0, len(blocks) - n + 1, n)]


def _lacking(w: Watched, lacks: str) -> _Betting:
    return _Betting(w, 0, False, None, (), (), 0.0, (), 0.0, lacks)


def _bets(kind: Bettings, allowed: float, before: int) -> RankBets | MeanBets | CertainBets:
    if kind == "once":
        return CertainBets()
    return MeanBets(allowed) if kind == "mean" else RankBets(before)


def _bet(device: _Betting, figure: float, allowed: float) -> None:
    device.after.append(figure)
    if isinstance(device.bets, MeanBets):
        device.bets.add(figure)
    elif isinstance(device.bets, CertainBets):
        device.bets.add(above=figure > device.before[0] + allowed + device.slack)
    elif device.bets is not None:
        device.bets.add(bisect_left(device.known, figure - allowed - device.slack))
    device.won = mixed(device.logs)


def _rest(devices: Sequence[_Betting]) -> Rest:
    if not devices:
        return Rest()
    sums = [d.logs for d in devices if d.multiplies]
    return Rest(
        devices=len(devices),
        staked=log_sum([math.log(share(d.place)) + d.won for d in devices]),
        sums=tuple(sum(column) for column in zip(*sums, strict=True)) if sums else Rest().sums,
    )


def _told(d: GateDecision, gate: GateType) -> str:
    """In a sentence."""
    if d.verdict is GateVerdict.CANNOT_JUDGE:
        return f"{d.gate} cannot be judged: {'; '.join(d.lacking)}"
    worst = d.devices[0]
    now = fmean(worst.after) if worst.after else 0.0
    many = (
        f", first of {len(d.devices) + d.rest.devices} devices" if len(d.devices) + d.rest.devices > 1 else ""
    )
    if d.bets == "mean":
        return f"{d.gate} on {worst.device}{many}: {gate.shown(now)}, {gate.shown(d.allowed)} may"
    was = fmean(worst.before)
    what = f"{gate.shown(now)} after {gate.shown(was)}"
    if worst.controls:
        what = f"{gate.apart(now - was)}, less what {len(worst.controls)} others did meanwhile"
    over = "" if d.bets == "once" else f", over {len(worst.after)} blocks"
    return f"{d.gate} on {worst.device}{many}: {what}{over}"


def _known(figures: Iterable[float]) -> list[float]:
    """As records have them: what is compared is what is written down."""
    return [round(x, 5) for x in figures if not math.isnan(x)]


def _mean(figures: Sequence[float], asked: int) -> float:
    """nan where fewer than half of them are there."""
    there = [x for x in figures if not math.isnan(x)]
    return fmean(there) if 2 * len(there) >= asked and there else math.nan
