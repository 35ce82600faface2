"""Any progress of a rollout, for hypothesis: whatever fields it and its members have."""

from __future__ import annotations

import hypothesis.strategies as st

from edgectl.core.wire import DesiredSlot
from edgectl.fleet.rollouts.values import DeviceOutcome, Member, RolloutProgress, RolloutState

__all__ = ["members", "progresses"]

_SECONDS = st.none() | st.floats(0, 2e9)
_TEXT = st.none() | st.text(max_size=20)
_BEFORE = st.none() | st.builds(
    DesiredSlot, release=st.sampled_from(["m@1", "n@2"]), digest=st.just("sha256:" + "b" * 64)
)
_NAMES = st.sampled_from([f"d{i}" for i in range(6)])


def members() -> st.SearchStrategy[Member]:
    return st.builds(
        Member,
        wave=st.integers(0, 5),
        outcome=st.sampled_from(DeviceOutcome),
        admitted_s=_SECONDS,
        retry_s=_SECONDS,
        before=_BEFORE,
        detail=_TEXT,
    )


def progresses() -> st.SearchStrategy[RolloutProgress]:
    return st.builds(
        RolloutProgress,
        state=st.sampled_from(RolloutState),
        reason=_TEXT,
        note=_TEXT,
        wave_done_s=_SECONDS,
        idle_since_s=_SECONDS,
        ending=st.none() | st.sampled_from(RolloutState),
        members=st.dictionaries(_NAMES, members()),
    )
