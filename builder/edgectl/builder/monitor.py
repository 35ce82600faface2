"""What a build says while it goes on, and the time that it has left: one monitor a build, handed to every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgectl.builder.budget import Budget

__all__ = ["BuildMonitor", "BuildProgress"]


@dataclass(frozen=True)
class BuildProgress:
    """Where a build is: ``share`` of the whole (0..1), the best candidate so far (empty before the first
    measurement), and in how many seconds it may be done (None: not known yet)."""

    step: str
    share: float
    message: str
    best: str = ""
    ends_in_s: float | None = None


class BuildMonitor:
    """``listen`` hears every step; what it raises ends the build. ``notes`` are for the user, in the order in which they came."""

    def __init__(self, budget: Budget, listen: Callable[[BuildProgress], None] | None = None) -> None:
        self.budget = budget
        self.notes: list[str] = []
        self.last = BuildProgress("start", 0.0, "")
        self.raised_by_listener: Exception | None = None
        self._listen = listen or (lambda progress: None)

    def tell(self, step: str, share: float, message: str, best: str = "") -> None:
        """A bar never runs backwards: a share below one that was told before counts as that one."""
        share = max(self.last.share, min(1.0, share))
        self.last = BuildProgress(step, share, message, best, self.budget.ends_in_s(share))
        try:
            self._listen(self.last)
        except Exception as e:
            self.raised_by_listener = e
            raise

    def note(self, text: str) -> None:
        self.notes.append(text)
