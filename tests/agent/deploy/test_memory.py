"""A release that does not fit beside what runs is refused with the numbers, and the slot goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.bundle import join_bundles, make_bundle
from support.device import POLICY, SLOT, Catalogue, Device

from edgectl.agent.deploy.memory_gate import MemoryGate
from edgectl.core.bundle import Bundle, Variant
from edgectl.core.files import hex_of
from edgectl.core.memory import MIB, EngineMemory
from edgectl.core.states import State
from edgectl.core.wire import ShadowGate
from edgectl.device_profiles.admission import Demand, MemoryBound, MemoryRoom


def taking(peak: int, *, process: int = 0) -> EngineMemory:
    """In MiB; all of it stays."""
    return EngineMemory(
        source="measured",
        resident_bytes=peak * MIB,
        peak_bytes=peak * MIB,
        process_bytes=process * MIB,
    )


def room(free: int) -> MemoryRoom:
    return MemoryRoom((MemoryBound(free * MIB, 2048 * MIB, "the cgroup /agent"),))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Version 1 serves; 300 MiB are free."""
    world = Catalogue(tmp_path)
    world.add("1", 3000, memory=taking(50))
    world.add("large", 3000, memory=taking(412))
    world.add("unknown", 3000)
    world.add("light", 3000, memory=taking(200), low_power={"memory": taking(150)})
    device = Device(tmp_path / "device", world, room=room(300)).boot()
    device.want("1", 1)
    assert device.run() is State.COMMITTED
    yield device
    device.off()


def done(device: Device) -> list[str]:
    """What is done to the world outside, from here on."""
    seen: list[str] = []
    device.effect = seen.append
    return seen


def test_it_is_refused_before_anything_is_fetched_and_what_serves_goes_on(device: Device) -> None:
    served, seen = device.serving, done(device)
    device.want("large", 2)
    assert device.run() is State.FAILED
    report = device.deployer.report()
    assert report.error is not None
    assert (report.error.code, report.error.retryable) == ("memory", True)
    assert (
        "needs 412 MiB beside what runs; 300 MiB of 2048 are free (the cgroup /agent)" in report.error.detail
    )
    assert report.error.detail.endswith("raise the limit")
    assert {"fetched", "warm", "ensure large"}.isdisjoint(seen)
    assert device.serving == served
    assert device.journal.bad(device.world.bundles["large"].digest, 1) is None, "the release is not to blame"
    device.check_rest()


def test_a_raised_attempt_tries_again_and_a_restart_does_not(device: Device) -> None:
    device.want("large", 2)
    device.run()
    device.room = room(1000)
    device.off()
    device.boot()
    device.want("large", 2)
    assert device.resting, "no loop of refusals: whoever wants it asks again"
    device.want("large", 3, attempt=2)
    assert device.run() is State.COMMITTED


def test_the_bundle_may_have_another_variant_that_fits(device: Device, tmp_path: Path) -> None:
    small = {"version": "two", "memory": taking(100), "variant": "small", "size": 2000}
    large = {"version": "two", "memory": taking(412), "variant": "large", "size": 3000}
    parts = [make_bundle(tmp_path / str(p["variant"]), **p) for p in (large, small)]  # type: ignore[arg-type]
    device.world.bundles["two"] = Bundle(join_bundles(tmp_path / "two", *parts))
    device.world.signed.add("two")
    device.want("two", 2)
    assert device.run() is State.COMMITTED
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert active.manifest == device.world.bundles["two"].variants[1].digest
    assert list(device.deployer.report().passed_over) == ["cpu/large"]
    assert "needs 412 MiB" in device.deployer.report().passed_over["cpu/large"]


def test_what_was_taken_meanwhile_counts_before_the_warm_up(device: Device) -> None:
    device.during["fetched"] = [lambda: setattr(device, "room", room(10))]
    seen = done(device)
    device.want("light", 2)
    assert device.run() is State.FAILED
    assert "fetched" in seen
    assert "warm" not in seen, "the warm-up itself would take it"


def test_the_warm_up_is_a_process_with_an_engine_of_its_own(device: Device) -> None:
    device.world.add("process", 3000, memory=taking(250, process=60))
    device.want("process", 2)
    assert device.run() is State.FAILED
    assert "needs 310 MiB" in (device.deployer.report().error or "").detail  # type: ignore[union-attr]


@pytest.mark.parametrize("version", ["unknown", "light"])
def test_what_the_warm_up_finds_counts_more_than_what_the_bundle_says(device: Device, version: str) -> None:
    device.took = taking(301)
    seen = done(device)
    device.want(version, 2)
    assert device.run() is State.FAILED
    assert "warm" in seen
    assert f"ensure {version}" not in seen
    assert "needs 301 MiB" in device.deployer.report().error.detail  # type: ignore[union-attr]


def test_one_that_nobody_knows_is_not_refused(device: Device) -> None:
    device.want("unknown", 2)
    assert device.run() is State.COMMITTED


def test_each_worker_of_the_slot_opens_it(device: Device) -> None:
    device.places = (2, 0)
    device.world.add("twice", 3000, memory=taking(200))
    device.want("twice", 2)
    assert device.run() is State.FAILED
    assert "needs 400 MiB" in device.deployer.report().error.detail  # type: ignore[union-attr]


def test_a_lighter_variant_that_does_not_fit_beside_it_is_left_out(device: Device) -> None:
    device.off()
    device.lighter = ("low-power",)
    device.boot()
    device.want("light", 2)
    assert device.run() is State.COMMITTED
    assert device.serving is not None
    assert device.serving.lighter == {}
    assert "needs 350 MiB" in device.deployer.report().lighter["low-power"]


def test_after_it_was_compared_it_must_fit_still(device: Device) -> None:
    policy = POLICY.model_copy(update={"shadow": ShadowGate(percent=10, frames=10)})
    device.during["shadow"] = [lambda: setattr(device, "room", room(100))]
    device.want("light", 2, policy=policy)
    assert device.run() is State.FAILED
    assert [state for _, _, state in device.seen][-2:] == [State.SHADOW, State.FAILED]
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert active.release == "gate-detector@1"
    device.check_rest()


def test_two_slots_do_not_count_on_the_same_bytes(device: Device) -> None:
    assert device.gate.claim("other", Demand(250 * MIB)).fits
    device.waiting = lambda: device.gate.drop("other")
    device.want("light", 2)
    assert device.run() is State.COMMITTED
    waits = [stage for state, stage in device.waits if state is State.WARMING]
    assert waits == ["waiting for the memory that another slot is about to take"]
    assert device.gate.claim("other", Demand(300 * MIB)).fits, "nothing stays promised behind the switch"


def test_before_the_switch_nothing_is_waited_for(device: Device) -> None:
    device.want("light", 2)
    assert device.run(lambda: device.state is State.ACTIVATING) is State.ACTIVATING
    device.deployer._memory.drop()  # as a restart of the agent does
    assert device.gate.claim("other", Demand(250 * MIB)).fits
    assert device.run() is State.FAILED
    error = device.deployer.report().error
    assert error is not None
    assert (error.code, error.retryable) == ("memory", True)
    assert not [stage for state, stage in device.waits if state is State.ACTIVATING]
    device.check_rest()


def pass_time(device: Device) -> None:
    device.now_s += 100


def test_a_wait_that_takes_too_long_ends_for_want_of_memory(device: Device) -> None:
    assert device.gate.claim("other", Demand(250 * MIB)).fits
    device.waiting = lambda: pass_time(device)
    device.want("light", 2)
    assert device.run() is State.FAILED
    error = device.deployer.report().error
    assert error is not None
    assert (error.code, error.retryable) == ("memory", True)
    assert "250 MiB promised to others" in error.detail


def test_a_wait_takes_nothing_of_the_time_to_warm_up(device: Device) -> None:
    assert device.gate.claim("other", Demand(250 * MIB)).fits
    until_s = device.now_s + 1700

    def taken() -> None:
        pass_time(device)
        if device.now_s > until_s:
            device.gate.drop("other")

    def compiles() -> None:
        device.now_s += 1000

    device.waiting, device.during["warm"] = taken, [compiles]
    device.want("light", 2)
    assert device.run() is State.COMMITTED


def test_an_engine_that_is_being_compared_is_counted_once(device: Device) -> None:
    """200 of 300 MiB are taken by it as soon as it runs: the other slot may have the rest."""
    device.world.add("slow", 3000, memory=taking(200), shadow_hangs=True)
    found: list[bool | None] = []

    def opened() -> None:
        device.room = room(100)

    device.during["shadow"] = [opened]
    cancelled = device.deployer._cancelled

    def asked(state: State) -> Callable[[], bool]:
        inner = cancelled(state)

        def ask() -> bool:
            if state is State.SHADOW:
                found.append(device.gate.look("other", Demand(90 * MIB)).fits)
            return inner()

        return ask

    device.deployer._cancelled = asked  # type: ignore[method-assign]
    policy = POLICY.model_copy(update={"shadow": ShadowGate(percent=10, frames=10)})
    device.want("slow", 2, policy=policy)
    assert device.run() is State.FAILED
    assert found[0] is False, "it has not been opened yet, for all that anybody knows"
    assert found[-1] is True


def test_a_lighter_variant_is_not_left_out_for_a_promise_that_passes(device: Device) -> None:
    device.off()
    device.lighter, device.room = ("low-power",), room(420)
    device.boot()
    assert device.gate.claim("other", Demand(200 * MIB)).fits
    device.waiting = lambda: device.gate.drop("other")
    device.want("light", 2)
    assert device.run() is State.COMMITTED
    assert device.deployer.report().lighter == {"low-power": "ready"}


def test_a_slot_that_is_refused_is_promised_nothing() -> None:
    gate = MemoryGate(lambda gpu: room(100), reserve_mb=10)
    assert gate.claim("a", Demand(50 * MIB)).fits
    assert gate.claim("a", Demand(95 * MIB)).fits is False, "the reserve is kept"
    assert gate.claim("b", Demand(90 * MIB)).fits
    assert gate.look("a", Demand(1 * MIB)).waits


def test_the_gpu_is_asked_only_for_what_needs_one() -> None:
    asked: list[bool] = []

    def read(gpu: bool) -> MemoryRoom:
        asked.append(gpu)
        return room(100)

    gate = MemoryGate(read)
    gate.look("a", Demand(1))
    gate.look("a", Demand(1, 1))
    assert asked == [False, True]


def test_a_committed_engine_that_has_rotted_comes_back_whatever_is_free(device: Device) -> None:
    active = device.journal.slot(SLOT).active
    assert active is not None
    blobs = Variant.open(device.store.blobs, active.manifest).descriptors()
    engine = device.store.blobs / hex_of(max(blobs, key=lambda blob: blob.size).digest)
    engine.chmod(0o644)
    engine.write_bytes(bytes(engine.stat().st_size))
    device.room, device.repaired = room(10), True
    device.off()
    device.boot()
    assert device.journal.slot(SLOT).active is None
    device.want("1", 1)
    assert device.run(lambda: device.state is State.STAGED) is State.STAGED
    device.off()
    device.boot()  # the mark is on disk
    device.want("1", 1)
    assert device.run() is State.COMMITTED
    assert device.serving is not None
    device.check_rest()
    device.want("light", 2)
    assert device.run() is State.FAILED, "another release is asked"


@pytest.mark.parametrize("before", ["after the warm-up", "shadow"])
def test_a_lighter_variant_that_is_left_out_late_is_no_part_of_what_serves(
    device: Device, before: str
) -> None:
    """There is room for it when it is warmed up, and none when the engine is compared or switched to."""
    device.off()
    device.lighter, device.room = ("low-power",), room(400)
    device.boot()
    policy = POLICY.model_copy(update={"shadow": ShadowGate(percent=10, frames=10)})
    shrinks = [lambda: setattr(device, "room", room(300))]
    if before == "shadow":
        device.during["shadow"] = shrinks
    else:
        # signatures are asked: notified, fetching, staged, and before the comparison
        asked: list[str] = []

        def effect(what: str) -> None:
            asked.append(what)
            if what == "check" and "warm" in asked:
                device.room = room(300)

        device.effect = effect
    device.want("light", 2, policy=policy)
    assert device.run() is State.COMMITTED
    assert device.serving is not None
    active = device.journal.slot(SLOT).active
    assert active is not None
    assert device.serving.lighter == {}
    assert "needs 350 MiB" in (active.lighter[0].why or "")


def test_no_other_slot_waits_while_a_slow_driver_is_asked() -> None:
    gate: MemoryGate
    done: list[bool] = []

    def read(gpu: bool) -> MemoryRoom:
        other = threading.Thread(target=gate.drop, args=("other",), daemon=True)
        other.start()
        other.join(10)
        done.append(not other.is_alive())
        return room(100)

    gate = MemoryGate(read)
    gate.claim("a", Demand(1, 1))
    gate.look("a", Demand(1, 1))
    assert done == [True, True]


def test_what_another_slot_took_while_it_was_read_what_is_free_counts() -> None:
    gate: MemoryGate
    free = [100]

    def read(gpu: bool) -> MemoryRoom:
        was = room(free[0])
        if free[0] == 100 and gpu:
            free[0] = 20
            gate.drop("other")
        return was

    gate = MemoryGate(read, reserve_mb=0)
    assert gate.claim("other", Demand(80 * MIB)).fits
    assert gate.claim("a", Demand(50 * MIB, 1)).fits is False


def test_an_engine_that_serves_already_is_not_counted_again(device: Device) -> None:
    """Only its lighter variant comes: 150 MiB, of 300."""
    device.room = room(1000)
    device.want("light", 2)
    assert device.run() is State.COMMITTED
    device.off()
    device.lighter, device.room, device.repaired = ("low-power",), room(300), True
    device.boot()
    device.want("light", 2)
    assert device.run() is State.COMMITTED
    assert device.deployer.report().lighter == {"low-power": "ready"}


def test_an_engine_that_waits_for_this_one_is_opened_with_it(device: Device) -> None:
    """The other slot's is on record and nothing runs it: 50 and 200 MiB, and the worker."""
    active = device.journal.slot(SLOT).active
    assert active is not None
    device.places, device.beside = (0, 1), [active.manifest]
    device.world.add("single", 3000, memory=taking(200))
    device.room = room(377)
    device.want("single", 2)
    assert device.run() is State.FAILED
    assert "needs 378 MiB" in device.deployer.report().error.detail  # type: ignore[union-attr]
    device.room = room(378)
    device.want("single", 3, attempt=2)
    assert device.run() is State.COMMITTED
