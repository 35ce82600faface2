from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.controller import T, World
from support.postgres import Postgres, postgres, store_url  # noqa: F401, fixtures
from support.released_store import write_released

from edgectl.core.errors import DataError, UsageError
from edgectl.core.files import digest_of
from edgectl.core.histogram import HistogramData
from edgectl.core.wire import Conn, Desired, DesiredSlot, Reported, StreamStats, Telemetry
from edgectl.fleet.rollouts.values import DeviceOutcome, Member, RolloutProgress, RolloutSpec, RolloutState
from edgectl.fleet.store.backup import back_up
from edgectl.fleet.store.inventory import Device, Inventory, Release
from edgectl.fleet.store.lock import hold_store
from edgectl.fleet.store.restore import restore
from edgectl.fleet.store.totals import TotalsQuery

D = "sha256:" + "a" * 64
WISH = DesiredSlot(release="m@1", digest=D)


def _fill(inventory: Inventory) -> None:
    """Something of everything."""
    for i in range(3):
        reported = Reported(epoch=1, seq=2, gen=1)
        device = Device(
            f"d{i}", Conn(epoch=1, online=True), reported, Desired(gen=i, slots={"gate": WISH}), 5.0
        )
        inventory.save_device(device)
    inventory.archive(Device("old", desired=Desired(gen=9)))
    inventory.mark_revoked("d2", True)
    inventory.save_release(Release("m@1", D, ("cpu",), 1.0))
    members = {"d0": Member(wave=0, outcome=DeviceOutcome.ADMITTED, admitted_s=1.0), "d1": Member(wave=1)}
    inventory.save_rollout(
        RolloutSpec(id="gate-1", release="m@1", digest=D, slot="gate"), RolloutProgress(members=members)
    )
    inventory.keep_number("signed", 1_700_000_000_000)
    inventory.log("fleet", "home", "frozen: “now” \\ \x01")
    inventory.log("state", "d0/gate", "fetching")
    stats = StreamStats(kind="sound", stages={"infer": HistogramData(offset=3, counts=(1, 2), sum_us=9.0)})
    for seq in (1, 2):
        inventory.note_telemetry("d0", Telemetry(epoch=1, seq=seq, window_s=60.0, streams={"gate": stats}))
    inventory.count_telemetry()
    inventory.retain(time.time())
    inventory.retain(time.time() + 2 * 86400)
    inventory.note_telemetry("d0", Telemetry(epoch=1, seq=3, window_s=60.0, streams={"gate": stats}))


def _all(inventory: Inventory) -> dict[str, Any]:
    rollouts = {
        name: (spec, progress.model_copy(update={"state": RolloutState.RUNNING}))
        for name, (spec, progress) in inventory.rollouts().items()
    }
    return {
        "devices": inventory.devices(),
        "archived": inventory.archived(),
        "revoked": inventory.revoked(),
        "releases": inventory.releases(),
        "rollouts": rollouts,
        "number": inventory.number("signed"),
        "totals": {of: sum(t.histogram.n for t in x) for of, x in inventory.totals(TotalsQuery(), 9).items()},
        "telemetry": [(m.key, m.span_s, m.start_s, m.histogram.n) for m in inventory.measurements("d0")],
    }


def _rewritten(file: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The same backup with other members; None: without it."""
    out = file.with_name("changed.tar")
    with tarfile.open(file) as old, tarfile.open(out, "w") as new:
        for info in old.getmembers():
            member = old.extractfile(info)
            assert member is not None
            data = change(info.name, member.read())
            if data is not None:
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return out


@pytest.mark.parametrize("to", ["sqlite", "postgresql"])
def test_backup_of_either_kind_is_restored_into_either_kind(
    tmp_path: Path,
    store_url: str | None,
    to: str,
    request: pytest.FixtureRequest,
) -> None:
    other = None if to == "sqlite" else request.getfixturevalue("postgres").new_database()
    before = Inventory(tmp_path / "a", store_url)
    _fill(before)
    history = before.events()
    back_up(tmp_path / "a", store_url, "home", tmp_path / "b.tar")
    _, paused = restore(tmp_path / "b.tar", tmp_path / "b", other, "home")
    after = Inventory(tmp_path / "b", other)
    assert _all(after) == _all(before)
    assert [n for _, _, _, n in _all(after)["telemetry"]] == [6, 3]
    assert paused == ["gate-1"]
    assert after.events()[: len(history)] == history
    after.log("fleet", "home", "goes on")
    assert after.events()[-1].id > max(e.id for e in history), "it counts on behind what came with a number"
    after.archive(Device("d0"))
    assert [a.device.name for a in after.archived()] == ["old", "d0"]
    before.close()
    after.close()


def test_restored_file_is_private(tmp_path: Path) -> None:
    Inventory(tmp_path / "a").close()
    back_up(tmp_path / "a", None, "home", tmp_path / "b.tar")
    restore(tmp_path / "b.tar", tmp_path / "b", None, "home")
    assert (tmp_path / "b" / "fleet.db").stat().st_mode & 0o777 == 0o600


def test_rollout_that_would_ask_more_devices_is_paused_and_says_why(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path / "a")
    _fill(inventory)
    inventory.close()
    back_up(tmp_path / "a", None, "home", tmp_path / "b.tar")
    restore(tmp_path / "b.tar", tmp_path / "b", None, "home")
    inventory = Inventory(tmp_path / "b")
    assert inventory.rollouts()["gate-1"][1].state is RolloutState.PAUSED
    assert "paused: the store was restored" in inventory.events(about="gate-1", acts=True)[-1].text
    inventory.close()


def test_store_that_is_not_empty_is_kept_unless_it_is_to_be_replaced(
    tmp_path: Path,
    store_url: str | None,
) -> None:
    inventory = Inventory(tmp_path, store_url)
    _fill(inventory)
    back_up(tmp_path, store_url, "home", tmp_path / "b.tar")
    inventory.save_device(Device("since"))
    inventory.close()
    with pytest.raises(UsageError, match="not empty") as e:
        restore(tmp_path / "b.tar", tmp_path, store_url, "home")
    assert "--replace" in str(e.value.hint)
    restore(tmp_path / "b.tar", tmp_path, store_url, "home", replace=True)
    inventory = Inventory(tmp_path, store_url)
    assert set(inventory.devices()) == {"d0", "d1", "d2"}
    inventory.close()


def test_numbers_do_not_go_back_below_what_the_replaced_store_has_used(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    inventory.keep_number("signed", 5)
    back_up(tmp_path, None, "home", tmp_path / "b.tar")
    inventory.keep_number("signed", 9_000_000_000_000)
    inventory.close()
    restore(tmp_path / "b.tar", tmp_path, None, "home", replace=True)
    inventory = Inventory(tmp_path)
    assert inventory.number("signed") == 9_000_000_000_000
    inventory.close()


def test_store_of_the_first_release_is_backed_up_as_it_is_and_restored_into_todays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_released(tmp_path / "a" / "fleet.db")
    made = back_up(tmp_path / "a", None, "home", tmp_path / "b.tar")
    assert made.revision == "0001"
    restore(tmp_path / "b.tar", tmp_path / "b", None, "home")
    inventory = Inventory(tmp_path / "b")
    assert set(inventory.rollouts()["gate-1"][1].members) == {"cam", "dam"}
    inventory.close()


def test_store_under_a_running_controller_is_not_replaced(tmp_path: Path) -> None:
    Inventory(tmp_path).close()
    back_up(tmp_path, None, "home", tmp_path / "b.tar")
    with hold_store(tmp_path), pytest.raises(UsageError, match="a controller is running"):
        restore(tmp_path / "b.tar", tmp_path, None, "home", replace=True)


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[str, bytes], bytes | None]:
    def changed(name: str, data: bytes) -> bytes:
        if name != "manifest.json":
            return data
        manifest = json.loads(data)
        change(manifest)
        return json.dumps(manifest).encode()

    return changed


BROKEN: dict[str, Callable[[str, bytes], bytes | None]] = {
    "a bit is flipped": lambda n, d: d.replace(b"d1", b"d7") if n == "devices.jsonl" else d,
    "a table is missing": lambda n, d: None if n == "devices.jsonl" else d,
    "a table is cut off": lambda n, d: d[:-5] if n == "devices.jsonl" else d,
    "a table is longer": lambda n, d: d + d if n == "devices.jsonl" else d,
    "there is no manifest": lambda n, d: None if n == "manifest.json" else d,
    "the manifest is no JSON": lambda n, d: b"{" if n == "manifest.json" else d,
    "the manifest is huge": lambda n, d: b" " * (2 << 20) if n == "manifest.json" else d,
    "its schema is newer": _manifest(lambda m: m.update(revision="9999")),
    "its format is newer": _manifest(lambda m: m.update(format=2)),
    "it has a table that nobody knows": _manifest(lambda m: m["tables"].update(x=m["tables"]["devices"])),
    "it has another number of rows": _manifest(lambda m: m["tables"]["devices"].update(rows=7)),
    "its revision is no name": _manifest(lambda m: m.update(revision="../../x")),
}


@pytest.mark.parametrize("how", BROKEN)
def test_file_that_is_no_whole_backup_changes_nothing(
    tmp_path: Path,
    store_url: str | None,
    how: str,
) -> None:
    inventory = Inventory(tmp_path, store_url)
    _fill(inventory)
    before = _all(inventory)
    file = tmp_path / "b.tar"
    back_up(tmp_path, store_url, "home", file)
    with pytest.raises(DataError) as e:
        restore(_rewritten(file, BROKEN[how]), tmp_path, store_url, "home", replace=True)
    assert "\n" not in e.value.message
    assert _all(inventory) == before
    inventory.close()


@pytest.mark.parametrize("payload", [b"", b"x" * 2000, bytes(10_240)])
def test_file_that_is_none_is_one_sentence(tmp_path: Path, payload: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(payload)
    with pytest.raises(DataError):
        restore(tmp_path / "b.tar", tmp_path, None, "home")
    with pytest.raises(UsageError):
        restore(tmp_path / "none.tar", tmp_path, None, "home")


ROWS = {
    "list": b"[1]\n",
    "columns": b'{"name":"d0"}\n',
    "base64": b'{"name":{"base64":"!"}}\n',
    "nothing": b"\n",
}


@pytest.mark.parametrize("how", ROWS)
def test_row_that_its_table_cannot_have_is_damage_whatever_the_manifest_says(
    tmp_path: Path, how: str
) -> None:
    Inventory(tmp_path).close()
    back_up(tmp_path, None, "home", tmp_path / "b.tar")
    data = ROWS[how]

    def forged(name: str, old: bytes) -> bytes | None:
        entry = {"rows": 1, "bytes": len(data), "digest": digest_of(data)}
        told = _manifest(lambda m: m["tables"].update(devices=entry))
        return data if name == "devices.jsonl" else told(name, old)

    with pytest.raises(DataError):
        restore(_rewritten(tmp_path / "b.tar", forged), tmp_path, None, "home", replace=True)


def test_backup_of_another_fleet_is_refused(tmp_path: Path) -> None:
    Inventory(tmp_path).close()
    back_up(tmp_path, None, "home", tmp_path / "b.tar")
    with pytest.raises(UsageError, match="fleet home"):
        restore(tmp_path / "b.tar", tmp_path, None, "away", replace=True)


def test_controller_with_a_restored_store_goes_on_above_what_devices_have_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store_url: str | None,
) -> None:
    """Devices keep what they have: nothing older than that is ever published, and no number is used twice."""
    world = World(tmp_path, monkeypatch, database=store_url)
    world.born("d0")
    world.rollout("1")
    world.tick()
    state = tmp_path / "state"
    back_up(state, store_url, "home", tmp_path / "b.tar")
    world.controller.change_rollout("gate-1", "abort")
    world.tick()
    world.reports("d0", 1, 1, gen=world.controller._devices["d0"].desired.gen)
    world.controller.freeze(True)
    seen = world.told("d0")
    assert seen is not None
    number = world.controller.inventory.number("signed")
    world.controller.inventory.close()
    restore(tmp_path / "b.tar", state, store_url, "home", replace=True)
    published: list[str] = []
    world.boot()
    world.wire.on_publish = published.append
    world.wire.on_up()
    for topic, payload in list(world.wire.retained.items()):
        world.hears(topic, payload)
    for _ in range(3):
        world.tick()
    wish = world.told("d0")
    assert wish is not None
    assert wish.gen >= seen.gen
    assert wish.slots == seen.slots, "it keeps what it has"
    assert T.ctl in published
    assert world.controller.inventory.number("signed") > number
    assert world.controller.rollout("gate-1")[1].state is RolloutState.PAUSED
    world.controller.inventory.close()
