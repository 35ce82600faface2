"""What the agent finds when it starts: damaged engines, a damaged journal, a freeze, leases."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import POLICY, SLOT, Catalogue, Device

from edgectl.agent.deploy.start_check import SkippedEngine, check_slots
from edgectl.agent.state.lock import hold_folder, is_free
from edgectl.agent.state.records import Slot
from edgectl.core.errors import StorageError, UsageError
from edgectl.core.files import hex_of
from edgectl.core.states import State
from edgectl.core.wire import Failure, ShadowGate


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Version 2 serves, 1 is behind it."""
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 3000)
    world.add("3", 3000, crash=True)
    device = Device(tmp_path / "device", world).boot()
    for gen, version in enumerate(("1", "2"), 1):
        device.want(version, gen)
        device.run()
    device.waits.clear()
    yield device
    device.off()


def rot(device: Device, version: str, which: int = -1) -> None:
    v = device.world.bundles[version].variants[0]
    path = device.store.path([v.digest, *(d.digest for d in v.descriptors())][which])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def start_again(device: Device, **changes: object) -> Device:
    device.off()
    for name, value in changes.items():
        setattr(device, name, value)
    return device.boot()


@pytest.mark.parametrize("which", range(4), ids=["manifest", "config", "engine", "golden"])
def test_damaged_committed_engine_gives_way_and_is_fetched_again(device: Device, which: int) -> None:
    rot(device, "2", which)
    start_again(device, repaired=True)
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1", "the previous engine serves at once"
    report = device.deployer.report()
    assert (report.state, report.active_release) == (State.NOTIFIED, "gate-detector@1")
    assert report.error is not None
    assert (report.error.code, "gate-detector@1 serves instead" in report.error.detail) == ("damaged", True)
    assert device.run() is State.COMMITTED
    assert device.serving.release == "gate-detector@2"
    device.check_rest()


def test_damaged_engine_without_metadata_stays_with_the_previous_one(device: Device) -> None:
    rot(device, "2")
    device.world.stale = True
    start_again(device, repaired=True)
    assert device.run(lambda: device.state is State.DEFERRED) is State.DEFERRED
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    device.world.stale = False
    assert device.run() is State.COMMITTED


def test_nothing_whole_leaves_the_slot_empty_and_fetches_what_is_wanted(device: Device) -> None:
    rot(device, "1")
    rot(device, "2")
    start_again(device, repaired=True)
    assert device.serving is None
    error = device.deployer.report().error
    assert error is not None
    assert "there is no other engine" in error.detail
    assert device.run() is State.COMMITTED
    device.check_rest()


def test_engine_on_trial_that_is_damaged_is_rolled_back(device: Device) -> None:
    device.world.bundles["3"] = device.world.bundles["3"]
    device.want("3", 3)
    device.run(lambda: device.state is State.PROBATION)
    rot(device, "3")
    start_again(device)
    assert device.state is State.ROLLING_BACK
    assert device.run() is State.ROLLED_BACK
    device.check_rest()


def test_after_a_rollback_a_damaged_engine_is_degraded(device: Device) -> None:
    device.want("3", 3)
    assert device.run() is State.ROLLED_BACK
    rot(device, "2")
    start_again(device)
    assert device.state is State.DEGRADED
    slot = device.journal.slot(SLOT)
    assert slot.active is None, "version 1 was tidied away when 2 was committed and went with the trial of 3"
    assert device.deployer.report().error is not None


@pytest.mark.parametrize("seed", range(12))
def test_damaged_journal_is_set_aside_and_rebuilt(device: Device, seed: int) -> None:
    slot, floor = device.journal.slot(SLOT), device.journal.value("floor:targets.json")
    device.journal.mark_bad(device.world.bundles["3"].digest, 1, "health")
    device.off()
    chance = random.Random(seed)
    for path in device.folder.glob("journal.db*"):
        data = bytearray(path.read_bytes())
        at = chance.randrange(max(1, len(data) - 4000))
        data[at : at + 4000] = chance.randbytes(len(data[at : at + 4000]))
        path.write_bytes(data)
    device.boot()
    assert device.journal.slot(SLOT) == slot
    assert device.journal.value("floor:targets.json") == floor
    assert device.journal.bad(device.world.bundles["3"].digest, 1) == "health"
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    device.check_rest()
    device.want("1", 3)
    assert device.run() is State.COMMITTED, "updates go on"


def test_journal_that_is_no_database_is_kept_aside_and_told(device: Device) -> None:
    device.off()
    (device.folder / "journal.db").write_bytes(b"not a database" * 100)
    device.boot()
    notice = device.journal.notice
    assert notice is not None
    assert "journal.db.damaged" in notice.detail
    assert (device.folder / "journal.db.damaged").read_bytes().startswith(b"not a database")
    assert device.serving is not None


def test_journal_that_has_lost_its_last_changes_takes_them_from_the_mirror(
    device: Device, tmp_path: Path
) -> None:
    slot, deployment = device.journal.slot(SLOT), device.journal.deployment(SLOT)
    device.off()
    old = Device(tmp_path / "old", device.world).boot()
    old.off()
    (device.folder / "journal.db").write_bytes((tmp_path / "old" / "journal.db").read_bytes())
    device.boot()
    assert device.journal.slot(SLOT) == slot
    assert device.journal.deployment(SLOT) == deployment
    assert isinstance(device.journal.notice, Failure)


def test_journal_and_mirror_both_gone_says_that_the_floors_are_lost_and_fetches_anew(device: Device) -> None:
    device.off()
    device.floor, device.repaired = 0, True  # neither can be known any more, and that is said
    (device.folder / "journal.db").write_bytes(b"not a database" * 100)
    (device.folder / "journal.mirror.json").write_bytes(b"{}")
    device.boot()
    assert device.journal.notice is not None
    assert "version floors, blocked releases and what the slots had are lost" in device.journal.notice.detail
    assert device.journal.slot(SLOT) == Slot()
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    assert hex_of(device.world.installed("2").manifest) in {p.name for p in device.store.blobs.iterdir()}


def test_freeze_outlives_a_restart_without_a_controller(device: Device) -> None:
    device.journal.set_frozen(True)
    start_again(device, frozen=False)
    device.waiting = lambda: setattr(device, "frozen", device.frozen and len(device.waits) < 5)
    device.want("1", 3)
    assert device.run() is State.COMMITTED
    assert device.waits[:4] == [(State.STAGED, "frozen")] * 4


def test_lease_outlives_a_restart_and_runs_out(device: Device) -> None:
    device.leases.take("car", 3600.0, "it drives")
    start_again(device)
    began_s = device.now_s
    device.want("1", 3)
    assert device.run() is State.COMMITTED
    assert device.waits[0] == (State.DEFERRED, "car says not now: it drives")
    assert device.now_s - began_s > 3600
    assert device.leases.holder() is None
    assert device.journal.leases() == []


def test_damaged_engine_never_starts_although_nothing_can_be_written(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rot(device, "2")
    one, two = device.world.installed("1"), device.world.installed("2")

    def read_only(*_: object) -> None:
        raise StorageError("read-only file system")

    monkeypatch.setattr(device.journal, "save_slot", read_only)
    monkeypatch.setattr(
        Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only"))
    )
    checked = check_slots(device.journal, device.store, ("other", SLOT))
    assert checked.skipped == {SLOT: SkippedEngine(damaged=two, instead=one)}
    assert checked.trouble is not None


def test_slot_that_cannot_be_read_does_not_keep_the_others_from_being_checked(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = device.store.verify_variant
    device.journal.save_slot("a-first", Slot(device.world.installed("1")))
    rot(device, "2")

    def verify(manifest: str) -> None:
        if manifest == device.world.installed("1").manifest and not checked:
            checked.append(manifest)
            raise StorageError("no such device")
        real(manifest)

    checked: list[str] = []
    monkeypatch.setattr(device.store, "verify_variant", verify)
    trouble = check_slots(device.journal, device.store, ("a-first", SLOT)).trouble
    assert trouble is not None
    assert trouble.message == "no such device"
    assert device.journal.slot(SLOT).active == device.world.installed("1")


def test_agent_that_started_before_the_disk_went_read_only_still_holds_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def read_only(path: object, flags: int, *more: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *more)  # type: ignore[arg-type]

    with hold_folder(tmp_path):
        monkeypatch.setattr(os, "open", read_only)
        assert not is_free(tmp_path)


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path) -> None:
    assert is_free(tmp_path)
    with hold_folder(tmp_path):
        assert not is_free(tmp_path)
        with pytest.raises(UsageError, match="an agent is running"), hold_folder(tmp_path):
            pass
    assert is_free(tmp_path)


@pytest.mark.parametrize(
    "state", [State.STAGED, State.WARMING, State.SHADOW, State.ACTIVATING], ids=lambda s: s.value
)
def test_next_engine_that_rots_while_the_device_is_off_never_serves(device: Device, state: State) -> None:
    device.world.add("4", 3000)
    device.want("4", 3, policy=POLICY.model_copy(update={"shadow": ShadowGate()}))
    device.run(lambda: device.state is state)
    rot(device, "4", 2)
    start_again(device)
    device.run()
    device.check_rest()
    report = device.deployer.report()
    assert report.error is None or report.error.retryable, "the disk is to blame, not the release"
    served = "gate-detector@2" if state is State.ACTIVATING else "gate-detector@4"
    assert (report.active_release, device.journal.bad(device.world.bundles["4"].digest, 1)) == (served, None)
