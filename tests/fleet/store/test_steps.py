from __future__ import annotations

import json

import hypothesis.strategies as st
from hypothesis import given
from support.progress import progresses

from edgectl.fleet.rollouts.values import DeviceOutcome, Member, RolloutProgress, RolloutState
from edgectl.fleet.store.steps import MEMBERS, difference, fold


@given(steps=st.lists(progresses(), min_size=1, max_size=8))
def test_log_of_all_steps_adds_up_to_where_the_rollout_stands(steps: list[RolloutProgress]) -> None:
    log: list[str] = []
    for old, new in zip([None, *steps], steps, strict=False):
        log += difference(old, new).entries()
        assert RolloutProgress.model_validate(fold(log)) == new


@given(progress=progresses())
def test_step_that_changes_nothing_is_none(progress: RolloutProgress) -> None:
    same = RolloutProgress.model_validate_json(progress.encode())
    assert not difference(progress, same)
    assert difference(progress, same).entries() == []


def test_entry_holds_what_changed_and_nothing_else() -> None:
    old = RolloutProgress(members={n: Member(wave=1) for n in ("a", "b", "c")})
    members = {**old.members, "b": Member(wave=1, outcome=DeviceOutcome.COMMITTED)}
    del members["c"]
    new = old.model_copy(update={"state": RolloutState.PAUSED, "members": members})
    (entry,) = difference(old, new).entries()
    change = json.loads(entry)
    assert change["fields"] == {"state": "paused"}
    assert {n: m and m["outcome"] for n, m in change["members"].items()} == {"b": "committed", "c": None}


def test_first_entry_holds_every_field_so_that_a_later_default_changes_nothing() -> None:
    (entry,) = difference(None, RolloutProgress()).entries()
    assert json.loads(entry)["fields"].keys() == RolloutProgress.model_fields.keys() - {"members"}


def test_step_of_many_members_is_several_entries() -> None:
    new = RolloutProgress(members={f"d{i}": Member(wave=1) for i in range(2 * MEMBERS + 1)})
    entries = difference(RolloutProgress(), new).entries()
    assert [len(json.loads(e)["members"]) for e in entries] == [MEMBERS, MEMBERS, 1]
    assert RolloutProgress.model_validate(fold(entries)) == new
