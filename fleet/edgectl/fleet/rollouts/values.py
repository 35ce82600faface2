"""What a rollout is: what was asked, where it stands, what became of each device, and what the planner
sees and says. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from edgectl.core.schema import Digest, Message, Name, Terms, wrong_at
from edgectl.core.wire import ClearSlot, DesiredSlot, Policy, ReportedSlot
from edgectl.fleet.rollouts.gates.agreement import AgreementTerms
from edgectl.fleet.rollouts.gates.decision import GateDecision
from edgectl.fleet.rollouts.gates.drops import DropTerms
from edgectl.fleet.rollouts.gates.errors import ErrorTerms
from edgectl.fleet.rollouts.gates.golden import GoldenTerms
from edgectl.fleet.rollouts.gates.latency import LatencyTerms
from edgectl.fleet.rollouts.gates.table import GateTerms
from edgectl.fleet.rollouts.selection import check_field, parse_query

__all__ = [
    "ACTIVE",
    "BUSY",
    "OPEN",
    "OPEN_BACK",
    "DeviceOutcome",
    "DeviceView",
    "GateEvidence",
    "MaxUnavailable",
    "Member",
    "Ramp",
    "RolloutProgress",
    "RolloutRequest",
    "RolloutSpec",
    "RolloutState",
    "SetSlot",
    "Wave",
    "having",
]


def _query(text: str) -> str:
    parse_query(text)
    return text


Select = Annotated[str, AfterValidator(_query)]
"""A query over devices (:mod:`edgectl.fleet.rollouts.selection`)."""

Facet = Annotated[str, AfterValidator(check_field)]
"""A field of such a query."""


class RolloutState(str, Enum):
    RUNNING = "running"
    PAUSED = "paused"
    """Nobody new; devices that began go on."""
    ROLLING_BACK = "rolling_back"
    """Devices get back what they had. It ends as ``Progress.ending`` says, at the latest after ``back_s``."""
    STOPPED = "stopped"
    """By a gate, a deadline, or because the release was withdrawn."""
    ABORTED = "aborted"
    """By an operator."""
    ROLLED_BACK = "rolled_back"
    """By an operator, after it had come to its end."""
    DONE = "done"


ACTIVE = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.ROLLING_BACK})
"""Such a rollout has its slot for itself."""


class DeviceOutcome(str, Enum):
    __hash__ = str.__hash__  # Enum's own is Python: a fleet's members are looked up in sets at every tick

    WAITING = "waiting"
    ADMITTED = "admitted"
    RETRYING = "retrying"
    """It could not, for a reason that passes (no space, no time); it is asked again."""
    COMMITTED = "committed"
    FAILED = "failed"
    AWAY = "away"
    """Offline; it takes what is wanted when it is back, and nobody waits for it."""
    LOST = "lost"
    """Offline since the middle of an activation: nobody knows whether the release is to blame."""
    SKIPPED = "skipped"
    """An operator left it out; it keeps, or gets back, what it had."""
    RETURNING = "returning"
    """It is to go back to what it had."""
    LATE = "late"
    """It is there, and did not do in time what it was asked. It is still expected to."""
    RESTORED = "restored"
    SUPERSEDED = "superseded"
    """Another release took the slot before the device was back."""
    STRANDED = "stranded"
    """It was to go back, and did not take what it had before either: somebody has to look at it."""


BUSY = frozenset({DeviceOutcome.ADMITTED, DeviceOutcome.RETRYING})
OPEN = BUSY | {DeviceOutcome.AWAY, DeviceOutcome.LOST, DeviceOutcome.LATE}
"""Something is still expected of such a device."""
OPEN_BACK = frozenset({DeviceOutcome.RETURNING, DeviceOutcome.AWAY, DeviceOutcome.LATE})
"""The same where the release is taken back."""


class Ramp(Terms):
    """How fast a wave goes: ``start`` devices a minute, ``factor`` times as many after each ``every`` that committed it in
    this wave, ``most`` a minute at most."""

    start: float = Field(ge=1, le=1e6)
    factor: float = Field(default=2.0, ge=1, le=100)
    every: int = Field(ge=1)
    most: float = Field(default=1000.0, ge=1, le=1e6)

    def per_minute(self, committed: int) -> float:
        steps = min(committed // self.every, 64)
        return min(self.most, self.start * self.factor**steps)


class Wave(Terms):
    """A part of a rollout after its canary. Exactly one of ``share`` and ``count``: how far the rollout has come with
    it, of all devices that it selects, or how many devices more."""

    share: float | None = Field(default=None, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    soak_s: float = Field(default=0.0, ge=0)
    """Time after its last commit, and"""
    soak_inferences: int = Field(default=0, ge=0)
    """inferences of the release on all devices since then, before the next wave."""
    approval: bool = False
    """It begins only once an operator has said so."""
    ramp: Ramp | None = None

    @model_validator(mode="after")
    def _one_size(self) -> Wave:
        if (self.share is None) == (self.count is None):
            raise ValueError("a wave has a share or a count, one of them")
        return self


class MaxUnavailable(Terms):
    """How many devices with the same values of the field ``per`` may be away or busy with the release at once: at
    least one, else nothing would go on."""

    share: float = Field(gt=0, le=1)
    per: Facet = "label.site"


class RolloutRequest(Terms):
    """What ``edgectl rollout start`` asks for. Times in seconds."""

    release: str
    slot: Name
    policy: Policy = Policy()
    labels: dict[str, str] = {}
    """Only devices with all of these labels."""
    devices: tuple[Name, ...] = ()
    """Only these devices; empty: all that have the slot."""
    select: Select = ""
    """Only devices that this query means (:mod:`edgectl.fleet.rollouts.selection`)."""
    strata: tuple[Facet, ...] = Field(default=(), max_length=4)
    """Devices with the same values of these fields are a stratum. Each wave takes its share of every one."""
    canary: int = Field(default=1, ge=1)
    canary_per_stratum: int = Field(default=0, ge=0)
    """At least so many of each stratum, also where that makes more than ``canary``."""
    canary_devices: tuple[Name, ...] = ()
    """Just these are the canary, and nobody takes the place of one that is away."""
    soak_s: float = Field(default=0.0, ge=0)
    """Time between the last commit of the canary and the next wave, and"""
    soak_inferences: int = Field(default=0, ge=0)
    """inferences of the release in that time."""
    waves: tuple[Wave, ...] = Field(default=(), max_length=64)
    """After the canary; none: all the rest at once. The last one reaches all."""
    start_s: float | None = Field(default=None, ge=0, le=253402300799)
    """Unix time before which nobody is asked."""
    in_flight: int | None = Field(default=None, ge=1)
    """How many devices may be busy with it at once."""
    per_minute: int | None = Field(default=None, ge=1)
    """How many may be asked within a minute."""
    max_unavailable: MaxUnavailable | None = None
    quorum: float = Field(default=0.0, ge=0, le=1)
    """The share of a wave that has to have committed it before the next; 0: one device of the rollout. Who is away
    counts as not having done so. Where it is not reached within ``idle_s``, nobody else is asked."""
    total_s: float | None = Field(default=None, gt=0)
    """From its start; then nobody else is asked, and nothing is taken back. Not while it is paused."""
    supersede: bool = False
    """It takes the place of one that is under way in the slot. That one asks nobody else, and nothing is taken back."""
    deadline_s: float = Field(default=24 * 3600.0, gt=0)
    """From admission to COMMITTED, while online."""
    idle_s: float = Field(default=24 * 3600.0, gt=0)
    """How long it may wait with nobody there who could show that the release works."""
    back_s: float = Field(default=3600.0, gt=0)
    """How long it waits for devices that are there to go back to what they had."""
    max_canary_failures: int = Field(default=0, ge=0)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    max_latency_ratio: float | None = Field(default=1.5, gt=0)
    """Of the two latency gates that there are where ``gates`` names none; None: latency is not judged."""
    gates: tuple[GateTerms, ...] | None = Field(default=None, max_length=16)
    """What is measured on devices that have the release. None: latency at the percentile of the policy and at the
    median, errors, drops, golden, and agreement where the policy asks for a shadow."""
    alpha: float = Field(default=0.01, gt=0, lt=1)
    """The chance that any of the gates stops a good release, however long and often it is looked at."""
    retries: int = Field(default=3, ge=0, le=20)
    """How often a device is asked again that could not fetch or store the release."""
    retry_after_s: float = Field(default=300.0, gt=0)
    """Until the first of them; each takes twice as long as the one before, at most 6 h."""
    rollback: bool = True
    """On failure, devices that already have the release get back what they had. An operator can take it
    back in any case."""

    @model_validator(mode="after")
    def _makes_sense(self) -> RolloutRequest:
        if self.waves and self.waves[-1].share != 1.0:
            raise wrong_at(
                ("waves", len(self.waves) - 1), "the last wave has to reach all devices: share: 100%"
            )
        largest = 0.0
        for i, wave in enumerate(self.waves):
            if wave.share is not None and wave.share <= largest:
                what = f"{wave.share:.0%} are reached already by a wave before: shares are of all devices, and rise"
                raise wrong_at(("waves", i, "share"), what)
            largest = wave.share or largest
        if self.supersede and self.start_s is not None:
            raise wrong_at(
                ("supersede",), "a rollout that begins later cannot take the place of one that is under way"
            )
        if self.canary_per_stratum and not self.strata:
            raise wrong_at(("canary_per_stratum",), "it needs strata, e.g. [profile]")
        if strangers := sorted(set(self.canary_devices) - set(self.devices)) if self.devices else []:
            raise wrong_at(("canary_devices",), f"{strangers[0]} is none of the devices that are selected")
        return self

    def wave(self, number: int) -> Wave:
        """What is said of a wave: 0 is the canary; with none said, 1 is all the rest."""
        if number == 0:
            return Wave(count=self.canary, soak_s=self.soak_s, soak_inferences=self.soak_inferences)
        return self.waves[number - 1] if number <= len(self.waves) else Wave(share=1.0)

    @property
    def last_wave(self) -> int:
        return max(1, len(self.waves))

    def gates_in_force(self) -> tuple[GateTerms, ...]:
        """Those of ``gates``, or the usual ones."""
        if self.gates is not None:
            return self.gates
        latency = [
            LatencyTerms(percentile=percentile, max_ratio=self.max_latency_ratio)
            for percentile in dict.fromkeys((self.policy.percentile, 50))
            if self.max_latency_ratio is not None
        ]
        rate = min(max(self.policy.max_error_rate, 1e-4), 0.999)
        shadow = () if self.policy.shadow is None else (AgreementTerms(), AgreementTerms(of="extra"))
        return (*latency, ErrorTerms(max_rate=rate), DropTerms(), GoldenTerms(), *shadow)


class RolloutSpec(RolloutRequest):
    """What is wanted, as the planner takes it."""

    id: str
    digest: Digest
    attempt: int = Field(default=1, ge=1)
    ways_back: dict[Name, DesiredSlot | None] = {}
    """Devices on which an earlier rollout was cut short: what they have to go back to, instead of what they are on
    their way to. None: an empty slot."""
    lost_s: float = Field(default=90.0, gt=0)
    """Gone for this long in the middle of an activation, on the way back, or since before it was asked: it
    is not just a lost connection."""
    away_s: float = Field(default=600.0, gt=0)
    """Offline for this long before an activation: nobody waits for it; not even this long for one that was
    offline when it was asked."""


class Member(Message):
    wave: int
    outcome: DeviceOutcome = DeviceOutcome.WAITING
    stratum: str = ""
    """Its values of the fields of ``strata`` when it was selected, e.g. ``north/jetson-orin``."""
    admitted_s: float | None = None
    tries: int = 0
    """How often it was asked again."""
    retry_s: float | None = None
    """When it is asked again."""
    before: DesiredSlot | None = None
    """What it had, and gets back; None: the slot was empty."""
    untold: bool = False
    """When it was taken back, the release had not gone out to it: it waited for the signature of an
    operator."""
    left: bool = False
    """It has left the fleet since: nothing is asked of it any more. One of that name that is enrolled
    later is another device."""
    detail: str | None = None


def having(members: Mapping[str, Member], outcomes: frozenset[DeviceOutcome]) -> dict[str, Member]:
    """Those with such an outcome. A fleet is walked with every tick: no call for each of its members."""
    return {n: m for n, m in members.items() if m.outcome in outcomes}


class RolloutProgress(Message):
    state: RolloutState = RolloutState.RUNNING
    reason: str | None = None
    note: str | None = None
    """Whom it waits for, or expects after its end."""
    wave: int = 0
    began_s: float | None = None
    """When the first devices were asked, or could have been."""
    wave_done_s: float | None = None
    wave_done_n: int = 0
    """Inferences of the release until then."""
    approved: int = 0
    """The last wave that an operator has let begin."""
    idle_since_s: float | None = None
    """Since when nobody is there who could show that the release works."""
    ending: RolloutState | None = None
    """What it is once devices are back; None: nothing is taken back."""
    back_since_s: float | None = None
    decisions: tuple[GateDecision, ...] = ()
    """The last of each gate and stratum."""
    members: dict[str, Member] = {}

    @property
    def unfinished(self) -> bool:
        """Somebody still has to be looked after: also when a rollout has ended, those who are not back
        yet."""
        expected = OPEN if self.ending is None else OPEN_BACK
        done = self.state is RolloutState.DONE  # then also those who were named and never there
        open_ = having(self.members, expected).values()
        return self.state in ACTIVE or any(done or m.admitted_s is not None for m in open_)


@dataclass(frozen=True)
class DeviceView:
    """A device as the controller knows it. Times are Unix seconds."""

    name: str
    online: bool
    seen_s: float
    slots: frozenset[str]
    labels: Mapping[str, str]
    desired: Mapping[str, DesiredSlot]
    reported: Mapping[str, ReportedSlot]
    gen: int = 0
    """Of the desired document."""
    clear: Mapping[str, ClearSlot] = field(default_factory=dict)
    """Slots that are wanted empty."""
    unsigned: bool = False
    """Its desired document waits for the signature of an operator, and has not gone out."""
    profile: str | None = None
    facts: frozenset[str] = frozenset()
    """Probed: ``arch:x86_64``, ``sm:8.7``, …"""
    streams: Mapping[str, str] = field(default_factory=dict)
    """Stream → kind of pipeline."""
    config_slots: frozenset[str] = frozenset()
    """Those of its slots that hold configurations."""
    groups: frozenset[str] = frozenset()
    """Groups of devices that it is in."""


@dataclass(frozen=True)
class GateEvidence:
    """What telemetry says of the devices in the rollout, up to now."""

    decisions: tuple[GateDecision, ...] = ()
    """What the gates make of it: of each gate and stratum the last."""
    inferences: int = 0
    """Of the release, on all of them."""


@dataclass(frozen=True)
class SetSlot:
    """Write this into the device's ``desired``."""

    device: str
    slot: str
    desired: DesiredSlot | ClearSlot
