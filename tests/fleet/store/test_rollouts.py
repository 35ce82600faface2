from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, func, select
from sqlalchemy.event import listen
from support.postgres import postgres, store_url  # noqa: F401, fixtures
from support.progress import progresses
from support.released_store import write_released

from edgectl.core.errors import StorageError
from edgectl.core.wire import Conn, Desired, DesiredSlot
from edgectl.fleet.rollouts.values import (
    ACTIVE,
    DeviceOutcome,
    Member,
    RolloutProgress,
    RolloutSpec,
    RolloutState,
)
from edgectl.fleet.store.inventory import Device, Inventory
from edgectl.fleet.store.rollouts import folded
from edgectl.fleet.store.schema import ROLLOUT_LOG, ROLLOUT_MEMBERS

D = "sha256:" + "a" * 64


def _spec(name: str = "r1") -> RolloutSpec:
    return RolloutSpec(id=name, release="m@1", digest=D, slot="gate")


def _many(n: int) -> RolloutProgress:
    return RolloutProgress(members={f"d{i:03d}": Member(wave=1) for i in range(n)})


def _with(progress: RolloutProgress, **members: Member) -> RolloutProgress:
    return progress.model_copy(update={"members": {**progress.members, **members}})


def _rows(inventory: Inventory) -> tuple[int, int]:
    """Members, and entries of the log."""

    def count(db: Connection) -> tuple[int, int]:
        members, log = (
            db.execute(select(func.count()).select_from(table)).scalar_one()
            for table in (ROLLOUT_MEMBERS, ROLLOUT_LOG)
        )
        return members, log

    return inventory._db.read(count)


@pytest.fixture
def inventory(tmp_path: Path, store_url: str | None) -> Iterator[Inventory]:
    inventory = Inventory(tmp_path, store_url)
    yield inventory
    inventory.close()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(progresses(), st.booleans()), min_size=1, max_size=6))
def test_stored_progress_is_what_was_saved_last_and_what_the_log_adds_up_to(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[RolloutProgress, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    with contextlib.ExitStack() as stack:
        inventory = stack.enter_context(contextlib.closing(Inventory(folder)))
        for progress, restart in steps:
            inventory.save_rollout(_spec(), progress)
            if restart:
                inventory = stack.enter_context(contextlib.closing(Inventory(folder)))
            assert inventory.rollouts() == {"r1": (_spec(), progress)}
            looked_after = progress.state in ACTIVE or progress.unfinished
            assert inventory.rollouts(active=True).keys() == ({"r1"} if looked_after else set())
            assert inventory._db.read(lambda db: folded(db, "r1")) == progress


def test_step_of_one_device_writes_one_member_and_one_entry(inventory: Inventory) -> None:
    before = _many(500)
    inventory.save_rollout(_spec(), before)
    assert _rows(inventory) == (500, 1)
    statements: list[int] = []
    after = _with(before, d007=Member(wave=1, outcome=DeviceOutcome.COMMITTED))

    def note(_connection: object, _cursor: object, sql: str, parameters: object, *_: object) -> None:
        if "rollout_members" in sql:
            statements.append(len(parameters) if isinstance(parameters, list) else 1)

    listen(inventory._db._engine, "before_cursor_execute", note)
    inventory.save_rollout(_spec(), after)
    assert sum(statements) == 1, "nothing is read, and one row is written"
    assert _rows(inventory) == (500, 2)
    assert inventory.rollout("r1") == (_spec(), after)
    assert inventory._db.read(lambda db: folded(db, "r1")) == after


def test_step_that_changes_nothing_leaves_no_entry(inventory: Inventory) -> None:
    inventory.save_rollout(_spec(), _many(3))
    inventory.save_rollout(_spec(), _many(3))
    assert _rows(inventory) == (3, 1)


def test_step_that_failed_is_neither_stored_nor_remembered(
    inventory: Inventory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory.save_rollout(_spec(), _many(3))
    failed = _with(_many(3), d001=Member(wave=1, outcome=DeviceOutcome.FAILED))

    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as m:
        m.setattr("edgectl.fleet.store.devices.tell", full)
        with pytest.raises(StorageError):
            inventory.save_rollout(_spec(), failed, [Device("d001")])
    assert inventory.rollouts(active=True)["r1"][1] == _many(3)
    inventory.save_rollout(_spec(), failed)
    assert inventory._db.read(lambda db: folded(db, "r1")) == failed


def test_what_is_remembered_gives_way_to_what_another_process_wrote(
    tmp_path: Path,
    store_url: str | None,
) -> None:
    """E.g. one that restored a backup, or a controller that took this one's place."""
    one, other = Inventory(tmp_path, store_url), Inventory(tmp_path, store_url)
    one.save_rollout(_spec(), _many(2))
    assert other.rollouts(active=True)["r1"][1] == _many(2)
    changed = _with(_many(2), d001=Member(wave=1, outcome=DeviceOutcome.LATE))
    other.save_rollout(_spec(), changed)
    assert one.rollouts(active=True)["r1"][1] == changed
    one.close()
    other.close()


def test_wishes_of_a_step_are_written_and_what_devices_said_stays(inventory: Inventory) -> None:
    inventory.note_device(Device("cam", Conn(epoch=3, online=True), seen_s=5.0))
    wish = Desired(gen=1, slots={"gate": DesiredSlot(release="m@1", digest=D)})
    stale = Device("cam", None, None, wish, 0.0)
    inventory.save_rollout(_spec(), _many(1), [stale, Device("new", desired=wish)])
    found = inventory.devices()
    assert (found["cam"].desired, found["new"].desired) == (wish, wish)


def test_rollouts_of_a_device_are_found_without_the_others(inventory: Inventory) -> None:
    inventory.save_rollouts(
        [(_spec("r1"), _many(2)), (_spec("r2"), _many(1)), (_spec("r3"), RolloutProgress())]
    )
    assert list(inventory.rollouts_of("d001")) == ["r1"]
    assert list(inventory.rollouts_of("d000")) == ["r1", "r2"]
    assert inventory.rollout("r4") is None


def test_rollout_of_the_first_release_goes_on_with_a_log_that_adds_up(tmp_path: Path) -> None:
    write_released(tmp_path / "fleet.db")
    inventory = Inventory(tmp_path)
    spec, progress = inventory.rollouts(active=True)["gate-1"]
    assert inventory._db.read(lambda db: folded(db, "gate-1")) == progress
    done = progress.model_copy(update={"state": RolloutState.DONE, "members": {}})
    inventory.save_rollout(spec, done)
    assert inventory._db.read(lambda db: folded(db, "gate-1")) == done
    assert inventory.rollouts() == {"gate-1": (spec, done)}
    inventory.close()
