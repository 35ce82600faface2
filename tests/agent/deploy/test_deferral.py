"""Not now, not any more, or only if it agrees: windows, leases, expiry, cancel, shadow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.device import POLICY, SLOT, Catalogue, Device

from edgectl.agent.deploy.commands import Commands
from edgectl.agent.deploy.probation import judge_shadow
from edgectl.core.errors import EngineError, UsageError
from edgectl.core.states import State
from edgectl.core.wire import Command, ShadowGate
from edgectl.pipelines.host.protocol import Shadowed

WINDOW = POLICY.model_copy(update={"windows": ("daily 03:00-04:00",)})


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    world = Catalogue(tmp_path)
    for version in ("1", "2"):
        world.add(version, 3000)
    world.add("other", 3000, agreement=0.5)
    world.add("crash", 3000, crash=True)
    device = Device(tmp_path / "device", world).boot()
    device.want("1", 1)
    device.run()
    device.waits.clear()
    yield device
    device.off()


def path(device: Device, gen: int) -> list[str]:
    return [s.value for g, _, s in device.seen if g == gen]


def test_it_is_fetched_at_any_time_and_activated_in_its_window(device: Device) -> None:
    device.want("2", 2, policy=WINDOW)
    device.run(lambda: "activating" in path(device, 2))
    assert device._local().hour == 3
    assert path(device, 2)[:5] == ["notified", "fetching", "verifying", "staged", "deferred"]
    assert device.run() is State.COMMITTED


def test_release_that_is_revoked_while_it_waits_is_rejected(device: Device) -> None:
    device.want("2", 2, policy=WINDOW)
    device.run(lambda: device.state is State.DEFERRED)
    device.world.signed.discard("2")
    assert device.run() is State.REJECTED
    assert "warming" not in path(device, 2)


def test_release_that_is_withdrawn_while_the_fleet_is_frozen_never_starts(device: Device) -> None:
    device.frozen = True

    def withdrawn() -> None:
        device.world.signed.discard("2")
        device.frozen = False

    device.waiting = withdrawn
    device.want("2", 2)
    assert device.run() is State.REJECTED
    assert "warming" not in path(device, 2)


@pytest.mark.parametrize("moment", ["warm", "shadow"])
def test_release_that_is_withdrawn_while_it_is_tried_out_is_not_activated(
    device: Device, moment: str
) -> None:
    device.during[moment] = [lambda: device.world.signed.discard("2")]
    device.want("2", 2, policy=POLICY.model_copy(update={"shadow": ShadowGate()}))
    # its frames are seen by an engine that was signed when it began
    if moment == "shadow":
        device._verified = lambda ref: None  # type: ignore[method-assign]
    assert device.run() is State.REJECTED
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    assert device.journal.slot(SLOT).active == device.world.installed("1")


def test_metadata_that_expire_while_it_is_tried_out_make_it_wait(device: Device) -> None:
    def expire() -> None:
        device.world.stale = True

    device.during["warm"] = [expire]
    device.want("2", 2)
    device.run(lambda: device.state is State.DEFERRED)
    assert "probation" not in path(device, 2)
    device.world.stale = False
    assert device.run() is State.COMMITTED


def test_engine_that_rots_while_it_is_held_is_never_started(device: Device) -> None:
    device.frozen = True

    def rots() -> None:
        engine = device.store.path(list(device.world.bundles["2"].variants[0].descriptors())[1].digest)
        engine.write_bytes(b"rotten")
        device.frozen = False

    device.waiting = rots
    device.want("2", 2)
    assert device.run() is State.FAILED
    error = device.deployer.report().error
    assert error is not None
    assert "corrupt" in error.detail
    assert "activating" not in path(device, 2)
    device.waiting = None
    device.want("2", 3, attempt=2)
    assert device.run() is State.COMMITTED, "it is fetched again"


def test_clock_that_was_never_set_opens_no_window(device: Device) -> None:
    device.wall_s = 100.0
    device.want("2", 2, policy=WINDOW)
    assert device.run() is State.EXPIRED, "after the deadline of the state"
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"


def test_renewed_lease_keeps_updates_away_and_force_passes_it(device: Device) -> None:
    device.leases.take("car", 1e6, "it drives")
    device.want("2", 2)
    device.waiting = lambda: device.deployer.order("force") and None if len(device.waits) == 3 else None
    assert device.run() is State.COMMITTED
    assert device.waits[:3] == [(State.DEFERRED, "car says not now: it drives")] * 3
    assert device.leases.holder() is not None, "the lease itself stays"


def test_desired_state_that_is_too_old_expires_and_nothing_was_touched(device: Device) -> None:
    device.want("2", 2, policy=WINDOW, expires_s=device.wall_s + 60)
    assert device.run() is State.EXPIRED
    assert device.serving is not None
    assert device.serving.release == "gate-detector@1"
    device.want("2", 3, attempt=2)
    assert device.run() is State.COMMITTED, "another attempt is another wish"


@pytest.mark.parametrize("moment", ["fetch", "warm"])
def test_cancel_before_activation_drops_it(device: Device, moment: str) -> None:
    device.during[moment] = [lambda: device.deployer.order("cancel") and None]
    device.want("2", 2)
    assert device.run() is State.CANCELED
    assert "activating" not in path(device, 2)
    assert not device.deployer.order("cancel"), "there is nothing left to cancel"


def test_cancel_after_the_switch_takes_it_back(device: Device) -> None:
    device.during["swapped"] = [lambda: device.deployer.order("cancel") and None]
    device.want("2", 2)
    assert device.run() is State.ROLLED_BACK
    device.check_rest()


def test_engine_that_disagrees_on_live_frames_never_takes_over(device: Device) -> None:
    gated = POLICY.model_copy(update={"shadow": ShadowGate()})
    device.want("other", 2, policy=gated)
    assert device.run() is State.FAILED
    error = device.deployer.report().error
    assert error is not None
    assert "agree on 50.0%" in error.detail
    assert "activating" not in path(device, 2)
    device.want("2", 3, policy=gated)
    assert device.run() is State.COMMITTED
    assert path(device, 3)[4:6] == ["warming", "shadow"]


def test_without_an_old_engine_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    world = Catalogue(tmp_path)
    world.add("1", 3000)
    device = Device(tmp_path / "device", world).boot()
    device.want("1", 1, policy=POLICY.model_copy(update={"shadow": ShadowGate()}))
    assert device.run() is State.COMMITTED
    assert "shadow" not in path(device, 1)
    device.off()


@pytest.mark.parametrize(
    ("changes", "outcome", "words"),
    [
        ({}, "healthy", "agreement 90.0% over 100 frames"),
        ({"matched": 44}, "unhealthy", "agree on 88.0%"),
        ({"errors": 1}, "unhealthy", "1 of 100 inferences failed"),
        ({"new_ms": 8.0}, "unhealthy", "1.60 times"),
        ({"matched": 0, "found": 0}, "healthy", "agreement 100.0%"),
    ],
)
def test_shadow_gate(changes: dict[str, float], outcome: str, words: str) -> None:
    s = Shadowed(
        stream="yard",
        part="detector",
        manifest="m",
        frames=100,
        matched=45,
        found=100,
        errors=0,
        old_ms=5.0,
        new_ms=5.0,
    )
    verdict = judge_shadow(ShadowGate(), s.model_copy(update=changes))
    assert verdict.outcome == outcome
    assert words in verdict.reason


def test_factory_engine_serves_when_the_previous_one_does_not_open_either(device: Device) -> None:
    """Version 1 has a CPU variant beside its engine: stood in for by the engine of version 2."""
    slot = device.journal.slot(SLOT)
    device.want("2", 2)
    device.run()
    factory = device.world.installed("2")
    device.want("1", 3)
    device.run()
    device.journal.save_slot(
        SLOT, type(slot)(device.world.installed("1"), device.world.installed("2"), factory)
    )
    device.fail["ensure 1"] = EngineError("the GPU is gone")
    device.want("crash", 4)
    assert device.run() is State.DEGRADED
    assert device.serving is not None
    assert device.serving.release == "gate-detector@2"
    assert device.deployer.report().active_release == "gate-detector@2"


def test_engine_that_crashes_while_the_next_one_is_fetched_gives_way_at_once(device: Device) -> None:
    device.want("2", 2)
    device.run()
    device.want("1", 3)
    device.during["warm"] = [device.deployer.crash_loop]
    device.run(lambda: device.state is State.ACTIVATING)
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert active.release == "gate-detector@1", "the engine behind the one that crashed serves meanwhile"
    assert device.run() is State.COMMITTED


def test_commands_take_no_more_leases_than_the_disk_should_hold(device: Device) -> None:
    commands = Commands(device.folder, None, device.journal, device.leases, {}, [], lambda order: {})  # type: ignore[arg-type]

    def lock(owner: str) -> dict[str, object]:
        return commands.obey(Command(id="1", op="lock", deadline_s=0, owner=owner, ttl_s=60))

    for i in range(64):
        lock(f"a{i}")
    with pytest.raises(UsageError, match="others hold a lease"):
        lock("one-more")
    assert lock("a3"), "renewed"
    assert len(device.journal.leases()) == 64
