"""Whose a slot of an engine is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgectl.agent.deploy.set_slots import SetSlots
from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Deployment, Installed, SetEngine, Slot
from edgectl.core.histogram import Histogram
from edgectl.core.states import State
from edgectl.core.wire import DesiredSlot

DIGEST = "sha256:" + "1" * 64
ENGINE = Installed(release="m@1", bundle="sha256:" + "e" * 64, manifest="sha256:" + "f" * 64)
PLAIN = Installed(release="rules@1", bundle=DIGEST, manifest="sha256:" + "2" * 64)
SET = PLAIN.model_copy(
    update={"release": "rules@2", "parts": (SetEngine(part="detector", slot="gate", engine=ENGINE),)}
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    yield journal
    journal.close()


def deployment(state: State, installed: Installed | None, slot: str = "rules") -> Deployment:
    return Deployment(slot, 1, state, DesiredSlot(release="rules@2", digest=DIGEST), installed=installed)


@pytest.mark.parametrize(
    ("slot", "state", "installed", "owner"),
    [
        (Slot(), State.IDLE, None, None),
        (Slot(active=PLAIN), State.COMMITTED, PLAIN, None),
        (Slot(active=SET), State.COMMITTED, SET, "rules@2 in slot rules"),
        # on its way: from where it has said which slots it takes
        (Slot(active=PLAIN), State.FETCHING, None, None),
        (Slot(active=PLAIN), State.VERIFYING, SET, "rules@2 in slot rules"),
        (Slot(active=PLAIN), State.FAILED, SET, None),
        # a configuration without parts is tried, and the set may come back
        (Slot(active=PLAIN, previous=SET), State.PROBATION, PLAIN, "rules@2 in slot rules"),
        (Slot(active=PLAIN, previous=SET), State.COMMITTED, PLAIN, None),
    ],
)
def test_slot_belongs_to_a_set_that_serves_comes_or_may_come_back(
    journal: Journal, slot: Slot, state: State, installed: Installed | None, owner: str | None
) -> None:
    journal.save_slot("rules", slot, deployment(state, installed))
    slots = SetSlots(journal, ("rules",))
    assert slots.set_of("gate") == owner
    assert slots.set_of("other") is None


def test_set_waits_for_what_is_under_way_in_its_slots(journal: Journal) -> None:
    slots = SetSlots(journal, ("rules",))
    assert slots.busy(["gate"]) is None
    journal.save(deployment(State.PROBATION, ENGINE, "gate"))
    assert slots.busy(["gate", "west"]) == "slot gate is probation: the set waits for its end"
    journal.save(deployment(State.ROLLED_BACK, ENGINE, "gate"))
    assert slots.busy(["gate", "west"]) is None


def test_one_row_and_the_mirror_hold_the_whole_set(journal: Journal, tmp_path: Path) -> None:
    before = Histogram()
    before.record(5000)
    d = Deployment(
        "rules",
        1,
        State.PROBATION,
        DesiredSlot(release="rules@2", digest=DIGEST),
        installed=SET,
        baselines={"gate": before.data()},
    )
    journal.activate("rules", Slot(active=SET, previous=PLAIN), d)
    assert journal.kept() == {SET, PLAIN, ENGINE}
    journal.close()
    for path in tmp_path.glob("journal.db*"):
        path.unlink()
    again = Journal(tmp_path / "journal.db")
    assert again.slot("rules") == Slot(active=SET, previous=PLAIN)
    assert again.deployment("rules") == d
    again.close()
