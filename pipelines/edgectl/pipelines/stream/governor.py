"""Which part of the work a stream leaves out when the machine cannot do all of it, and when it takes it up
again. Pure: what is measured comes in with its time, a rung of the ladder comes out.

A stream that loses frames to overload goes at once to the first rung whose cost is predicted to fit. It comes
back one rung at a time, after a calm that doubles with every relapse, so that a load that comes and goes does
not make it go up and down with it.

Left out: measuring, and doing what a rung says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgectl.core.bundle import LighterPreference
from edgectl.core.schema import Config

__all__ = [
    "Change",
    "Governor",
    "GovernorConfig",
    "Lighter",
    "LoadLimits",
    "Reason",
    "Rung",
    "StreamLoad",
    "ladder",
]

Reason = Literal["overload", "temperature", "memory", "power", "calm"]

_WINDOW_S = 1.0
"""Losses are judged over so much time."""
_LOST = 0.05
"""Share of the frames whose loss is overload; less is jitter."""
_LEAST_FRAMES = 5
_FITS = 0.8
"""Demand that is aimed at: an engine that is busier answers late now and then."""
_ROOM = 0.65
"""Demand that must be predicted for a rung to be climbed back to."""
_CALM_S = 10.0
_MOST_CALM_S = 900.0
_RELAPSE_S = 180.0
"""Overload so soon after a rung was climbed says that the calm was too short."""
_STEP_S = 2.0
"""After a change its effect is awaited for so long."""
_COOL_STEP_S = 20.0
"""The same for heat and memory, which answer slowly."""
_COOLER_C = 6.0
"""Below the limit by so much, a device counts as cool again."""
_MEMORY_AGAIN = 1.5
_CHEAPER = 0.9
"""A rung that is not cheaper than the one before by so much is none."""
_WITHOUT_REGIONS = 0.6
_KEY_FRAMES = 0.05
"""Nobody knows before how many regions there are to look at, and how rare key frames are: guesses, with which the rung
above is predicted. What it really costs is measured once it is there."""


class LoadLimits(Config):
    """What every kind has."""

    on: bool = True
    """Do less before frames are lost at random."""
    variants: tuple[LighterPreference, ...] = ("low-power",)
    """Variants of the detector's bundle that take its place where less has to be done, by what they are best at.
    `small-input` finds less: the bundle says how much less. One that is not in the bundle is left out."""
    temperature_c: float | None = Field(default=90.0, gt=30, le=120)
    """From this temperature of the machine's hottest sensor on, less is done. None: never for that."""
    memory_mb: float | None = Field(default=64.0, ge=0)
    """Less is done while the machine has less memory available. None: never for that."""
    power_modes: tuple[str, ...] = ("low-power",)
    """Modes of the machine in which something less is done, as on a battery: nvpmodel's names (`MODE_7W`), or the
    firmware's profile."""

    @property
    def every(self) -> tuple[int, ...]:
        """Of how many frames one may be looked at, beside each."""
        return ()

    @property
    def keys(self) -> bool:
        """Whether all frames but key frames may be left out."""
        return False


class GovernorConfig(LoadLimits):
    detect_every: tuple[Annotated[int, Field(ge=2, le=100)], ...] = (2, 3, 5)
    """Rungs on which only every n-th frame is looked at; the tracker knows the time between them. The others are
    dropped (``degraded``)."""
    key_frames: bool = False
    """The last rung: of a network camera nothing but key frames is decoded, one in some seconds mostly. For heat and
    want of memory or power."""

    @property
    def every(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.detect_every)))

    @property
    def keys(self) -> bool:
        return self.key_frames


@dataclass(frozen=True, slots=True)
class Lighter:
    """Another variant that can take the detector's place."""

    name: LighterPreference
    """What it is best at."""
    cost: float
    """Engine time a frame, as a share of what the detector's own variant takes; less than 1."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to do less than everything."""

    detect_every: int = 1
    variant: Lighter | None = None
    """In place of the detector's own."""
    regions: bool = True
    """False: the whole picture alone, where regions are asked for."""
    key_frames: bool = False
    """Nothing else is decoded."""

    @property
    def cost(self) -> float:
        """Engine time an incoming frame, as a share of what doing everything takes."""
        share = 1.0 if self.variant is None else self.variant.cost
        return (
            share
            / self.detect_every
            * (1 if self.regions else _WITHOUT_REGIONS)
            * (_KEY_FRAMES if self.key_frames else 1)
        )


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """What was measured since the load before. Shares are 0..1."""

    t_s: float
    due: int
    """Frames that the present rung wants looked at."""
    lost: int
    """Those of them that were too late or displaced by a newer one."""
    demand: float
    """Engine seconds a second that these frames and those of the other streams of this engine ask for: above
    1 they cannot all be done."""
    temperature_c: float | None = None
    memory_mb: float | None = None
    """Available."""
    low_power: bool = False
    """The machine runs on a battery, or in a mode that saves power."""


@dataclass(frozen=True, slots=True)
class Change:
    level: int
    """Index of the rung; 0 is everything."""
    rung: Rung
    reason: Reason


def ladder(
    config: LoadLimits, lighter: Sequence[Lighter] = (), *, regions: bool = False, key_frames: bool = False
) -> tuple[Rung, ...]:
    """The rungs in order, everything first, each cheaper than the one before: no regions, fewer frames for the
    detector, another variant, key frames alone.

    ``lighter``: the variants there are. ``regions``: whether the stream looks at some. ``key_frames``: whether its
    source can leave out the others.
    """
    rungs = [Rung()]
    if regions:
        rungs.append(Rung(regions=False))
    rungs += [Rung(n, regions=not regions) for n in config.every]
    for variant in sorted(lighter, key=lambda one: -one.cost):
        # as many frames as it can look at where the one before could not
        steps = [Rung(n, variant, regions=not regions) for n in (1, *config.every)]
        rungs += [rung for rung in steps if rung.cost <= _CHEAPER * rungs[-1].cost]
    if config.keys and key_frames:
        rungs.append(Rung(1, rungs[-1].variant, regions=not regions, key_frames=True))
    return tuple(rungs)


class Governor:
    """One per stream. The streams of one engine are told the same demand, so that they do less together."""

    def __init__(self, config: LoadLimits, rungs: Sequence[Rung]) -> None:
        self.level = 0
        self._config = config
        self._rungs = rungs
        self._recent: deque[StreamLoad] = deque()
        self._calm_s = _CALM_S
        self._calm_since_s = self._changed_s = self._climbed_s = float("-inf")
        self._hot = self._short = False

    def step(self, load: StreamLoad) -> Change | None:
        """The rung to go to, where it is another one."""
        if not self._config.on:
            return None
        self._recent.append(load)
        while load.t_s - self._recent[0].t_s > _WINDOW_S:
            self._recent.popleft()
        self._feel(load)
        if self._overloaded():
            self._calm_since_s = load.t_s
            return self._yield_to_overload(load)
        reason: Reason | None = "temperature" if self._hot else "memory" if self._short else None
        if reason is not None:
            self._calm_since_s = load.t_s
            return self._descend_one(load, reason) if self._beyond(load, reason) else None
        if load.low_power and self.level == 0 and len(self._rungs) > 1:
            return self._go(1, "power", load.t_s)
        return self._climb(load, floor=1 if load.low_power else 0)

    @property
    def rungs(self) -> int:
        """How many there are."""
        return len(self._rungs)

    def take(self, rungs: Sequence[Rung]) -> Rung:
        """Another ladder: a variant is not there any more. Returns the rung to be on: the last one that costs at least
        as much as the present one does."""
        present = self._rungs[self.level].cost
        self._rungs = rungs
        self.level = max(i for i, rung in enumerate(rungs) if i == 0 or rung.cost >= present - 1e-9)
        return rungs[self.level]

    # -- what is felt --

    def _feel(self, load: StreamLoad) -> None:
        """Heat and want of memory begin at their limit and end well away from it."""
        hottest, least = self._config.temperature_c, self._config.memory_mb
        if hottest is not None and load.temperature_c is not None:
            self._hot = load.temperature_c >= hottest - (_COOLER_C if self._hot else 0)
        if least is not None and load.memory_mb is not None:
            self._short = load.memory_mb < least * (_MEMORY_AGAIN if self._short else 1)

    def _beyond(self, load: StreamLoad, reason: Reason) -> bool:
        """Whether it is not only felt, but still beyond its limit."""
        if reason == "temperature":
            return (load.temperature_c or 0) >= (self._config.temperature_c or 0)
        return load.memory_mb is not None and load.memory_mb < (self._config.memory_mb or 0)

    def _overloaded(self) -> bool:
        due = sum(one.due for one in self._recent)
        return due >= _LEAST_FRAMES and sum(one.lost for one in self._recent) > _LOST * due

    # -- what is done --

    def _yield_to_overload(self, load: StreamLoad) -> Change | None:
        """The first rung that is predicted to fit; one more where the engine is not what is short."""
        if load.t_s - self._changed_s < _STEP_S or self.level == len(self._rungs) - 1:
            return None
        if load.t_s - self._climbed_s < _RELAPSE_S:
            self._calm_s, self._climbed_s = min(_MOST_CALM_S, 2 * self._calm_s), float("-inf")
        wanted = self._rungs[self.level].cost * _FITS / max(load.demand, _FITS)
        fitting = [i for i, rung in enumerate(self._rungs) if i > self.level and rung.cost <= wanted]
        return self._go(min(fitting, default=len(self._rungs) - 1), "overload", load.t_s)

    def _descend_one(self, load: StreamLoad, reason: Reason) -> Change | None:
        if load.t_s - self._changed_s < _COOL_STEP_S:
            return None
        here = self._rungs[self.level].variant
        for level in range(self.level + 1, len(self._rungs)):
            # another variant is opened beside the present one: more memory, not less
            if reason != "memory" or self._rungs[level].variant == here:
                return self._go(level, reason, load.t_s)
        return None

    def _climb(self, load: StreamLoad, floor: int) -> Change | None:
        if self.level <= floor or load.t_s - max(self._calm_since_s, self._changed_s) < self._calm_s:
            return None
        above = self._rungs[self.level - 1].cost / self._rungs[self.level].cost
        if load.demand * above > _ROOM:
            return None
        self._climbed_s = load.t_s
        return self._go(self.level - 1, "calm", load.t_s)

    def _go(self, level: int, reason: Reason, t_s: float) -> Change:
        self.level, self._changed_s = level, t_s
        # what was lost on the rung before says nothing of this one
        self._recent.clear()
        return Change(level, self._rungs[level], reason)
