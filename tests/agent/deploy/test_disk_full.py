"""No space, at every single write in turn: what serves goes on, the device says why, and it recovers when
there is space again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import SLOT, Catalogue, Device
from support.kills import Kills
from support.power import Disk

from edgectl.agent.state.journal import Journal
from edgectl.agent.state.records import Installed, Slot
from edgectl.core.errors import StorageError
from edgectl.core.states import State


@pytest.fixture
def kills() -> Iterator[Kills]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Kills(Path(folder))


def writes(kills: Kills, folder: Path) -> int:
    """How many operations of an update need space."""
    count = 0

    def counted(what: str) -> bool:
        nonlocal count
        count += 1
        return False

    update(kills, folder, counted)
    return count


def update(kills: Kills, folder: Path, full: object, turns: int = 20) -> tuple[Device, Disk]:
    shutil.copytree(kills.template, folder)
    disk = Disk(folder)
    disk.full = full  # type: ignore[assignment]
    device = Device(folder, kills.world)
    with disk:
        device.boot()
        device.want("2", 10)
        left = iter(range(turns))
        device.run(lambda: device.resting or next(left, None) is None)
    return device, disk


def test_every_write_in_turn_finds_no_space(kills: Kills) -> None:
    told = set()
    for n in range(1, writes(kills, kills.folder / "dry") + 1):
        seen = 0

        def full(what: str, n: int = n) -> bool:
            nonlocal seen
            seen += 1
            return seen >= n

        folder = kills.folder / f"full-{n}"
        device, disk = update(kills, folder, full)
        device.check()
        assert device.serving is not None, "inference goes on"
        report = device.deployer.report()
        notice = device.journal.notice
        if device.state is not State.COMMITTED or report.error is not None:
            error = report.error or notice
            assert error is not None, f"it says why, at write {n} in {device.state.value}"
            told.add(error.code)
        disk.full = None
        with disk:
            device.now_s += 10
            device.run()
            if device.state in (State.FAILED, State.ROLLED_BACK):
                assert device.deployer.report().error.retryable, "no release is to blame"  # type: ignore[union-attr]
                device.want("2", 11, attempt=2)
                device.run()
        assert device.state is State.COMMITTED, f"recovers after write {n}"
        device.check_rest()
        device.off()
        shutil.rmtree(folder)
    assert "storage" in told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, where we may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=3m", "edgectl-test", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Somebody else takes every byte that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            return ballast


def test_real_disk_without_a_byte_left_the_agent_starts_runs_and_recovers(
    small_disk: Path, tmp_path: Path
) -> None:
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 200_000)
    device = Device(small_disk / "state", world).boot()
    device.want("1", 1)
    device.run()
    ballast = fill(small_disk)
    device.want("2", 2)
    left = iter(range(30))
    device.run(lambda: device.resting or next(left, None) is None)
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    device.off()
    device = Device(small_disk / "state", world, now_s=device.now_s).boot()  # a start on a full disk
    assert device.serving is not None, "it runs what it has"
    device.want("2", 2)
    left = iter(range(5))
    device.run(lambda: device.resting or next(left, None) is None)
    assert device.deployer.report().error is not None
    ballast.unlink()
    device.now_s += 10
    device.run()
    if device.state is State.FAILED:
        device.want("2", 3, attempt=2)
        device.run()
    assert device.state is State.COMMITTED
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert active.release == "gate-detector@2"
    device.off()


def test_disk_that_cannot_be_written_is_read_from_the_mirror_and_used_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.db"
    one = Installed(release="m@1", bundle="sha256:" + "a" * 64, manifest="sha256:" + "b" * 64)
    journal = Journal(path)
    journal.save_slot("s", Slot(one))
    journal.raise_floor("floor:targets.json", 4)
    journal.close()
    real = Journal._open_or_set_aside

    def full(self: Journal, mirrored: bool) -> object:
        raise StorageError("the agent's journal cannot be used: unable to open database file")

    monkeypatch.setattr(Journal, "_open_or_set_aside", full)
    journal = Journal(path)
    assert journal.volatile
    assert journal.notice is not None
    assert journal.slot("s") == Slot(one)
    with pytest.raises(StorageError):
        journal.save_slot("s", Slot())
    assert journal.slot("s") == Slot(one)
    monkeypatch.setattr(Journal, "_open_or_set_aside", real)
    journal.raise_floor("floor:targets.json", 5)
    assert (journal.volatile, journal.notice) == (False, None)
    assert journal.slot("s") == Slot(one)
    journal.close()
    again = Journal(path)
    assert again.value("floor:targets.json") == 5
    again.close()
