"""Whether a warning can be given at all, and what is missing if not."""

from __future__ import annotations

from typing import Any

from edgectl.pipelines.stream.events import Event

__all__ = ["Capability"]


class Capability:
    """Says once when a warning becomes unavailable, and why; and once when it is back. A changed reason is
    told after ``hold_s``."""

    def __init__(self, name: str, *, hold_s: float = 1.0) -> None:
        self.name = name
        self.available: bool | None = None
        self._reason: str | None = None
        self._pending: tuple[str | None, float] | None = None
        self._hold_s = hold_s

    def step(self, reason: str | None, t: float) -> list[Event]:
        """``reason``: what is missing now (``speed_missing``, ``lanes_missing``, ``calibration_missing``),
        or None."""
        if self.available is not None and reason == self._reason:
            self._pending = None
            return []
        if self.available is not None:
            if self._pending is None or self._pending[0] != reason:
                self._pending = (reason, t)
            if t - self._pending[1] < self._hold_s:
                return []
        self.available, self._reason, self._pending = reason is None, reason, None
        data = {"name": self.name, "available": self.available, "reason": reason}
        return [Event("capability", t, "end" if self.available else "start", None, data)]

    def snapshot(self) -> dict[str, Any]:
        return {"available": self.available, "reason": self._reason, "pending": self._pending}

    def restore(self, state: dict[str, Any]) -> None:
        self.available, self._reason = state["available"], state["reason"]
        self._pending = None if state["pending"] is None else tuple(state["pending"])
