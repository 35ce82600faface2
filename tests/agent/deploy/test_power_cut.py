"""Cut anywhere: a short part of ``bench/kill_anywhere.py``, and the table of states × (error, kill, hang)."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.device import POLICY, SLOT, Catalogue, Device, Violation
from support.kills import SCENARIOS, Kills
from support.power import SECTOR, Disk, PowerCut

from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Slot
from edgectl.core.errors import BundleError, EngineError, IntegrityError, StorageError, TrustError
from edgectl.core.files import atomic_write
from edgectl.core.states import TERMINAL, State
from edgectl.core.wire import ShadowGate


@pytest.fixture(scope="module")
def kills() -> Iterator[Kills]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Kills(Path(folder))


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_a_cut_a_scenario_ends_as_it_says(kills: Kills, name: str) -> None:
    assert kills.length(name) > 10


@pytest.mark.parametrize(("name", "step"), [("good", 1), ("crashes", 3)])
def test_power_cut_at_every_operation_leaves_one_verified_engine(kills: Kills, name: str, step: int) -> None:
    before = kills.kills
    cuts = range(1, kills.length(name) + 1, step)
    for cut in cuts:
        kills.run(name, random.Random(cut), [cut])
    assert kills.kills - before == len(cuts), "every cut happened"


@pytest.mark.parametrize("name", SCENARIOS)
def test_cut_again_and_again_at_random_it_still_comes_to_an_end(kills: Kills, name: str) -> None:
    for seed in range(2):
        chance = random.Random(seed)
        cuts = [chance.randrange(1, kills.length(name) + 1) for _ in range(seed % 3 + 1)]
        kills.run(name, chance, cuts, kill=seed == 1)


# ---- the instrument itself


def write_two_files(root: Path) -> None:
    """Create, write, fsync, rename, fsync of the folder; create, write: the eighth operation is cut."""
    atomic_write(root / "kept", b"k")
    fd = os.open(root / "lost", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"x" * (3 * SECTOR), 0)
    os.fsync(fd)


def test_bytes_that_were_not_synced_may_be_lost_or_torn_and_synced_ones_never(tmp_path: Path) -> None:
    left = set()
    for seed in range(40):
        root, into = tmp_path / f"a{seed}", tmp_path / f"b{seed}"
        root.mkdir()
        with pytest.raises(PowerCut), Disk(root, random.Random(seed), cut_at=8, into=into):
            write_two_files(root)
        assert (into / "kept").read_bytes() == b"k"
        left.add((into / "lost").read_bytes() if (into / "lost").exists() else None)
    assert None in left, "the name may be missing"
    assert {b"", b"x" * SECTOR, b"x" * (3 * SECTOR)} <= left, "the bytes may be missing, torn or there"


def test_forgotten_fsync_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder's fsync left out, some cut must leave the journal pointing at a blob that is not
    there."""
    monkeypatch.setattr("edgectl.agent.state.store.fsync_dir", lambda path: None)
    kills = Kills(tmp_path)
    length = kills.length("good")

    def cut_often() -> None:
        for seed in range(200):
            chance = random.Random(seed)
            kills.run("good", chance, [chance.randrange(1, length + 1)])

    with pytest.raises(Violation):
        cut_often()


# ---- the table: state × (error, kill, hang)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 3000)
    world.add("stuck", 3000, swap_hangs=True)
    world.add("cold", 3000, warm_hangs=True)
    world.add("hang", 3000, hang=True)
    world.add("blind", 3000, shadow_hangs=True)
    device = Device(tmp_path / "device", world).boot()
    device.want("1", 1)
    device.run()
    yield device
    device.off()


GATED = POLICY.model_copy(update={"shadow": ShadowGate()})
ERRORS = [
    (State.NOTIFIED, "check", TrustError("unsigned"), State.REJECTED),
    (State.FETCHING, "fetch", IntegrityError("corrupt"), State.FAILED),
    (State.FETCHING, "fetch", BundleError("nothing fits"), State.REJECTED),
    (State.FETCHING, "fetch", StorageError("full"), State.FAILED),
    (State.VERIFYING, "verify", IntegrityError("corrupt"), State.FAILED),
    (State.VERIFYING, "verify", StorageError("unreadable"), State.FAILED),
    (State.WARMING, "warm", EngineError("golden"), State.FAILED),
    (State.WARMING, "warm", BundleError("needs a GPU"), State.REJECTED),
    (State.SHADOW, "shadow", EngineError("no frames"), State.FAILED),
    (State.ACTIVATING, "ensure 2", EngineError("swap"), State.ROLLED_BACK),
    (State.PROBATION, "idle", EngineError("gone"), State.ROLLED_BACK),
    (State.ROLLING_BACK, "ensure 1", EngineError("the camera exploded"), State.DEGRADED),
]


@pytest.mark.parametrize(
    ("state", "where", "error", "end"), ERRORS, ids=lambda v: getattr(v, "value", None) or type(v).__name__
)
def test_error_in_a_state(
    device: Device, monkeypatch: pytest.MonkeyPatch, state: State, where: str, error: Exception, end: State
) -> None:
    device.fail[where] = error
    if where == "verify":
        monkeypatch.setattr(device.store, "verify_variant", lambda manifest: (_ for _ in ()).throw(error))
    if where == "idle":
        monkeypatch.setattr(device, "idle", lambda slot: device._do("idle") or False)
    if state is State.ROLLING_BACK:
        device.fail["ensure 2"] = EngineError("swap")
    device.want("2", 2, policy=GATED if state is State.SHADOW else POLICY)
    assert device.run() is end
    assert state in [s for gen, _, s in device.seen if gen == 2]
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert active.release == "gate-detector@1"
    assert device.deployer.report().error is not None


HANGS = [
    (State.DEFERRED, "2", State.EXPIRED),
    (State.WARMING, "cold", State.FAILED),
    (State.SHADOW, "blind", State.FAILED),
    (State.ACTIVATING, "stuck", State.ROLLED_BACK),
    (State.PROBATION, "hang", State.ROLLED_BACK),
]


@pytest.mark.parametrize(("state", "version", "end"), HANGS, ids=lambda v: getattr(v, "value", v))
def test_hang_in_a_state_ends_at_its_deadline(device: Device, state: State, version: str, end: State) -> None:
    device.world.stale = state is State.DEFERRED
    device.want(version, 2, policy=GATED if state is State.SHADOW else POLICY)
    assert device.run() is end
    assert state in [s for gen, _, s in device.seen if gen == 2]
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"


@pytest.mark.parametrize("kill", [False, True], ids=["power cut", "kill"])
@pytest.mark.parametrize("state", [s for s in State if s not in TERMINAL and s is not State.IDLE])
def test_end_of_the_process_in_a_state(device: Device, tmp_path: Path, state: State, kill: bool) -> None:
    """Cut in the commit that enters the state, right after it, and at the first effect in it."""
    device.off()
    version = "stuck" if state is State.ROLLING_BACK else "2"
    policy = GATED if state is State.SHADOW else POLICY
    for later in range(3):
        root, into = tmp_path / f"run{later}", tmp_path / f"cut{later}"
        shutil.copytree(tmp_path / "device", root)
        disk = Disk(root, random.Random(later), into=into, kill=kill)
        d = Device(root, device.world, now_s=device.now_s)
        d.world.stale = state is State.DEFERRED
        d.effect = disk.operation

        def arm(d: Device = d, disk: Disk = disk, later: int = later) -> bool:
            if d.seen[-1][2] is state and disk.cut_at is None:
                disk.cut_at = len(disk.done) + 1 + later
            return d.resting

        def wanted(d: Device) -> None:
            if state is State.CLEARING:
                d.clear(2)
            else:
                d.want(version, 2, policy=policy)

        def deploy(d: Device = d, arm: Callable[[], bool] = arm) -> None:
            d.boot()
            wanted(d)
            d.run(arm)
            d.run(lambda: False)

        with pytest.raises(PowerCut), disk:
            deploy()
        d.off()
        d.world.stale = False
        again = Device(into, device.world, now_s=d.now_s, seen=d.seen, floor=d.floor).boot()
        wanted(again)
        expected = {State.ROLLING_BACK: State.ROLLED_BACK, State.CLEARING: State.CLEARED}.get(
            state, State.COMMITTED
        )
        assert again.run() is expected
        again.check_rest()
        again.off()


@pytest.mark.parametrize(
    ("at", "times", "end"),
    [("warm", 2, State.FAILED), ("shadow", 2, State.FAILED), ("ensure 2", 3, State.ROLLED_BACK)],
)
def test_machine_that_dies_in_the_same_place_each_time_gives_the_release_up(
    device: Device, at: str, times: int, end: State
) -> None:
    """A GPU that takes the machine down with it: the count is on disk before the engine runs."""

    def dies(what: str) -> None:
        if what == at:
            raise PowerCut

    for n in range(10):
        device.off()
        device = Device(device.folder, device.world, now_s=device.now_s, seen=device.seen).boot()
        device.effect = dies
        device.want("2", 2, policy=GATED)
        try:
            device.run()
        except PowerCut:
            continue
        assert (n, device.state) == (times, end)
        device.check_rest()
        device.off()
        return
    raise AssertionError("it never gives up")


def test_slot_record_is_the_old_or_the_new_one_for_every_torn_log(tmp_path: Path, device: Device) -> None:
    """Every 512-byte step of the last transaction in SQLite's log, and of the database while it is written
    back."""
    one, two = (device.world.installed(v) for v in ("1", "2"))
    folder = tmp_path / "j"
    journal = Journal(folder / "journal.db")
    journal.save_slot("s", Slot(one))
    mirror = (folder / "journal.mirror.json").read_bytes()
    old = {p.name: p.read_bytes() for p in folder.glob("journal.db*")}
    journal.save_slot("s", Slot(two, one))
    new = {p.name: p.read_bytes() for p in folder.glob("journal.db*")}
    journal.close()
    before, after = old["journal.db-wal"], new["journal.db-wal"]
    assert len(after) > len(before)
    seen = set()
    for length in (*range(len(before), len(after), SECTOR), len(after)):
        torn = tmp_path / "torn"
        shutil.rmtree(torn, ignore_errors=True)
        torn.mkdir()
        (torn / "journal.db").write_bytes(old["journal.db"])
        (torn / "journal.db-wal").write_bytes(after[:length])
        (torn / "journal.mirror.json").write_bytes(mirror)
        opened = Journal(torn / "journal.db")
        assert opened.slot("s") in (Slot(one), Slot(two, one))
        assert opened.notice is None, "a torn log is no damage"
        seen.add(opened.slot("s"))
        opened.close()
    assert len(seen) == 2
