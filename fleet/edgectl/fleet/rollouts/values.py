"""What a rollout is: what was asked, where it stands, what became of each device, and what the planner
sees and says. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pydantic import Field

from edgectl.core.histogram import Histogram
from edgectl.core.schema import Digest, Message, Name, Terms
from edgectl.core.wire import ClearSlot, DesiredSlot, Policy, ReportedSlot

__all__ = [
    "ACTIVE",
    "BUSY",
    "OPEN",
    "OPEN_BACK",
    "DeviceOutcome",
    "DeviceView",
    "LatencyEvidence",
    "Member",
    "RolloutProgress",
    "RolloutRequest",
    "RolloutSpec",
    "RolloutState",
    "SetSlot",
]


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


class RolloutRequest(Terms):
    """What ``edgectl rollout start`` asks for. Times in seconds."""

    release: str
    slot: Name
    policy: Policy = Policy()
    labels: dict[str, str] = {}
    """Only devices with all of these labels."""
    devices: tuple[Name, ...] = ()
    """Only these devices; empty: all that have the slot."""
    canary: int = Field(default=1, ge=1)
    soak_s: float = Field(default=0.0, ge=0)
    """Time between the last commit of the canary and the rest."""
    deadline_s: float = Field(default=24 * 3600.0, gt=0)
    """From admission to COMMITTED, while online."""
    idle_s: float = Field(default=24 * 3600.0, gt=0)
    """How long it may wait with nobody there who could show that the release works."""
    back_s: float = Field(default=3600.0, gt=0)
    """How long it waits for devices that are there to go back to what they had."""
    max_canary_failures: int = Field(default=0, ge=0)
    max_failure_rate: float = Field(default=0.05, ge=0, le=1)
    max_latency_ratio: float | None = Field(default=1.5, gt=0)
    retries: int = Field(default=3, ge=0, le=20)
    """How often a device is asked again that could not fetch or store the release."""
    retry_after_s: float = Field(default=300.0, gt=0)
    """Until the first of them; each takes twice as long as the one before, at most 6 h."""
    rollback: bool = True
    """On failure, devices that already have the release get back what they had. An operator can take it
    back in any case."""


class RolloutSpec(RolloutRequest):
    """What is wanted, as the planner takes it."""

    id: str
    digest: Digest
    attempt: int = Field(default=1, ge=1)
    lost_s: float = Field(default=90.0, gt=0)
    """Gone for this long in the middle of an activation, on the way back, or since before it was asked: it
    is not just a lost connection."""
    away_s: float = Field(default=600.0, gt=0)
    """Offline for this long before an activation: nobody waits for it; not even this long for one that was
    offline when it was asked."""


class Member(Message):
    wave: int
    outcome: DeviceOutcome = DeviceOutcome.WAITING
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


class RolloutProgress(Message):
    state: RolloutState = RolloutState.RUNNING
    reason: str | None = None
    note: str | None = None
    """Whom it waits for, or expects after its end."""
    wave: int = 0
    wave_done_s: float | None = None
    idle_since_s: float | None = None
    """Since when nobody is there who could show that the release works."""
    ending: RolloutState | None = None
    """What it is once devices are back; None: nothing is taken back."""
    back_since_s: float | None = None
    members: dict[str, Member] = {}

    @property
    def unfinished(self) -> bool:
        """Somebody still has to be looked after: also when a rollout has ended, those who are not back
        yet."""
        expected = OPEN if self.ending is None else OPEN_BACK
        done = self.state is RolloutState.DONE  # then also those who were named and never there
        open_ = (
            m for m in self.members.values() if m.outcome in expected and (done or m.admitted_s is not None)
        )
        return self.state in ACTIVE or any(open_)


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


@dataclass(frozen=True)
class LatencyEvidence:
    """Engine latency of the devices in the rollout, with what they had and with the release."""

    before: Histogram
    after: Histogram


@dataclass(frozen=True)
class SetSlot:
    """Write this into the device's ``desired``."""

    device: str
    slot: str
    desired: DesiredSlot | ClearSlot
