"""The journal's records as rows of its tables, and back. Nothing here does IO."""

from __future__ import annotations

import json

from edgectl.agent.state.records import Deployment, Installed, Slot
from edgectl.core.histogram import HistogramData
from edgectl.core.states import State
from edgectl.core.wire import ClearSlot, DesiredSlot, Failure

__all__ = ["Statement", "deployment_of", "deployment_row", "slot_of", "slot_row"]

Statement = tuple[str, tuple[object, ...]]
"""SQL and its values."""

_RESTORED, _BASELINES = "restored", "baselines"
_NO_DIGEST = "sha256:" + "0" * 64


def deployment_row(d: Deployment) -> Statement:
    texts = [m.encode().decode() if m else None for m in (d.installed, d.fallback)]
    ends = [m.encode().decode() if m else None for m in (d.error, d.baseline)]
    values = (d.slot, d.gen, d.state.value, _desired_text(d), *texts, d.tries, *ends)
    return "INSERT OR REPLACE INTO deployments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values


def _desired_text(d: Deployment) -> str:
    """What is wanted. A slot that is to be empty is written so that an older agent reads it, too: as a
    release that nobody has. So is what was committed before, and how fast the engines before a set were: as keys that an
    older one ignores."""
    desired = d.desired
    if isinstance(desired, ClearSlot):
        return json.dumps({"number": desired.number, "release": "", "digest": _NO_DIGEST})
    text = desired.encode().decode()
    more: dict[str, object] = {} if d.restored is None else {_RESTORED: d.restored}
    if d.baselines:
        more[_BASELINES] = {slot: json.loads(one.encode()) for slot, one in d.baselines.items()}
    return json.dumps({**json.loads(text), **more}) if more else text


def _desired_of(text: str) -> DesiredSlot | ClearSlot:
    kind = ClearSlot if "number" in json.loads(text) else DesiredSlot
    return kind.model_validate_json(text)


def slot_row(slot: str, value: Slot) -> Statement:
    texts = [v.encode().decode() if v else None for v in (value.active, value.previous, value.factory)]
    return "INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?)", (slot, *texts)


def deployment_of(
    slot: str,
    gen: int,
    state: str,
    desired: str,
    installed: str | None,
    fallback: str | None,
    tries: int,
    error: str | None,
    baseline: str | None,
) -> Deployment:
    try:
        at, why = State(state), Failure.model_validate_json(error) if error else None
    except ValueError:
        # a newer agent was here: whatever it meant, what served before it serves again
        at, why = (
            State.ROLLING_BACK,
            Failure(code="state", detail=f"this agent knows no state {state[:40]!r}", retryable=True),
        )
    return Deployment(
        slot=slot,
        gen=gen,
        state=at,
        desired=_desired_of(desired),
        installed=Installed.model_validate_json(installed) if installed else None,
        fallback=Installed.model_validate_json(fallback) if fallback else None,
        tries=tries,
        error=why,
        baseline=HistogramData.model_validate_json(baseline) if baseline else None,
        baselines={
            slot: HistogramData.model_validate(one)
            for slot, one in json.loads(desired).get(_BASELINES, {}).items()
        },
        restored=json.loads(desired).get(_RESTORED),
    )


def slot_of(*texts: str | None) -> Slot:
    return Slot(*(Installed.model_validate_json(v) if v else None for v in texts))
