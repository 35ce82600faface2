"""What a part of a pipeline gets: a variant, and what telemetry calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from edgectl.core.bundle import LighterPreference, Variant

__all__ = ["PartVariant"]


@dataclass(frozen=True)
class PartVariant:
    """The variant of one part (``detector``, ``vad``, ``keyword``), and the release it came from."""

    variant: Variant
    release: str = ""
    bundle: str = ""
    """Bundle digest."""
    edition: int = 0
    """How often the finalised file of its engine has become a better one since the worker was started."""
    lighter: Mapping[LighterPreference, Variant] = field(default_factory=dict)
    """Other variants of the same bundle that this machine can run, by what they are best at: for less work."""
    on_trial: bool = False
    """It is judged: no other variant takes its place before it is known to stay."""
    stands_in: LighterPreference | None = None
    """Which of those it is, where it takes another one's place."""

    def lighter_one(self, name: LighterPreference) -> PartVariant:
        """One of :attr:`lighter`, to take the place of this."""
        return replace(self, variant=self.lighter[name], lighter={}, stands_in=name)
