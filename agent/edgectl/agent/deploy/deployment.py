"""The deployment of a release in a slot, as a table: what happens in a state leads to the next one. Nothing
here does IO.

``python -m edgectl.agent.deploy.deployment`` prints the page ``docs/deployment-states.md``.

The rule of the shell that executes this (:mod:`edgectl.agent.deploy.deployer`): write the state, act, write
the result. After a power cut :data:`RESUME` says where to go on; every action may be repeated.
"""

from __future__ import annotations

import sys
from enum import Enum

from edgectl.core.errors import EdgectlError
from edgectl.core.state_diagram import state_diagram
from edgectl.core.states import TERMINAL, State

__all__ = [
    "BEFORE_ACTIVATION",
    "DEADLINE_S",
    "HOLDS_MEMORY",
    "RESUME",
    "TABLE",
    "TRIES",
    "WORKING",
    "DeploymentEvent",
    "IllegalTransition",
    "page",
    "resume",
    "step",
]


class DeploymentEvent(str, Enum):
    DESIRED = "desired"
    """A newer ``desired`` names another digest (or a raised attempt) for this slot."""
    ALREADY = "already"
    """A newer ``desired`` names the digest that already serves."""
    TRUSTED = "trusted"
    """Signed targets name the digest."""
    REFUSED = "refused"
    """They do not, or this device has already rolled this digest back at this attempt."""
    STALE = "stale"
    """The signed metadata is expired or not here yet."""
    FETCHED = "fetched"
    CORRUPT = "corrupt"
    NO_SPACE = "no_space"
    NO_MEMORY = "no_memory"
    """What the engine needs does not fit beside what runs."""
    INCOMPATIBLE = "incompatible"
    """No variant runs on this machine."""
    VERIFIED = "verified"
    RELEASED = "released"
    """Neither ``hold`` nor the fleet's freeze switch is set."""
    NOT_NOW = "not_now"
    """The maintenance window is closed, somebody holds a lease, the fleet is frozen, or the metadata
    expired: nothing was changed yet."""
    WARM = "warm"
    """The engine loads, reproduces its golden outputs and runs, in a child process."""
    COLD = "cold"
    """It does not."""
    OBSERVE = "observe"
    """It does, and the policy wants it compared with the old engine on live frames first."""
    AGREES = "agrees"
    DISAGREES = "disagrees"
    """On the same frames the two engines find different things, or the new one is too slow."""
    ACTIVATED = "activated"
    NOT_ACTIVATED = "not_activated"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    CRASH_LOOP = "crash_loop"
    CLEAR = "clear"
    """A newer ``desired`` wants the slot to be empty."""
    EMPTIED = "emptied"
    DAMAGED = "damaged"
    """At the start of the agent, bytes of an engine are not what was signed."""
    RESTORED = "restored"
    """The engine from before serves again (or the slot is empty again)."""
    NOT_RESTORED = "not_restored"
    SUPERSEDED = "superseded"
    """A newer ``desired`` wants something else."""
    CANCELED = "canceled"
    """An operator gives this deployment up."""
    EXPIRED = "expired"
    """The desired state said until when it is to be started."""
    TIMEOUT = "timeout"
    """The deadline of the state has passed."""


_S, _E = State, DeploymentEvent

BEFORE_ACTIVATION = (
    _S.NOTIFIED,
    _S.DEFERRED,
    _S.FETCHING,
    _S.VERIFYING,
    _S.STAGED,
    _S.WARMING,
    _S.SHADOW,
    _S.CLEARING,
)
"""Here nothing that serves has been touched: a deployment can simply be dropped. (CLEARING until its
record is written, and then it is seen through.)"""

_ENDS = tuple(state for state in State if state in TERMINAL)

TABLE: dict[tuple[State, DeploymentEvent], State] = {
    (_S.IDLE, _E.DESIRED): _S.NOTIFIED,
    # Is it signed?
    (_S.NOTIFIED, _E.TRUSTED): _S.FETCHING,
    (_S.NOTIFIED, _E.REFUSED): _S.REJECTED,
    (_S.NOTIFIED, _E.STALE): _S.DEFERRED,
    # Expired metadata blocks installs, never inference: wait for a newer set. So do a closed window, a lease
    # and a freeze. Whatever it waited for, signatures and bytes are asked again afterwards: what lies in the
    # store is not fetched twice.
    (_S.DEFERRED, _E.TRUSTED): _S.FETCHING,
    (_S.DEFERRED, _E.REFUSED): _S.REJECTED,
    # A device may have been off for weeks in the middle of it.
    (_S.FETCHING, _E.STALE): _S.DEFERRED,
    (_S.FETCHING, _E.REFUSED): _S.REJECTED,
    (_S.FETCHING, _E.FETCHED): _S.VERIFYING,
    (_S.FETCHING, _E.CORRUPT): _S.FAILED,
    (_S.FETCHING, _E.NO_SPACE): _S.FAILED,
    (_S.FETCHING, _E.NO_MEMORY): _S.FAILED,
    (_S.FETCHING, _E.INCOMPATIBLE): _S.REJECTED,
    (_S.VERIFYING, _E.VERIFIED): _S.STAGED,
    (_S.VERIFYING, _E.CORRUPT): _S.FAILED,
    (_S.VERIFYING, _E.NO_SPACE): _S.FAILED,
    # `hold` and `freeze` keep it here.
    (_S.STAGED, _E.RELEASED): _S.WARMING,
    (_S.STAGED, _E.NOT_NOW): _S.DEFERRED,
    (_S.STAGED, _E.REFUSED): _S.REJECTED,
    (_S.WARMING, _E.WARM): _S.ACTIVATING,
    (_S.WARMING, _E.OBSERVE): _S.SHADOW,
    (_S.WARMING, _E.NOT_NOW): _S.DEFERRED,
    (_S.WARMING, _E.COLD): _S.FAILED,
    (_S.WARMING, _E.CORRUPT): _S.FAILED,
    (_S.WARMING, _E.NO_SPACE): _S.FAILED,
    (_S.WARMING, _E.NO_MEMORY): _S.FAILED,
    (_S.WARMING, _E.INCOMPATIBLE): _S.REJECTED,
    (_S.SHADOW, _E.AGREES): _S.ACTIVATING,
    (_S.SHADOW, _E.NOT_NOW): _S.DEFERRED,
    (_S.SHADOW, _E.REFUSED): _S.REJECTED,
    (_S.SHADOW, _E.NO_MEMORY): _S.FAILED,
    (_S.SHADOW, _E.DISAGREES): _S.FAILED,
    **{(state, _E.TIMEOUT): _S.FAILED for state in BEFORE_ACTIVATION},
    (_S.DEFERRED, _E.TIMEOUT): _S.EXPIRED,
    **{(state, _E.SUPERSEDED): _S.CANCELED for state in BEFORE_ACTIVATION},
    **{(state, _E.CANCELED): _S.CANCELED for state in BEFORE_ACTIVATION},
    **{(state, _E.EXPIRED): _S.EXPIRED for state in BEFORE_ACTIVATION},
    # What was whole when the agent stopped and is not when it starts is fetched again.
    **{(state, _E.DAMAGED): _S.FETCHING for state in (_S.VERIFYING, _S.STAGED, _S.WARMING, _S.SHADOW)},
    # From here on whatever speaks against it goes through the way back; only before the switch can it still
    # wait or be refused.
    (_S.ACTIVATING, _E.NOT_NOW): _S.DEFERRED,
    (_S.ACTIVATING, _E.REFUSED): _S.REJECTED,
    (_S.ACTIVATING, _E.NO_MEMORY): _S.FAILED,
    (_S.ACTIVATING, _E.ACTIVATED): _S.PROBATION,
    (_S.ACTIVATING, _E.NOT_ACTIVATED): _S.ROLLING_BACK,
    (_S.ACTIVATING, _E.CRASH_LOOP): _S.ROLLING_BACK,
    (_S.ACTIVATING, _E.DAMAGED): _S.ROLLING_BACK,
    (_S.ACTIVATING, _E.TIMEOUT): _S.ROLLING_BACK,
    (_S.ACTIVATING, _E.SUPERSEDED): _S.ROLLING_BACK,
    (_S.ACTIVATING, _E.CANCELED): _S.ROLLING_BACK,
    (_S.PROBATION, _E.HEALTHY): _S.COMMITTED,
    (_S.PROBATION, _E.UNHEALTHY): _S.ROLLING_BACK,
    (_S.PROBATION, _E.CRASH_LOOP): _S.ROLLING_BACK,
    (_S.PROBATION, _E.DAMAGED): _S.ROLLING_BACK,
    (_S.PROBATION, _E.TIMEOUT): _S.ROLLING_BACK,
    (_S.PROBATION, _E.SUPERSEDED): _S.ROLLING_BACK,
    (_S.PROBATION, _E.CANCELED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.RESTORED): _S.ROLLED_BACK,
    # The previous engine does not run either: the factory one serves, or what is left is tried again and
    # again.
    (_S.ROLLING_BACK, _E.NOT_RESTORED): _S.DEGRADED,
    (_S.ROLLING_BACK, _E.TIMEOUT): _S.DEGRADED,
    # An engine that serves and cannot be kept alive, or has lost bytes, gives way to the previous or the
    # factory one.
    **{(state, _E.CRASH_LOOP): _S.DEGRADED for state in _ENDS},
    **{(state, _E.DAMAGED): _S.DEGRADED for state in _ENDS},
    # It is still desired and no release is to blame: deploy it once more.
    (_S.COMMITTED, _E.DAMAGED): _S.NOTIFIED,
    # A slot that is to be empty: nothing has to be fetched or proved, only whoever says "not now" is heard.
    **{(state, _E.CLEAR): _S.CLEARING for state in (_S.IDLE, *_ENDS)},
    (_S.CLEARING, _E.EMPTIED): _S.CLEARED,
    # The end of one deployment is the start of the next; what serves already needs none.
    **{(state, _E.DESIRED): _S.NOTIFIED for state in _ENDS},
    **{(state, _E.ALREADY): _S.COMMITTED for state in (_S.IDLE, *_ENDS)},
}

RESUME: dict[State, State] = {
    State.NOTIFIED: State.NOTIFIED,
    State.DEFERRED: State.DEFERRED,
    State.FETCHING: State.FETCHING,  # part files are hashed again
    State.VERIFYING: State.VERIFYING,
    State.STAGED: State.STAGED,
    State.WARMING: State.WARMING,  # at most TRIES times
    # from its first frame, at most TRIES times: what the warm-up proved and cached outlives a power cut
    State.SHADOW: State.SHADOW,
    # the slot record says which engine serves: old or new, never a mix
    State.ACTIVATING: State.ACTIVATING,
    State.PROBATION: State.PROBATION,  # at most TRIES times
    State.CLEARING: State.CLEARING,  # the slot record says whether it is empty by now
    **{end: end for end in _ENDS},
    State.IDLE: State.IDLE,
}
"""State on disk → state to resume. What is not here goes to ROLLING_BACK."""

TRIES: dict[State, int] = {State.WARMING: 2, State.SHADOW: 2, State.ACTIVATING: 3, State.PROBATION: 3}
"""How often a state may be entered (restarts included), counted on disk before the action; then it counts
as TIMEOUT."""

DEADLINE_S: dict[State, float] = {
    State.NOTIFIED: 60.0,
    State.DEFERRED: 7 * 86400.0,
    State.FETCHING: 6 * 3600.0,
    State.VERIFYING: 600.0,
    State.STAGED: 30 * 86400.0,
    State.WARMING: 1800.0,  # a TensorRT plan may have to be compiled
    # a camera at 1 fps needs 17 min for 100 frames of 10 %
    State.SHADOW: 3600.0,
    State.ACTIVATING: 120.0,
    # besides four times the probation time of the policy
    State.PROBATION: 300.0,
    State.ROLLING_BACK: 120.0,
    # `hold`, a freeze and leases keep it here, as in STAGED
    State.CLEARING: 30 * 86400.0,
}
"""Seconds (monotonic, counted anew after a restart) after which a state ends with TIMEOUT."""

HOLDS_MEMORY = frozenset({State.WARMING, State.SHADOW, State.ACTIVATING})
"""Where memory is promised to the new engine. Behind them it shows in what is free, or is not wanted any more."""

WORKING = frozenset(DEADLINE_S)
"""The states with an action. Every other state waits for DESIRED."""


class IllegalTransition(EdgectlError):
    """The shell named an event that the table does not know in this state: a defect, not an input."""


def step(state: State, event: DeploymentEvent) -> State:
    """The next state. Raises :class:`IllegalTransition`."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalTransition(
            f"{event.value} cannot happen to a deployment that is {state.value}"
        ) from None


def resume(on_disk: State) -> State:
    """Where a deployment found on disk goes on; what is not in :data:`RESUME` rolls back."""
    return RESUME.get(on_disk, State.ROLLING_BACK)


def page() -> str:
    """The text of ``docs/deployment-states.md``."""
    rows = []
    for state in State:
        deadline = f"{DEADLINE_S[state]:g} s" if state in DEADLINE_S else "–"
        tries = str(TRIES.get(state, "–"))
        end = "yes" if state in TERMINAL else ""
        rows.append(f"| `{state.value}` | {deadline} | {tries} | `{resume(state).value}` | {end} |")
    return "\n".join(
        [
            "# The states of a deployment",
            "",
            "Generated from `edgectl.agent.deploy.deployment` by `python -m edgectl.agent.deploy.deployment > docs/deployment-states.md`;",
            "a test keeps it current.",
            "",
            "```mermaid",
            state_diagram(TABLE, State.IDLE),
            "```",
            "",
            "| state | deadline | tries | after a power cut | end |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page())
