"""The whole line with a real broker and real processes: publish → broadcast → activate → commit, and what
is bad is taken back."""

from __future__ import annotations

from pathlib import Path

from support.bundle import make_bundle
from support.fleet import Fleet, wait_until

from edgectl.core.bundle import Bundle


def test_two_devices_get_a_release_with_one_broadcast_and_a_bad_one_is_taken_back(
    fleet: Fleet, tmp_path: Path
) -> None:
    client = fleet.start_controller()
    v1 = make_bundle(tmp_path / "v1", version="1.0.0", size=2_000_000)
    release = fleet.publish(v1)
    assert release == "gate-detector@1.0.0"
    for name in ("gate-1", "gate-2"):
        fleet.enroll(name)
        fleet.start_agent(name)
    wait_until(lambda: sum(d["online"] for d in client.devices()) == 2, "both devices are online")

    first = fleet.rollout(release, canary=2)
    done = fleet.wait_rollout(first, "done")
    assert {m["outcome"] for m in done["members"].values()} == {"committed"}
    sent = client.transfer()["bytes"]
    size = sum(p.stat().st_size for p in (v1 / "blobs" / "sha256").iterdir())
    print(f"two devices, {size} bytes, seeder sent {sent} ({sent / size:.2f}x)")
    assert sent < 1.3 * size, "one broadcast serves both"
    for name in ("gate-1", "gate-2"):
        assert fleet.history(name)[-1] == "committed"
        assert fleet.reported[name][-1].slots["gate-detector"].active == Bundle(v1).digest
    wait_until(
        lambda: len(client.rows()) == 2 and all(r["p95_ms"] for r in client.rows()),
        "latency reaches the controller",
    )

    latency = client.latency()
    assert [(x["slot"], x["digest"]) for x in latency] == [("gate-detector", Bundle(v1).digest)]
    assert 4.9 < latency[0]["p50_ms"] < 5.3

    v2 = make_bundle(tmp_path / "v2", version="2.0.0", latency_ms=50.0)
    second = fleet.rollout(fleet.publish(v2), canary=1)
    stopped = fleet.wait_rollout(second, "stopped")
    print(stopped["reason"])
    # The canary's own probation and the gate over its telemetry see the same latency; which one is first is
    # the machine's business.
    assert "latency" in stopped["reason"]
    touched = [n for n, m in stopped["members"].items() if m.get("admitted_s")]
    assert len(touched) == 1, "only the canary ever saw the bad release"
    assert "probation" in fleet.history(touched[0])
    for name in ("gate-1", "gate-2"):
        wait_until(lambda n=name: fleet.state_of(n) == "committed", f"{name} is back")  # type: ignore[misc]
        assert fleet.reported[name][-1].slots["gate-detector"].active == Bundle(v1).digest
    for name in ("gate-1", "gate-2"):
        assert fleet.stop_agent(name) == 0
        wait_until(lambda n=name: fleet.conns[n][-1].clean, f"{name} says good-bye")  # type: ignore[misc]
