"""The states of a deployment in a slot, as devices report them and rollouts read them.

The transition table belongs to the device: ``edgectl.agent.deploy.deployment``.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["TERMINAL", "State"]


class State(str, Enum):
    IDLE = "idle"
    NOTIFIED = "notified"
    DEFERRED = "deferred"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    STAGED = "staged"
    WARMING = "warming"
    SHADOW = "shadow"
    ACTIVATING = "activating"
    PROBATION = "probation"
    COMMITTED = "committed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    DEGRADED = "degraded"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    CLEARING = "clearing"
    CLEARED = "cleared"
    """The slot is empty, as it was wanted."""


TERMINAL = frozenset(
    {
        State.COMMITTED,
        State.ROLLED_BACK,
        State.DEGRADED,
        State.REJECTED,
        State.FAILED,
        State.CANCELED,
        State.EXPIRED,
        State.CLEARED,
    }
)
"""Where a deployment has come to its end; only COMMITTED is success of a release."""
