"""A release that this machine has no memory for, with real processes and what /proc says: refused with the numbers, asked
for again by the controller, and what serves goes on."""

from __future__ import annotations

from pathlib import Path

from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

from edgectl.core.bundle import Bundle
from edgectl.core.memory import EngineMemory
from edgectl.core.wire import ReportedSlot

HUGE = 1 << 43  # bytes


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_slot_goes_on(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.start_controller()
    fleet.enroll("gate-1")
    fleet.start_agent("gate-1")
    v1 = make_bundle(
        tmp_path / "v1",
        version="1.0.0",
        memory=EngineMemory(source="measured", resident_bytes=1, peak_bytes=1),
    )
    fleet.wait_rollout(fleet.rollout(fleet.publish(v1), canary=1), "done")
    huge = EngineMemory(source="measured", resident_bytes=HUGE, peak_bytes=HUGE)
    v2 = make_bundle(tmp_path / "v2", version="2.0.0", memory=huge)
    second = fleet.rollout(fleet.publish(v2), canary=1)

    def refused() -> ReportedSlot | None:
        slot = fleet.reported["gate-1"][-1].slots["gate-detector"]
        return slot if slot.state.value == "failed" else None

    slot: ReportedSlot = wait_until(refused, "the device refuses it")
    assert slot.error is not None
    assert (slot.error.code, slot.error.retryable) == ("memory", True)
    assert "cpu/float needs 8388608 MiB beside what runs" in slot.error.detail
    assert "MiB are kept in reserve" in slot.error.detail
    assert slot.active == Bundle(v1).digest
    assert not {"warming", "activating"} & set(
        fleet.history("gate-1")[fleet.history("gate-1").index("committed") :]
    )
    member = wait_until(
        lambda: (m := fleet.client.rollout(second)["members"]["gate-1"])["outcome"] == "retrying" and m,
        "the controller asks again later",
    )
    assert "needs 8388608 MiB" in member["detail"]
    wait_until(lambda: fleet.client.devices()[0]["online"], "the device is there")
    assert fleet.stop_agent("gate-1") == 0
