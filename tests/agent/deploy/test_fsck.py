from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import SLOT, Catalogue, Device
from typer.testing import CliRunner

from edgectl.agent.deploy.fsck import FsckReport, check, repair
from edgectl.agent.state.lock import hold_folder
from edgectl.cli.main import app
from edgectl.core.errors import UsageError


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 3000)
    device = Device(tmp_path / "state", world).boot()
    for gen, version in enumerate(("1", "2"), 1):
        device.want(version, gen)
        device.run()
    device.off()
    yield device
    device.off()


def kinds(report: FsckReport) -> list[str]:
    return sorted({p.kind for p in report.problems})


def engine(device: Device, version: str) -> Path:
    *_, golden = device.world.bundles[version].variants[0].descriptors()
    return device.store.path(golden.digest)


def test_sound_store_has_no_problem(device: Device) -> None:
    report = check(device.folder)
    assert (report.sound, report.problems) == (True, ())
    assert report.blobs == 10


def test_everything_that_can_be_wrong_is_found_and_repaired(device: Device) -> None:
    store = device.folder / "store"
    engine(device, "2").write_bytes(b"rotten")
    engine(device, "1").rename(store / "blobs" / ("0" * 64))  # missing there, and of no use here
    (store / "parts" / ("1" * 64)).write_bytes(b"half")
    (device.folder / "engines").mkdir()
    (device.folder / "engines" / "0123456789abcdef-00.plan").write_bytes(b"plan")
    report = check(device.folder)
    assert kinds(report) == ["blob", "finalised", "part", "slot"]
    assert next(p.detail for p in report.problems if p.kind == "slot").startswith(
        "its active engine gate-detector@2 is not whole"
    )
    assert not report.sound

    repair(device.folder)
    after = check(device.folder)
    assert after.problems == ()
    assert after.slots[SLOT].active is None, "neither was whole"
    device.repaired = True
    device.boot()
    device.want("2", 3)
    device.run()
    device.check_rest()


def test_repair_moves_a_slot_to_the_way_back_that_is_whole(device: Device) -> None:
    engine(device, "2").unlink()
    repair(device.folder)
    active = check(device.folder).slots[SLOT].active
    assert active is not None
    assert active.release == "gate-detector@1"
    assert check(device.folder).sound


def test_damaged_journal_is_told_and_mended_from_its_mirror(device: Device) -> None:
    path = device.folder / "journal.db"
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    slots = check(device.folder).slots
    assert not check(device.folder).sound
    assert kinds(check(device.folder)) == ["journal"], "slots are read from the mirror meanwhile"
    repair(device.folder)
    assert check(device.folder).sound
    assert check(device.folder).slots == slots


def test_repair_refuses_beside_a_running_agent_and_looking_does_not(device: Device) -> None:
    with hold_folder(device.folder):
        assert check(device.folder).sound
        with pytest.raises(UsageError, match="an agent is running"):
            repair(device.folder)


def test_command_line(device: Device, tmp_path: Path) -> None:
    def run(*more: str) -> tuple[int, dict[str, object]]:
        result = CliRunner().invoke(
            app, ["store", "fsck", "--state-dir", str(device.folder), "--json", *more]
        )
        code = result.exit_code if result.exception is None else getattr(result.exception, "exit_code", 1)
        return code, json.loads(result.stdout)

    assert run()[0] == 0
    engine(device, "2").write_bytes(b"rotten")
    code, found = run()
    assert (code, found["sound"]) == (6, False)
    code, found = run("--repair")
    assert (code, found["sound"]) == (0, True)
    assert {p["kind"] for p in found["repaired"]} == {"blob", "slot"}  # type: ignore[index, attr-defined]
    with pytest.raises(UsageError, match="not the state folder"):
        check(tmp_path / "nothing")
