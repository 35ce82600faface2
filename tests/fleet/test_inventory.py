from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.core.errors import StorageError
from edgectl.core.wire import Conn, Desired, DesiredSlot
from edgectl.fleet.inventory import Device, Inventory, Release
from edgectl.fleet.rollout import Member, Outcome, Progress, RolloutSpec, RolloutState

D = "sha256:" + "a" * 64


def test_everything_survives_a_restart(tmp_path: Path) -> None:
    inventory = Inventory(tmp_path)
    wish = DesiredSlot(release="m@1", digest=D)
    device = Device("cam", Conn(epoch=3, online=True), None, Desired(gen=2, slots={"gate": wish}), 5.0)
    inventory.save_device(device)
    inventory.save_release(Release("m@1", D, ("cpu", "jetson-orin"), 1.0))
    spec = RolloutSpec(id="r1", release="m@1", digest=D, slot="gate")
    progress = Progress(members={"cam": Member(wave=0, outcome=Outcome.ADMITTED, admitted_s=1.0, before=wish)})
    inventory.save_rollout(spec, Progress())
    inventory.save_rollout(spec, progress)
    inventory.log("rollout", "r1", "began")
    inventory.close()
    inventory = Inventory(tmp_path)
    assert inventory.devices() == {"cam": device}
    assert inventory.releases() == {"m@1": Release("m@1", D, ("cpu", "jetson-orin"), 1.0)}
    assert inventory.rollouts(active=True) == {"r1": (spec, progress)}
    done = progress.model_copy(update={"state": RolloutState.DONE})
    inventory.save_rollout(spec, done)
    assert inventory.rollouts(active=True) == {"r1": (spec, done)}, "a device is not through yet"
    committed = {"cam": progress.members["cam"].model_copy(update={"outcome": Outcome.COMMITTED})}
    inventory.save_rollout(spec, done.model_copy(update={"members": committed}))
    assert inventory.rollouts(active=True) == {}
    assert [e.text for e in inventory.events()] == ["began"]
    inventory.close()


def test_bad_database_url_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Inventory(tmp_path, "sqlite:////nonexistent/folder/x.db")
