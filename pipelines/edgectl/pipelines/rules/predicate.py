"""What a rule asks before it tells something, one predicate after the other, with what was measured and the limit.

A rule decides by its predicates, or reads them from the state that it has decided with: an explanation says what the
decision was made of.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from edgectl.pipelines.rules.observation import Observation

__all__ = ["Explained", "Explains", "Predicate", "counts_as", "lasts"]


class Predicate(NamedTuple):
    """One question of a rule, and its answer in one frame."""

    what: str
    """``in zone yard``, ``stayed``."""
    holds: bool
    value: float | None = None
    """What was measured, where it is a number; in ``unit``."""
    limit: float | None = None
    """What ``value`` is compared with."""
    unit: str = ""
    since: float | None = None
    """Since when it is so, seconds of capture time, where the rule knows it."""


@dataclass(frozen=True, slots=True)
class Explained:
    """Of one track, or of the scene, in one frame."""

    track: int | None
    """None: the scene."""
    on: bool
    """Whether the rule's alarm is on, or (of a rule that tells a thing once) it was told in this frame."""
    asked: tuple[Predicate, ...]
    """In the order in which they are asked. It begins when all hold; once on, some rules wait before it ends."""

    @property
    def failed(self) -> Predicate | None:
        """The first that does not hold."""
        return next((p for p in self.asked if not p.holds), None)


@runtime_checkable
class Explains(Protocol):
    """A rule that says what it asked."""

    def explain(self, now: Observation) -> list[Explained]:
        """After ``step`` with the same observation. Changes nothing."""
        ...


def lasts(what: str, begin: float | None, t: float, least: float) -> Predicate:
    """That something is so for ``least`` seconds. ``begin``: since when; None: it is not."""
    lasted = 0.0 if begin is None else t - begin
    return Predicate(what, begin is not None and lasted >= least - 1e-9, lasted, least, "s", begin)


def counts_as(cls: int, classes: Collection[int], labels: Sequence[str]) -> Predicate:
    """That an object's class is one of those that count."""
    return Predicate(f"{labels[cls]} counts", cls in classes)
