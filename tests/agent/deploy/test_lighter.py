"""Lighter variants of a release: brought along, proven like the release's own, and nothing that a release fails for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import SLOT, Catalogue, Device
from support.power import PowerCut

from edgectl.agent.deploy.fsck import check
from edgectl.agent.state.records import LighterEngine
from edgectl.core.files import hex_of
from edgectl.core.states import State


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """It asks for the low-power variant; version 1, which serves, has one."""
    world = Catalogue(tmp_path)
    world.add("1", 3000, low_power={})
    world.add("2", 3000, low_power={})
    world.add("plain", 3000)
    world.add("cold", 3000, low_power={"warm": False})
    world.add("slow", 3000, low_power={"warm_hangs": True})
    world.add("crash", 3000, low_power={}, crash=True)
    device = Device(tmp_path / "device", world, lighter=("low-power",)).boot()
    device.want("1", 1)
    assert device.run() is State.COMMITTED
    yield device
    device.off()


def low(device: Device, version: str) -> str:
    return device.world.bundles[version].variants[1].digest


def recorded(device: Device) -> LighterEngine:
    active = device.journal.slot(SLOT).active
    assert active is not None
    (one,) = active.lighter
    return one


def served(device: Device) -> dict[str, str]:
    assert device.serving is not None
    return dict(device.serving.lighter)


def test_it_comes_along_and_goes_with_its_release(device: Device) -> None:
    assert served(device) == {"low-power": low(device, "1")}
    assert device.deployer.report().lighter == {"low-power": "ready"}
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    assert served(device) == {"low-power": low(device, "2")}
    assert device.store.has(low(device, "1")), "the way back has its own"
    device.want("plain", 3)
    assert device.run() is State.COMMITTED
    assert served(device) == {}
    assert recorded(device) == LighterEngine(preference="low-power", why="there is none")
    assert device.deployer.report().lighter == {"low-power": "there is none"}
    assert not device.store.has(low(device, "1"))
    assert device.resting, "what the release does not have is not asked for again"
    assert check(device.folder).problems == ()


def test_a_device_that_does_not_ask_gets_none(device: Device) -> None:
    device.off()
    device.lighter = ()
    device.boot()
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    assert served(device) == {}
    assert not device.store.has(low(device, "2"))


@pytest.mark.parametrize(("version", "why"), [("cold", "differs from golden"), ("slow", "took too long")])
def test_one_that_is_not_proven_is_left_out_and_the_release_serves(
    device: Device, version: str, why: str
) -> None:
    device.want(version, 2)
    assert device.run() is State.COMMITTED
    assert served(device) == {}
    one = recorded(device)
    assert one.manifest is None
    assert why in (one.why or "")
    assert not device.store.has(low(device, version)), "what is left out takes no room"


def test_one_over_which_the_device_went_down_is_not_tried_again(device: Device) -> None:
    warmed: list[str] = []

    def cut_at_second_warm_up(what: str) -> None:
        warmed.append(what) if what == "warm" else None
        if warmed == ["warm", "warm"]:
            raise PowerCut

    device.effect = cut_at_second_warm_up
    device.want("2", 2)
    with pytest.raises(PowerCut):
        device.run()
    device.off()
    device.boot()
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    assert warmed == ["warm"] * 3
    assert recorded(device).why == "the warm-up was interrupted before"
    assert served(device) == {}


def test_the_way_back_has_its_own_lighter_variant(device: Device) -> None:
    device.want("crash", 2)
    assert device.run() is State.ROLLED_BACK
    assert served(device) == {"low-power": low(device, "1")}
    assert device.standby is None, "what failed is unloaded: the engine before is not on trial"


def test_a_configuration_that_asks_for_it_later_gets_it_and_the_way_back_stays(device: Device) -> None:
    device.off()
    device.lighter = ()
    device.boot()
    device.want("2", 2)
    device.run()
    device.off()
    device.lighter, device.repaired = ("low-power",), True
    device.boot()
    device.want("2", 2)
    assert device.run() is State.COMMITTED
    assert served(device) == {"low-power": low(device, "2")}
    previous = device.journal.slot(SLOT).previous
    assert previous is not None
    assert previous.release == "gate-detector@1"


def rot(device: Device, manifest: str) -> None:
    path = device.store.blobs / hex_of(manifest)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_one_that_has_rotted_is_not_started_and_is_fetched_again(device: Device) -> None:
    device.off()
    rot(device, low(device, "1"))
    (problem,) = [p for p in check(device.folder).problems if p.kind == "slot"]
    assert (problem.severe, "the low-power variant of its active engine" in problem.detail) == (False, True)
    device.repaired = True
    device.boot()
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    assert served(device) == {}
    device.want("1", 1)
    assert device.run() is State.COMMITTED
    assert served(device) == {"low-power": low(device, "1")}
    device.check_rest()


def test_one_that_has_rotted_behind_the_active_engine_does_not_come_back_with_it(device: Device) -> None:
    device.during["swapped"] = [lambda: rot(device, low(device, "1"))]
    device.want("crash", 2)
    assert device.run() is State.ROLLED_BACK
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    assert served(device) == {}
