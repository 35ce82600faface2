"""What goes wrong on the way: killed processes, lying peers, old signatures, engines that do not work."""

from __future__ import annotations

import time
from pathlib import Path

from conftest import Broker, start_mosquitto
from support.bundle import make_bundle
from support.fleet import POLICY, Fleet, wait_until

from edgectl.core.bundle import LAYER_ENGINE, Bundle
from edgectl.core.files import hex_of
from edgectl.core.states import State
from edgectl.core.transfer import encode_frame
from edgectl.core.wire import Desired, DesiredSlot, Reported
from edgectl.fleet.config import TransferConfig

SLOT = "gate-detector"


def errors_of(fleet: Fleet, device: str) -> list[str]:
    return [
        f"{r.slots[SLOT].state.value} {e.code}: {e.detail}"
        for r in fleet.reported[device]
        if (e := r.slots[SLOT].error)
    ]


def last(fleet: Fleet, device: str = "gate-1") -> Reported:
    return fleet.reported[device][-1]


def wish(fleet: Fleet, device: str, release: str, digest: str) -> None:
    """Write ``desired`` past the controller, as somebody with the director's key and access to the broker
    could."""
    gen = last(fleet, device).gen + 100
    desired = Desired(gen=gen, slots={SLOT: DesiredSlot(release=release, digest=digest, policy=POLICY)})
    fleet.spy.publish(fleet.topics.desired(device), fleet.seal(device, desired), retain=True).wait(5)


def test_kill_in_the_middle_of_a_download_resumes_and_commits(gate: Fleet, tmp_path: Path) -> None:
    size = 40_000_000
    bundle = make_bundle(tmp_path / "v2", version="2.0.0", size=size)
    engine = hex_of(
        next(d for d in Bundle(bundle).variants[0].descriptors() if d.mediaType == LAYER_ENGINE).digest
    )
    part = tmp_path / "gate-1" / "state" / "store" / "parts" / engine
    before = gate.client.transfer()["bytes"]
    rollout = gate.rollout(gate.publish(bundle))

    wait_until(lambda: part.is_file() and part.stat().st_blocks * 512 > size // 5, "a fifth is on disk")
    gate.kill_agent("gate-1")
    assert part.is_file(), "killed while the download was running"
    kept = part.stat().st_blocks * 512
    gate.start_agent("gate-1")

    gate.wait_rollout(rollout, "done")
    assert last(gate).slots[SLOT].active == Bundle(bundle).digest
    sent = gate.client.transfer()["bytes"] - before
    print(f"killed with {kept} of {size} bytes on disk; sent {sent} in all ({sent / size:.2f}x)")
    assert sent < 2 * size


def test_kill_in_activation_and_in_probation_ends_committed(gate: Fleet, tmp_path: Path) -> None:
    for version, state in (("2.0.0", "activating"), ("3.0.0", "probation")):
        bundle = make_bundle(tmp_path / version, version=version, swap_s=1.5)
        rollout = gate.rollout(gate.publish(bundle), policy=POLICY.model_copy(update={"probation_s": 1.5}))
        wait_until(lambda s=state: gate.state_of("gate-1") == s, f"{state} has begun")  # type: ignore[misc]
        gate.kill_agent("gate-1")
        gate.start_agent("gate-1")
        gate.wait_rollout(rollout, "done")
        assert last(gate).slots[SLOT].state is State.COMMITTED
        assert last(gate).slots[SLOT].active == Bundle(bundle).digest


def test_a_device_of_the_site_serves_when_the_controller_is_gone(fleet: Fleet, tmp_path: Path) -> None:
    fleet.config = fleet.config.model_copy(update={"transfer": TransferConfig(peers=True)})
    fleet.start_controller()
    fleet.enroll("gate-1", site="yard", seed_peers=True)
    fleet.enroll("gate-2", site="yard")
    fleet.start_agent("gate-1")
    bundle = Bundle(make_bundle(tmp_path / "v1", size=1_000_000))
    release = fleet.publish(bundle.root)
    fleet.wait_rollout(fleet.rollout(release), "done")
    fleet.end_controller()

    peers: list[str] = []
    fleet.spy.subscribe(
        f"{fleet.topics.root}/a/+/p/+", lambda topic, _: peers.append(topic.rsplit("/", 1)[1])
    )
    fleet.start_agent("gate-2")
    wait_until(lambda: fleet.reported.get("gate-2"), "gate-2 is there")
    wish(fleet, "gate-2", release, bundle.digest)
    wait_until(lambda: fleet.state_of("gate-2") == "committed", "gate-2 has it from gate-1")
    assert set(peers) == {"gate-1"}
    assert len(peers) < 2 * (1_000_000 // 65536 + 1)


def test_corrupted_chunk_is_refused_with_a_reason_and_the_right_one_is_used(
    gate: Fleet, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "v2", version="2.0.0", size=50_000)
    engine = next(d for d in Bundle(bundle).variants[0].descriptors() if d.mediaType == LAYER_ENGINE)
    rubbish = encode_frame(engine.digest, 0, b"\0" * engine.size)
    gate.spy.publish(gate.topics.broadcast(engine.digest), rubbish, retain=True).wait(5)
    gate.wait_rollout(gate.rollout(gate.publish(bundle)), "done")
    assert any("fetching integrity: 1 chunks" in e for e in errors_of(gate, "gate-1"))
    assert last(gate).slots[SLOT].active == Bundle(bundle).digest


def test_unsigned_digest_is_rejected_and_the_old_engine_serves_on(gate: Fleet, tmp_path: Path) -> None:
    serving = last(gate).slots[SLOT].active
    rogue = Bundle(make_bundle(tmp_path / "rogue", version="6.6.6"))
    wish(gate, "gate-1", "gate-detector@6.6.6", rogue.digest)
    wait_until(lambda: gate.state_of("gate-1") == "rejected", "the unsigned release is rejected")
    assert any("does not name release gate-detector@6.6.6" in e for e in errors_of(gate, "gate-1"))
    assert last(gate).slots[SLOT].active == serving


def test_expired_metadata_blocks_installs_but_not_inference_until_it_is_renewed(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.config = fleet.config.model_copy(update={"metadata_days": 4 / 86400})
    fleet.start_controller()
    fleet.enroll("gate-1")
    fleet.start_agent("gate-1")
    v1, v2 = make_bundle(tmp_path / "v1", version="1.0.0"), make_bundle(tmp_path / "v2", version="2.0.0")
    fleet.wait_rollout(fleet.rollout(fleet.publish(v1)), "done")
    fleet.publish(v2)
    fleet.end_controller()

    def expired() -> bool:
        wish(fleet, "gate-1", "gate-detector@2.0.0", Bundle(v2).digest)
        return fleet.state_of("gate-1") == "deferred"

    # the metadata has to expire: four seconds of wall time, there is no event for it
    time.sleep(5)
    wait_until(expired, "the install waits")
    wait_until(
        lambda: any("deferred" in e and "expired" in e for e in errors_of(fleet, "gate-1")), "it says why"
    )
    seen = len(fleet.telemetry["gate-1"])
    wait_until(lambda: len(fleet.telemetry["gate-1"]) > seen + 1, "telemetry goes on")
    assert (
        fleet.telemetry["gate-1"][-1].streams["yard"].frames.processed
        > fleet.telemetry["gate-1"][0].streams["yard"].frames.processed
    )

    fleet.start_controller()
    wait_until(
        lambda: (
            last(fleet).slots[SLOT].active == Bundle(v2).digest and fleet.state_of("gate-1") == "committed"
        ),
        "v2 after renewal",
    )


def test_engine_that_fails_its_warm_up_or_fits_another_machine_never_reaches_the_worker(
    gate: Fleet, tmp_path: Path
) -> None:
    wrong = make_bundle(tmp_path / "v2", version="2.0.0", warm=False)
    stopped = gate.wait_rollout(gate.rollout(gate.publish(wrong)), "stopped")
    assert "differs from golden" in stopped["reason"]
    foreign = make_bundle(tmp_path / "v3", version="3.0.0", requires=("sm:8.7",))
    stopped = gate.wait_rollout(gate.rollout(gate.publish(foreign)), "stopped")
    assert "needs sm:8.7" in stopped["reason"]
    history = gate.history("gate-1")
    assert {"failed", "rejected"} <= set(history)
    assert history.count("activating") <= 1, "only v1 was ever activated"


def test_engine_that_kills_the_worker_is_rolled_back_and_stays_blocked(gate: Fleet, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "v2", version="2.0.0", crash=True)
    serving = last(gate).slots[SLOT].active
    release = gate.publish(bundle)
    stopped = gate.wait_rollout(gate.rollout(release), "stopped")
    assert "rolled_back" in stopped["reason"]
    wait_until(lambda: gate.state_of("gate-1") == "committed", "v1 is wanted again and serves")
    assert last(gate).slots[SLOT].active == serving
    processed = gate.telemetry["gate-1"][-1].streams["yard"].frames.processed
    wait_until(
        lambda: gate.telemetry["gate-1"][-1].streams["yard"].frames.processed not in (0, processed),
        "frames flow again",
    )
    wish(gate, "gate-1", release, Bundle(bundle).digest)  # attempt 1 again
    wait_until(lambda: gate.state_of("gate-1") == "rejected", "the same attempt is blocked")


def test_first_release_that_does_not_work_leaves_an_empty_slot(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start_controller()
    fleet.enroll("gate-1")
    fleet.start_agent("gate-1")
    stopped = fleet.wait_rollout(
        fleet.rollout(fleet.publish(make_bundle(tmp_path / "v1", crash=True))), "stopped"
    )
    assert "rolled_back" in stopped["reason"]
    assert last(fleet).slots[SLOT].active is None


def test_freeze_a_restart_and_a_lost_database_of_the_controller(gate: Fleet, tmp_path: Path) -> None:
    gate.client.freeze(True)
    rollout = gate.rollout(gate.publish(make_bundle(tmp_path / "v2", version="2.0.0")))
    wait_until(lambda: last(gate).slots[SLOT].stage == "frozen", "it waits before activation")
    assert gate.state_of("gate-1") == "staged"
    gate.end_controller()
    gate.kill_agent("gate-1")
    reports = len(gate.reported["gate-1"])
    gate.start_agent("gate-1")
    wait_until(
        lambda: any(r.slots[SLOT].stage == "frozen" for r in gate.reported["gate-1"][reports:]),
        "a device that starts while the controller is dead honours the freeze",
    )
    gate.start_controller()
    seen = len(gate.telemetry["gate-1"])
    wait_until(lambda: len(gate.telemetry["gate-1"]) > seen + 1, "the device goes on for two windows")
    assert last(gate).slots[SLOT].stage == "frozen", "the kill switch outlives its controller"
    gate.client.freeze(False)
    gate.wait_rollout(rollout, "done")

    gate.end_controller()
    (tmp_path / "controller" / "fleet.db").unlink()
    client = gate.start_controller()
    (device,) = wait_until(
        lambda: [d for d in client.devices() if d["online"] and d["reported"] and d["desired"]["slots"]],
        "rebuilt",
    )
    assert device["desired"]["gen"] == last(gate).gen, "the generation goes on where it was"
    assert device["reported"]["slots"][SLOT]["state"] == "committed"


def test_broker_that_forgets_everything_and_a_replayed_desired_state_change_nothing(
    gate: Fleet, mosquitto: Broker, tmp_path: Path
) -> None:
    before = last(gate)
    epoch = gate.conns["gate-1"][-1].epoch
    mosquitto.process.kill()
    mosquitto.process.wait(10)
    seen, reports = len(gate.conns["gate-1"]), len(gate.reported["gate-1"])
    again = start_mosquitto(mosquitto.folder, mosquitto.port)
    try:
        wait_until(
            lambda: gate.conns["gate-1"][seen:] and gate.reported["gate-1"][reports:],
            "the device tells everything again",
        )
        assert gate.conns["gate-1"][-1].epoch == epoch, "the same start"
        assert last(gate).slots[SLOT] == before.slots[SLOT]
        late = gate.conns["gate-1"][-1].model_copy(update={"online": False, "epoch": epoch - 1})
        gate.spy.publish(gate.topics.conn("gate-1"), late.encode(), retain=True).wait(5)
        desired = Desired(
            gen=before.gen,
            slots={SLOT: DesiredSlot(release="gate-detector@1.0.0", digest=before.slots[SLOT].active or "")},
        )
        gate.spy.publish(gate.topics.desired("gate-1"), gate.seal("gate-1", desired), retain=True).wait(5)
        bundle = make_bundle(tmp_path / "v2", version="2.0.0")
        gate.wait_rollout(gate.rollout(gate.publish(bundle)), "done")
        assert gate.history("gate-1").count("activating") == 2, "each release once"
        (device,) = gate.client.devices()
        assert device["online"], "a late will of an earlier start is no death"
    finally:
        again.process.terminate()
        again.process.wait(10)


def test_damaged_journal_and_engine_heal_without_anybody(gate: Fleet, tmp_path: Path) -> None:
    state = tmp_path / "gate-1" / "state"
    gate.stop_agent("gate-1")
    (state / "journal.db").write_bytes(b"rubbish" * 1000)
    engine = max((state / "store" / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(engine.read_bytes())
    data[len(data) // 2] ^= 1
    engine.write_bytes(data)
    reports = len(gate.reported["gate-1"])
    gate.start_agent("gate-1")
    wait_until(
        lambda: any(
            r.error is not None and r.error.code == "journal" for r in gate.reported["gate-1"][reports:]
        ),
        "it says so",
    )
    wait_until(
        lambda: gate.state_of("gate-1") == "committed" and last(gate).slots[SLOT].active,
        "fetched again and committed",
    )
    assert engine.read_bytes() != bytes(data)
