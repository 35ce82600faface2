"""The deployer executes the table: what each state does, against errors and trouble from outside, with
doubles for what it calls."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from support.deployer import POLICY, Warm, World
from support.fleet import wait_until

from edgectl.agent.state.records import Deployment, Slot
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.trust.store import StaleTrust
from edgectl.core.bundle import LAYER_ENGINE
from edgectl.core.errors import (
    BundleError,
    EdgectlError,
    EngineError,
    IntegrityError,
    StorageError,
    TrustError,
)
from edgectl.core.files import hex_of
from edgectl.core.states import State
from edgectl.core.wire import DesiredSlot, EngineProof, Failure, ShadowBlock, ShadowGate
from edgectl.pipelines.host.protocol import Shadowed


def test_straight_line_to_committed_and_an_update_after_it(world: World) -> None:
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.COMMITTED
    states = [
        "notified",
        "fetching",
        "verifying",
        "staged",
        "warming",
        "activating",
        "probation",
        "committed",
    ]
    assert [s.value for s in world.seen] == states
    world.want("2", 2)
    assert world.ends(2) is State.COMMITTED
    assert world.journal.slot("gate") == Slot(
        world.installed("2"), world.installed("1"), world.installed("2")
    )
    world.want("1", 3)
    assert world.ends(3) is State.COMMITTED
    assert world.active == "gate-detector@1"


def test_what_is_here_only_while_nothing_is_deployed_makes_way_before_anything_is_fetched(
    world: World,
) -> None:
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.COMMITTED
    assert world.made_way
    assert "fetch" not in world.made_way[0]


def test_finalised_engines_go_with_the_last_release_that_needs_them(world: World) -> None:
    cache = world.folder / "engines"
    cache.mkdir()
    engine = next(d for d in world.bundles["1"].variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
    mine, old = cache / f"{hex_of(engine.digest)[:16]}-00.plan", cache / "0123456789abcdef-00.plan"
    for plan in (mine, old):
        plan.write_bytes(b"plan")
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.COMMITTED
    wait_until(lambda: not old.exists(), "the plan of a model that is gone is removed", 20)
    assert mine.exists()


@pytest.mark.parametrize("switch", [False, True])
def test_a_shared_plan_is_asked_for_where_the_policy_says_so_and_its_refusal_fails_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, switch: bool
) -> None:
    refusal = Failure(code="engine", detail="the shared plan does not open", retryable=True)
    seen = []

    def take(*_: object) -> Failure:
        world.calls.append("take")
        return refusal

    def changed() -> None:
        seen.append(world.deployer.report().error)

    monkeypatch.setattr("edgectl.agent.deploy.deployer.take_shared_plan", take)
    monkeypatch.setattr(world, "changed", lambda real=world.changed: (changed(), real()))
    world.boot()
    world.start()
    policy = POLICY.model_copy(update={"shared_plans": switch})
    wish = DesiredSlot(release="gate-detector@1", digest=world.bundles["1"].digest, policy=policy)
    world.deployer.want(1, wish, False)
    assert world.ends(1) is State.COMMITTED
    assert [c for c in world.calls if c in ("take", "warm")] == (["take", "warm"] if switch else ["warm"])
    assert (refusal in seen) == switch


def test_another_preference_in_the_configuration_deploys_the_release_again(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.stop()
    world.prefer["gate"] = "low-power"
    world.seen.clear()
    world.calls.clear()
    world.boot()
    world.start()
    world.want("1", 1)  # the retained document, as it was
    wait_until(
        lambda: State.COMMITTED in world.seen and "fetch" in world.calls,
        "the low-power variant is committed",
        20,
    )
    assert world.journal.slot("gate").active == world.installed("1").model_copy(
        update={"preference": "low-power"}
    )
    fetched = world.calls.count("fetch")
    world.want("1", 2)
    wait_until(
        lambda: world.told is not None and world.told.gen == 2, "the newer document is taken note of", 20
    )
    assert world.calls.count("fetch") == fetched == 1


@pytest.mark.parametrize(
    ("where", "error", "end"),
    [
        ("fetch", IntegrityError("corrupt"), State.FAILED),
        ("fetch", StorageError("disk full"), State.FAILED),
        ("fetch", BundleError("no variant"), State.REJECTED),
        ("warm", EngineError("golden"), State.FAILED),
        ("warm", BundleError("needs tensorrt"), State.REJECTED),
        ("ensure gate-detector@2", EngineError("swap"), State.ROLLED_BACK),
    ],
)
def test_error_in_a_state_ends_where_the_table_says_and_the_old_engine_stays(
    world: World, where: str, error: EdgectlError, end: State
) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail[where] = error
    world.want("2", 2)
    assert world.ends(2) is end
    assert world.active == "gate-detector@1"
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.detail == error.message
    assert report.error.retryable is isinstance(error, IntegrityError | StorageError), (
        "bytes and disks are not the release's fault"
    )
    del world.fail[where]
    world.want("3", 3)
    assert world.ends(3) is State.COMMITTED, "an update after a failure works"


@pytest.mark.parametrize(
    ("where", "end"),
    [
        ("check", "rejected"),
        ("fetch", "rejected"),
        ("warm", "failed"),
        ("shadow", "failed"),
        ("ensure gate-detector@2", "rolled_back"),
    ],
)
def test_defect_of_the_agent_costs_a_release_and_not_the_device(world: World, where: str, end: str) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail[where] = KeyError("nobody thought of it")  # type: ignore[assignment]
    world.healthy = where != "shadow"  # there is a stream to compare on
    policy = POLICY.model_copy(update={"shadow": ShadowGate()}) if where == "shadow" else POLICY
    world.deployer.want(
        2, DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy), False
    )
    assert world.ends(2).value == end
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.code == "defect"
    assert "KeyError: 'nobody thought of it'" in report.error.detail
    assert world.active == "gate-detector@1"
    del world.fail[where]
    world.healthy = True
    world.want("3", 3)
    assert world.ends(3) is State.COMMITTED


def test_lost_way_back_is_degraded(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["ensure gate-detector@2"] = EngineError("swap")
    world.fail["ensure gate-detector@1"] = EngineError("the camera exploded")
    world.want("2", 2)
    assert world.ends(2) is State.DEGRADED


def test_unsigned_is_rejected_after_a_moment_of_grace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl.agent.deploy.deployer._TRUST_GRACE_S", 0.1)
    world.fail["check"] = TrustError("not named")
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.REJECTED
    assert "fetch" not in world.calls


@pytest.mark.parametrize(
    "error", [StaleTrust("expired"), StorageError("signed metadata cannot be verified: no space left")]
)
def test_stale_metadata_defers_until_it_is_fresh(world: World, error: EdgectlError) -> None:
    world.fail["check"] = error
    world.start()
    world.want("1", 1)
    wait_until(lambda: State.DEFERRED in world.seen, "deferred")
    assert world.active is None
    del world.fail["check"]
    world.deployer.nudge()
    assert world.ends(1) is State.COMMITTED


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (StaleTrust("expired"), State.DEFERRED),
        (StorageError("no space left for a moment"), State.DEFERRED),
        (TrustError("withdrawn"), State.REJECTED),
    ],
)
def test_device_that_comes_back_in_the_middle_of_a_download_asks_the_metadata_first(
    world: World, error: EdgectlError, end: State
) -> None:
    wish = DesiredSlot(release="gate-detector@1", digest=world.bundles["1"].digest, policy=POLICY)
    world.journal.save(Deployment("gate", 1, State.FETCHING, wish))
    world.fail["check"] = error
    world.boot()
    world.start()
    wait_until(lambda: end in world.seen, end.value, 20)
    assert "fetch" not in world.calls
    if end is State.DEFERRED:  # and goes on by itself once there are newer ones
        del world.fail["check"]
        world.deployer.nudge()
        assert world.ends(1) is State.COMMITTED


@pytest.mark.parametrize("where", ["shadow", "ensure gate-detector@2"])
@pytest.mark.parametrize("ended_by", ["newer wish", "operator"])
def test_release_is_not_blamed_for_what_ended_its_trial_from_outside(
    world: World, where: str, ended_by: str
) -> None:
    """The pipelines give up as they were told to, and say so with an error of theirs."""
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.hold[where], world.fail[where] = (
        threading.Event(),
        EngineError("yard has not seen 100 frames with both engines"),
    )
    policy = POLICY.model_copy(update={"shadow": ShadowGate()}) if where == "shadow" else POLICY
    world.healthy = where != "shadow"
    wish = DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy)
    world.deployer.want(2, wish, False)
    wait_until(lambda: where in world.calls, "the trial", 20)
    if ended_by == "operator":
        assert world.deployer.order("cancel")
    world.healthy = True
    world.want("3", 3) if ended_by == "newer wish" else None
    world.hold.pop(where).set()
    end = State.CANCELED if where == "shadow" else State.ROLLED_BACK
    wait_until(lambda: end in world.seen, end.value, 20)
    assert world.ends(2 if ended_by == "operator" else 3) is (
        end if ended_by == "operator" else State.COMMITTED
    )
    if where == "shadow" or ended_by == "newer wish":
        assert world.journal.bad(wish.digest, 1) is None


def test_camera_that_goes_away_while_engines_are_compared_speaks_against_neither(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.fail["shadow"] = Interrupted("yard ended while it ran the new engine beside the old one")
    world.healthy = False  # there is a stream to compare on
    policy = POLICY.model_copy(update={"shadow": ShadowGate()})
    world.deployer.want(
        2, DesiredSlot(release="gate-detector@2", digest=world.bundles["2"].digest, policy=policy), False
    )
    wait_until(lambda: world.calls.count("shadow") >= 2, "it is compared again", 20)
    assert State.DEFERRED in world.seen
    del world.fail["shadow"]
    world.healthy = True
    assert world.ends(2) is State.COMMITTED


def test_warm_up_without_room_is_no_fault_of_the_engine(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    world.warm = Warm(ok=False, code="storage", error="the disk is full while writing the plan")
    world.want("2", 2)
    assert world.ends(2) is State.FAILED
    report = world.deployer.report()
    assert report.error is not None
    assert report.error.retryable
    world.warm = Warm()
    world.want("2", 3, attempt=2)
    assert world.ends(3) is State.COMMITTED


def test_what_came_of_a_release_that_took_too_long_is_kept_for_the_next_try(world: World) -> None:
    world.start()
    world.want("1", 1)
    world.ends(1)
    part = world.store.blobs / ("0" * 64)
    for gen, error, left in ((2, TimeoutError(), True), (3, StorageError("disk full"), False)):
        part.write_bytes(b"half of it")
        world.fail["fetch"] = error  # type: ignore[assignment]
        world.want("2", gen, attempt=gen)
        assert world.ends(gen) is State.FAILED
        wait_until(lambda left=left: part.exists() is left, "room is made where it is needed", 20)


def test_what_was_found_of_an_engine_before_it_served_is_told_and_survives_a_restart(world: World) -> None:
    world.start()
    world.warm = Warm(golden=0.99, golden_least=0.98)
    world.want("1", 1)
    world.ends(1)
    blocks = (ShadowBlock(frames=8, both=40, missed=1, extra=2),)
    world.shadowed = [
        Shadowed(
            stream=stream,
            part="detector",
            manifest="m",
            frames=8,
            matched=40,
            found=83,
            errors=0,
            old_ms=1.0,
            new_ms=1.0,
            blocks=blocks,
        )
        for stream in ("north", "south")
    ]
    world.warm = Warm(golden=0.97, golden_least=0.95)
    world.healthy = False  # there is a stream to compare on
    world.want("2", 2, policy=POLICY.model_copy(update={"shadow": ShadowGate(frames=8)}))
    before = EngineProof(golden=0.99, golden_least=0.98)
    now = EngineProof(golden=0.97, golden_least=0.95, shadow=blocks * 2)
    wait_until(lambda: world.deployer.report().state is State.PROBATION, "it is on trial", 20)
    for _ in range(2):
        report = world.deployer.report()
        assert (report.proof, report.previous_proof) == (now, before)
        world.stop()
        world.boot()


def test_release_for_a_slot_of_a_set_is_refused_with_the_way_out_and_blocks_nothing(world: World) -> None:
    mine = world.deployer._c
    world.deployer._c = replace(mine, set_of=lambda slot: "rules@3 in slot rules")
    world.start()
    world.want("1", 1)
    assert world.ends(1) is State.REJECTED
    error = world.deployer.report().error
    assert error is not None
    assert error.detail == (
        "slot gate belongs to the set rules@3 in slot rules: bring this engine with a newer set, or clear the set's slot"
    )
    assert world.deployer.report().set == "rules@3 in slot rules"
    world.deployer._c = mine
    world.want("1", 2, attempt=2)
    assert world.ends(2) is State.COMMITTED
