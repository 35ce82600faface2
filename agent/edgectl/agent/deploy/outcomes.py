"""Which event an error or an interruption is for a deployment, and what is reported of it. No IO."""

from __future__ import annotations

from collections.abc import Callable

from edgectl.agent.deploy.deployment import DeploymentEvent
from edgectl.agent.state.records import Installed
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.errors import (
    AdmissionError,
    BundleError,
    EdgectlError,
    IntegrityError,
    StorageError,
    TrustError,
)
from edgectl.core.states import State
from edgectl.core.wire import Failure

__all__ = ["EVENT_OF", "NEEDS_SPACE", "StateEnded", "failure", "more", "named"]


class StateEnded(Exception):
    """The state ends for a reason that lies outside of it."""

    def __init__(
        self, event: DeploymentEvent, code: str = "", detail: str = "", *, retryable: bool = False
    ) -> None:
        super().__init__(detail)
        self.event = event
        self.failure = Failure(code=code, detail=detail, retryable=retryable) if code else None


def named(installed: Installed | None) -> str:
    return f"{installed.release} serves" if installed else "the slot is empty"


def more(f: Failure, detail: str) -> Failure:
    return f.model_copy(update={"detail": f"{f.detail}; {detail}"})


def failure(e: EdgectlError, *, retryable: bool = False) -> Failure:
    # the disk, the clock and the memory are not the release's fault
    retry = retryable or isinstance(e, StorageError | StaleTrust | AdmissionError)
    code = "trust" if isinstance(e, TrustError) else e.code
    # the next step is up to whoever reads it
    detail = f"{e.message}: {e.hint}" if isinstance(e, AdmissionError) and e.hint else e.message
    return Failure(code=code, detail=detail[:1000], retryable=retry)


def _fetch_event(e: EdgectlError) -> DeploymentEvent:
    return DeploymentEvent.CORRUPT if isinstance(e, IntegrityError) else DeploymentEvent.INCOMPATIBLE


def _warm_event(e: EdgectlError) -> DeploymentEvent:
    if isinstance(e, IntegrityError):
        return DeploymentEvent.CORRUPT
    return DeploymentEvent.INCOMPATIBLE if isinstance(e, BundleError) else DeploymentEvent.COLD


NEEDS_SPACE = frozenset({State.FETCHING, State.VERIFYING, State.WARMING})
"""Where a full disk ends a deployment: what serves is untouched, and a raised attempt tries again."""

EVENT_OF: dict[State, Callable[[EdgectlError], DeploymentEvent]] = {
    State.NOTIFIED: lambda _: DeploymentEvent.REFUSED,
    State.DEFERRED: lambda _: DeploymentEvent.REFUSED,
    State.FETCHING: _fetch_event,
    State.VERIFYING: lambda _: DeploymentEvent.CORRUPT,
    State.STAGED: lambda _: DeploymentEvent.TIMEOUT,
    State.WARMING: _warm_event,
    State.SHADOW: lambda _: DeploymentEvent.DISAGREES,
    State.ACTIVATING: lambda _: DeploymentEvent.NOT_ACTIVATED,
    State.PROBATION: lambda _: DeploymentEvent.UNHEALTHY,
    State.ROLLING_BACK: lambda _: DeploymentEvent.NOT_RESTORED,
    State.CLEARING: lambda _: DeploymentEvent.TIMEOUT,
}
"""What an error means in a state."""
