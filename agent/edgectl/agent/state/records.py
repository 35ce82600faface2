"""What the agent remembers: the engines of a slot, and the release on its way into it. Values only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from edgectl.core.bundle import LighterPreference, Preference
from edgectl.core.histogram import HistogramData
from edgectl.core.schema import Message
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, DesiredSlot, EngineProof, Failure

__all__ = ["Deployment", "Installed", "LighterEngine", "SetEngine", "Slot", "ways_back"]


class LighterEngine(Message):
    """Another variant of an installed bundle, for less work, that the device's configuration asks for."""

    preference: LighterPreference
    manifest: str | None = None
    """None: it is left out."""
    why: str | None = None
    """Why it is."""

    def left_out(self, why: str) -> LighterEngine:
        return LighterEngine(preference=self.preference, why=why[:500])


class Installed(Message):
    """An engine in the store: a variant (manifest digest) of a bundle."""

    release: str
    bundle: str
    manifest: str
    preference: Preference | None = None
    """What the device's configuration asked for when it was chosen."""
    lighter: tuple[LighterEngine, ...] = ()
    """One for each that it asked for then; one that has rotted since is missing."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """Variants before it for which there was no memory then: ``profile/variant``, and the numbers."""
    proof: EngineProof | None = None
    """What was found of it here before it served; None: it was installed by an agent from before."""
    parts: tuple[SetEngine, ...] = ()
    """Of a set: the engines that come into force with it, and go with it. This one record says which they are, so that
    there is nothing that could be half written."""

    @property
    def whole(self) -> tuple[Installed, ...]:
        """Itself, and the engines of its parts."""
        return (self, *(one.engine for one in self.parts))

    def runs_as(self, other: Installed) -> bool:
        """Whether the same runs with it, in every part."""
        return [one.manifest for one in self.whole] == [one.manifest for one in other.whole]

    def holds(self, slot: str) -> bool:
        """Whether the slot of an engine runs what this set says."""
        return any(one.slot == slot for one in self.parts)

    @property
    def manifests(self) -> tuple[str, ...]:
        """Its own, and those of the lighter engines that are there."""
        return (self.manifest, *(one.manifest for one in self.lighter if one.manifest is not None))

    def is_what(self, prefer: Preference | None, lighter: Collection[LighterPreference]) -> bool:
        """Whether the configuration asked for the same when it was chosen."""
        return self.preference == prefer and {one.preference for one in self.lighter} == set(lighter)


class SetEngine(Message):
    """What one part runs, in the place of what its slot has, while a set is in force."""

    part: str
    slot: str
    engine: Installed


@dataclass(frozen=True)
class Slot:
    """Which engines a slot has. ``previous`` and ``factory`` are kept on disk to go back to."""

    active: Installed | None = None
    previous: Installed | None = None
    factory: Installed | None = None


@dataclass(frozen=True)
class Deployment:
    """One release on its way into one slot, or the slot on its way to be empty."""

    slot: str
    gen: int
    state: State
    desired: DesiredSlot | ClearSlot
    installed: Installed | None = None
    """Known once the index was read."""
    fallback: Installed | None = None
    """The CPU variant of the same bundle."""
    tries: int = 0
    """How often ``state`` was entered."""
    error: Failure | None = None
    baseline: HistogramData | None = None
    """Live engine latency of the engine before, on this device."""
    baselines: Mapping[str, HistogramData] = field(default_factory=dict)
    """Of a set: slot of an engine → the same of the engine before there."""
    restored: str | None = None
    """Manifest of the engine that was committed and then found damaged: it comes once more, without being asked whether
    it fits."""

    @property
    def brings(self) -> DesiredSlot:
        """What is wanted in the slot; not to be asked of a deployment that clears it."""
        assert isinstance(self.desired, DesiredSlot)
        return self.desired

    def at(self, state: State, error: Failure | None = None) -> Deployment:
        return replace(self, state=state, tries=0, error=error)


def ways_back(slot: Slot) -> list[Installed]:
    """What can serve instead of the active engine, best first: the previous one, then the factory CPU
    engine."""
    found: list[Installed] = []
    for way in (slot.previous, slot.factory):
        known = [i for i in (slot.active, *found) if i is not None]
        if way is not None and not any(way.runs_as(one) for one in known):
            found.append(way)
    return found
